// SPDX-License-Identifier: Apache-2.0
// What the daemon could get wrong on the wire is in client_test; here is what only a descriptor can be wrong about.
#include "client/cpp/mapped_slab.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace devmem {
namespace {

constexpr uint64_t kBytes = 8192;

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
  return MappedSlab::Create(announced, handle, std::move(fd));
}

TEST(MappedSlabTest, SharesTheMemory) {
  UniqueFd fd = Memory(kBytes, F_SEAL_SHRINK);
  UniqueFd ours(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  auto slab = Create(std::move(fd));
  ASSERT_TRUE(slab.ok()) << slab.status();
  EXPECT_EQ(slab->data(), nullptr);
  ASSERT_TRUE(slab->Map().ok());
  std::byte* data = slab->data();
  ASSERT_TRUE(slab->Map().ok());
  EXPECT_EQ(slab->data(), data);
  ASSERT_EQ(::pwrite(ours.get(), "abc", 3, 5000), 3);
  EXPECT_EQ(std::memcmp(data + 5000, "abc", 3), 0);
  MappedSlab moved = std::move(*slab);
  EXPECT_EQ(std::memcmp(moved.data() + 5000, "abc", 3), 0);
}

TEST(MappedSlabTest, RefusesWhatCouldRaiseSigbus) {
  EXPECT_EQ(Create(UniqueFd()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create(Memory(kBytes, F_SEAL_GROW)).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create(Memory(kBytes / 2, F_SEAL_SHRINK)).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create(Memory(kBytes * 2, F_SEAL_SHRINK)).status().code(), absl::StatusCode::kFailedPrecondition);
  UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(Create(std::move(file)).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace devmem
