// SPDX-License-Identifier: Apache-2.0
// MappedSlab: a slab of the daemon's, mapped here. Checked before it is trusted: of a kind and version this client
// knows, as long as announced, and sealed against shrinking, so that no access to it can raise SIGBUS.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto slab, MappedSlab::Create(announced, handle, std::move(fd)));
//   DEVMEM_RETURN_IF_ERROR(slab.Map());     // at first use
//   std::byte* tensor = slab.data() + tensor.offset();
//
// Owns the mapping. Threads: Map from one; after that it is read-only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "devmem_loader/v1/handle_socket.pb.h"
#include "devmem_loader/v1/loader.pb.h"

namespace devmem {

class MappedSlab {
 public:
  static absl::StatusOr<MappedSlab> Create(const devmem_loader::v1::Slab& announced,
                                           const devmem_loader::v1::SlabHandle& handle, UniqueFd fd);
  MappedSlab(MappedSlab&& other) noexcept;
  MappedSlab& operator=(MappedSlab&&) = delete;
  ~MappedSlab();

  // Idempotent.
  [[nodiscard]] absl::Status Map();
  [[nodiscard]] uint32_t id() const { return id_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::byte* data() const { return data_; }  // null before Map

 private:
  MappedSlab() = default;

  uint32_t id_ = 0;
  uint64_t bytes_ = 0;
  UniqueFd fd_;  // until it is mapped
  std::byte* data_ = nullptr;
};

}  // namespace devmem
