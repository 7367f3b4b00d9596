// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/mapped_slab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

constexpr char kKind[] = "memfd";
constexpr uint32_t kVersion = 1;
constexpr char kHostDevice[] = "cpu";

absl::Status Mismatch(uint32_t slab, const std::string& what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "cannot map slab " + std::to_string(slab) + ": " + what,
                   {.cause = "handle mismatch", .action = "use a client and a daemon of the same release"});
}

}  // namespace

absl::StatusOr<MappedSlab> MappedSlab::Create(const devmem_loader::v1::Slab& announced,
                                              const devmem_loader::v1::SlabHandle& handle, UniqueFd fd) {
  if (handle.kind() != kKind)
    return Mismatch(announced.id(), "kind '" + handle.kind() + "', this client knows '" + kKind + "'");
  if (handle.version() != kVersion) {
    return Mismatch(announced.id(),
                    "version " + std::to_string(handle.version()) + ", this client knows " + std::to_string(kVersion));
  }
  if (handle.device_uuid() != kHostDevice) {
    return Mismatch(announced.id(), "it lies on device '" + handle.device_uuid() + "', this client maps host memory ('cpu')");
  }
  if (handle.bytes() != announced.bytes() || handle.kind() != announced.kind() || handle.version() != announced.version() ||
      handle.device_uuid() != announced.device_uuid()) {
    return Mismatch(announced.id(), "the handle is not the one announced");
  }
  if (!fd.valid()) return Mismatch(announced.id(), "it came without a file descriptor");
  struct stat file {};
  if (::fstat(fd.get(), &file) != 0) return ErrnoError(errno, "fstat of slab " + std::to_string(announced.id()));
  if (announced.bytes() == 0 || static_cast<uint64_t>(file.st_size) != announced.bytes()) {
    return Mismatch(announced.id(),
                    "it has " + std::to_string(file.st_size) + " bytes, announced were " + std::to_string(announced.bytes()));
  }
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return Mismatch(announced.id(), "it is not sealed against shrinking");
  MappedSlab slab;
  slab.id_ = announced.id();
  slab.bytes_ = announced.bytes();
  slab.fd_ = std::move(fd);
  return slab;
}

MappedSlab::MappedSlab(MappedSlab&& other) noexcept
    : id_(other.id_), bytes_(other.bytes_), fd_(std::move(other.fd_)), data_(std::exchange(other.data_, nullptr)) {}

MappedSlab::~MappedSlab() {
  if (data_ != nullptr) (void)::munmap(data_, bytes_);
}

absl::Status MappedSlab::Map() {
  if (data_ != nullptr) return absl::OkStatus();
  void* address = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (address == MAP_FAILED) {
    return ErrnoError(errno, "cannot map slab " + std::to_string(id_) + " of " + std::to_string(bytes_) + " bytes",
                      {.action = "raise this process's limit of address space"});
  }
  data_ = static_cast<std::byte*>(address);
  fd_.Reset();
  return absl::OkStatus();
}

}  // namespace devmem
