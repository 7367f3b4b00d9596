// SPDX-License-Identifier: Apache-2.0
#include "gpu/make_device.h"

#include "base/error.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(MakeDevice, TheCpuIsAlwaysThere) {
  const auto device = MakeDevice("cpu");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->name(), "cpu");
  EXPECT_EQ((*device)->uuid(), "cpu");
}

TEST(MakeDevice, WhatIsNoDeviceIsNamed) {
  for (const char* const name : {"", "gpu", "CPU", "cpu:0"}) {
    const absl::Status status = MakeDevice(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << ": " << status;
    EXPECT_EQ(GetErrorInfo(status).object, name);
    EXPECT_FALSE(GetErrorInfo(status).action.empty());
  }
}

}  // namespace
}  // namespace devmem
