// SPDX-License-Identifier: Apache-2.0
// Small pinned and device buffers for descriptors, bounced pieces and results. Taken and given back, never freed while the
// device lives: after a few batches nothing is allocated any more.
//
//   DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<Scratch> scratch, pool.Take(bytes));
//   ...use it; the last copy of the pointer gives it back...
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace devmem::cuda {

struct Scratch {
  std::byte* host = nullptr;    // pinned
  std::byte* device = nullptr;  // of the same size
  uint64_t bytes = 0;
};

class ScratchPool {
 public:
  ScratchPool();
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;
  ~ScratchPool();

  // At least `bytes` on both sides. Allocates (and so may wait for the device) where none so large is free. The pool's device
  // must be current.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<Scratch>> Take(uint64_t bytes);

 private:
  class State;
  std::shared_ptr<State> state_;
};

}  // namespace devmem::cuda
