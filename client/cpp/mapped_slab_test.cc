// SPDX-License-Identifier: Apache-2.0
// What the daemon could get wrong on the wire is in client_test; here is what only a descriptor, or its device, can be wrong
// about.
#include "client/cpp/mapped_slab.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "gpu/cpu_device.h"
#include "gpu/testing/late_device.h"

namespace devmem {
namespace {

using testing::HasSubstr;

constexpr uint64_t kBytes = 8192;
constexpr unsigned kSealed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

UniqueFd Memory(uint64_t bytes, unsigned seals) {
  UniqueFd fd(::memfd_create("slab", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

absl::StatusOr<MappedSlab> Create(UniqueFd fd) {
  devmem_loader::v1::Slab announced;
  announced.set_bytes(kBytes);
  announced.set_kind("memfd");
  announced.set_version(1);
  announced.set_device_uuid("cpu");
  devmem_loader::v1::SlabHandle handle;
  handle.set_bytes(kBytes);
  handle.set_kind("memfd");
  handle.set_version(1);
  handle.set_device_uuid("cpu");
  static const auto device = MakeCpuDevice();
  return MappedSlab::Create(announced, handle, std::move(fd), *device);
}

TEST(MappedSlabTest, SharesTheMemory) {
  UniqueFd fd = Memory(kBytes, kSealed);
  UniqueFd ours(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  auto slab = Create(std::move(fd));
  ASSERT_TRUE(slab.ok()) << slab.status();
  EXPECT_EQ(slab->bytes(), kBytes);
  const std::byte* const data = slab->memory().address();
  EXPECT_EQ(slab->memory().HostSpan(0, kBytes)->data(), data);
  ASSERT_EQ(::pwrite(ours.get(), "abc", 3, 5000), 3);
  EXPECT_EQ(std::memcmp(data + 5000, "abc", 3), 0);
  MappedSlab moved = std::move(*slab);
  EXPECT_EQ(std::memcmp(moved.memory().address() + 5000, "abc", 3), 0);
}

TEST(MappedSlabTest, MemoryOfAnotherDeviceIsImportedByThatDevice) {
  LateDevice daemons, ours;
  const auto memory = *daemons.Allocate(kBytes, {.name = "slab", .exportable = true});
  std::memcpy(LateDevice::Look(*memory, 0, 5).data(), "hello", 5);
  devmem_loader::v1::Slab announced;
  announced.set_bytes(kBytes);
  announced.set_kind("cuda-vmm");
  announced.set_version(1);
  announced.set_device_uuid("GPU-late");
  devmem_loader::v1::SlabHandle handle;
  handle.set_bytes(kBytes);
  handle.set_kind("cuda-vmm");
  handle.set_version(1);
  handle.set_device_uuid("GPU-late");
  const auto slab = MappedSlab::Create(announced, handle, std::move(memory->ExportHandle()->fd), ours);
  ASSERT_TRUE(slab.ok()) << slab.status();
  EXPECT_FALSE(slab->memory().HostSpan(0, 1).has_value());
  EXPECT_EQ(std::memcmp(LateDevice::Look(slab->memory(), 0, 5).data(), "hello", 5), 0);
  const auto cpu = MakeCpuDevice();
  const absl::Status refused = MappedSlab::Create(announced, handle, std::move(memory->ExportHandle()->fd), *cpu).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("it lies on device 'GPU-late', this client is on 'cpu' (cpu)"));
}

TEST(MappedSlabTest, RefusesWhatCouldRaiseSigbus) {
  EXPECT_EQ(Create(UniqueFd()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create(Memory(kBytes, F_SEAL_GROW)).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create(Memory(kBytes / 2, kSealed)).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create(Memory(kBytes * 2, kSealed)).status().code(), absl::StatusCode::kFailedPrecondition);
  UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(Create(std::move(file)).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace devmem
