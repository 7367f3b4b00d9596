// SPDX-License-Identifier: Apache-2.0
// That the device tests lean on is as unfriendly as it says.
#include "gpu/testing/late_device.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "gtest/gtest.h"

namespace devmem {
namespace {

constexpr Duration kPatience = std::chrono::seconds(20);

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string Text(DeviceMemory& memory, uint64_t offset, uint64_t bytes) {
  const auto span = LateDevice::Look(memory, offset, bytes);
  return {reinterpret_cast<const char*>(span.data()), span.size()};
}

TEST(LateDevice, MemoryHidesAndStagingDoesNot) {
  LateDevice device;
  const auto memory = *device.Allocate(4096, {.name = "hidden"});
  EXPECT_FALSE(memory->HostSpan(0, 1).has_value());
  EXPECT_NE(memory->address(), nullptr);
  EXPECT_TRUE((*device.AllocateStaging(4096, "staging"))->HostSpan(0, 4096).has_value());
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  EXPECT_EQ(::write(pipe[1], memory->address(), 1), -1);  // the kernel finds out without harm
  EXPECT_EQ(errno, EFAULT);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(LateDevice, WhatIsReadTooEarlyIsPoison) {
  LateDevice device;
  const auto memory = *device.Allocate(4096, {.name = "hidden"});
  device.Hold(LateDevice::Holds::kAll);
  const Event poked = *device.Poke({memory.get(), 1, 5}, Bytes("hello"));
  EXPECT_FALSE(poked.Done());
  EXPECT_EQ(poked.Wait(Clock::now()).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Text(*memory, 0, 7), std::string("\0\xDB\xDB\xDB\xDB\xDB\0", 7));
  device.Hold(LateDevice::Holds::kNothing);
  ASSERT_TRUE(poked.Wait(Clock::now() + kPatience).ok());
  EXPECT_EQ(Text(*memory, 1, 5), "hello");
  std::string back(5, ' ');
  device.Hold(LateDevice::Holds::kAll);
  const Event peeked = *device.Peek(std::as_writable_bytes(std::span(back)), {memory.get(), 1, 5});
  EXPECT_EQ(back, "\xDB\xDB\xDB\xDB\xDB");
  device.Hold(LateDevice::Holds::kNothing);
  ASSERT_TRUE(peeked.Wait(Clock::now() + kPatience).ok());
  EXPECT_EQ(back, "hello");
}

TEST(LateDevice, NothingOrdersWhatNoEventOrders) {
  bool swapped = false;
  for (unsigned seed = 1; seed < 50 && !swapped; ++seed) {
    LateDevice device(seed);
    const auto memory = *device.Allocate(4096, {.name = "hidden"});
    device.Hold(LateDevice::Holds::kAll);
    const Event first = *device.Poke({memory.get(), 0, 1}, Bytes("a"));
    const Event second = *device.Poke({memory.get(), 0, 1}, Bytes("b"));
    device.Hold(LateDevice::Holds::kNothing);
    ASSERT_TRUE(first.Wait(Clock::now() + kPatience).ok());
    ASSERT_TRUE(second.Wait(Clock::now() + kPatience).ok());
    swapped = Text(*memory, 0, 1) == "a";
  }
  EXPECT_TRUE(swapped);
}

TEST(LateDevice, HandlesAreOfItsOwnKind) {
  LateDevice daemon, trainer;
  const auto memory = *daemon.Allocate(4096, {.name = "slab", .exportable = true});
  std::ranges::copy(Bytes("shared"), LateDevice::Look(*memory, 0, 6).begin());
  auto handle = memory->ExportHandle();
  ASSERT_TRUE(handle.ok());
  EXPECT_EQ(handle->kind, ExportedHandle::Kind::kCudaVmm);
  EXPECT_EQ(handle->device_uuid, "GPU-late");
  const auto imported = trainer.Import(*std::move(handle), "slab");
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(Text(**imported, 0, 6), "shared");
}

TEST(LateDevice, FailuresAndStreams) {
  LateDevice device;
  const auto memory = *device.Allocate(4096, {.name = "hidden"});
  device.FailWith(absl::InternalError("Xid 79"));
  EXPECT_EQ((*device.Poke({memory.get(), 0, 1}, Bytes("a"))).Wait(Clock::now() + kPatience).message(), "Xid 79");
  device.FailWith(absl::OkStatus());
  int stream = 0;
  const Event after = *device.After(&stream);
  EXPECT_FALSE(after.Done());
  device.FinishStream(&stream);
  EXPECT_TRUE(after.Done());
  EXPECT_TRUE((*device.After(&stream)).Done());
}

}  // namespace
}  // namespace devmem
