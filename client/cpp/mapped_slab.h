// SPDX-License-Identifier: Apache-2.0
// MappedSlab: a slab of the daemon's, imported by this process's device. Checked before it is trusted: of a kind and version
// this client knows, on the same device, as long as announced; and, of host memory, sealed, so that no access to it can raise
// SIGBUS.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto slab, MappedSlab::Create(announced, handle, std::move(fd), device));
//   std::byte* tensor = slab.memory().address() + tensor.offset();
//
// Owns the mapping. Threads: read-only.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "devmem_loader/v1/handle_socket.pb.h"
#include "devmem_loader/v1/loader.pb.h"
#include "gpu/device.h"

namespace devmem {

class MappedSlab {
 public:
  // kFailedPrecondition for a slab that is not what this client, or this device, can map.
  [[nodiscard]] static absl::StatusOr<MappedSlab> Create(const devmem_loader::v1::Slab& announced,
                                                         const devmem_loader::v1::SlabHandle& handle, UniqueFd fd,
                                                         Device& device);

  [[nodiscard]] uint32_t id() const { return id_; }
  [[nodiscard]] uint64_t bytes() const { return memory_->bytes(); }
  [[nodiscard]] DeviceMemory& memory() const { return *memory_; }

 private:
  MappedSlab(uint32_t id, std::shared_ptr<DeviceMemory> memory) : id_(id), memory_(std::move(memory)) {}

  uint32_t id_;
  std::shared_ptr<DeviceMemory> memory_;
};

}  // namespace devmem
