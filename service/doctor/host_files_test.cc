// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/host_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "service/doctor/testing/fake_host.h"

namespace devmem::doctor {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(HostFiles, ReadsWithoutTheEndOfTheLine) {
  FakeHost host;
  host.Write("proc/a", "one two \n");
  host.Write("proc/empty", "");
  EXPECT_EQ(host.files().Read("proc/a"), "one two");
  EXPECT_EQ(host.files().Read("proc/empty"), "");
  EXPECT_EQ(host.files().Read("proc/none"), std::nullopt);
  EXPECT_EQ(host.files().Read("proc"), std::nullopt);
}

TEST(HostFiles, ReadsNoMoreThanItsPart) {
  FakeHost host;
  host.Write("proc/long", std::string(100 << 10, 'x'));
  EXPECT_EQ(host.files().Read("proc/long")->size(), 64U << 10);
}

TEST(HostFiles, NumbersAreWhole) {
  FakeHost host;
  const struct {
    const char* text;
    std::optional<uint64_t> number;
  } kRows[] = {{"0\n", 0},           {"4194304\n", 4194304},    {"0x10de\n", 0x10de}, {"-1\n", std::nullopt},
               {"\n", std::nullopt}, {"12 34\n", std::nullopt}, {"0x", std::nullopt}, {"99999999999999999999", std::nullopt}};
  for (const auto& row : kRows) {
    host.Write("n", row.text);
    EXPECT_EQ(host.files().Number("n"), row.number) << row.text;
  }
}

TEST(HostFiles, FoldersAndLinks) {
  FakeHost host;
  host.Write("sys/devices/pci0000:00/0000:00:01.0/vendor", "0x8086");
  host.Link("sys/bus/pci/devices/0000:00:01.0", "sys/devices/pci0000:00/0000:00:01.0");
  EXPECT_THAT(host.files().List("sys/bus/pci/devices"), ElementsAre("0000:00:01.0"));
  EXPECT_THAT(host.files().List("sys/none"), IsEmpty());
  EXPECT_EQ(host.files().Resolve("sys/bus/pci/devices/0000:00:01.0"), "sys/devices/pci0000:00/0000:00:01.0");
  EXPECT_EQ(host.files().Resolve("sys/none"), "");
  EXPECT_TRUE(host.files().Exists("sys/bus/pci/devices/0000:00:01.0/vendor"));
  EXPECT_FALSE(host.files().Exists("sys/bus/pci/devices/0000:00:02.0"));
}

}  // namespace
}  // namespace devmem::doctor
