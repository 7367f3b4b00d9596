// SPDX-License-Identifier: Apache-2.0
// Memory of a GPU, and host memory pinned for it.
//
//   VMM memory   cuMemCreate, mapped at an address of its own: can go to another process (by file descriptor) and to a NIC
//   (dma-buf).
//                Whole granules of 2 MiB.
//   plain        cudaMalloc, for what stays here.
//   pinned       cudaHostAlloc: both the CPU and the GPU reach it by its one address.
//
// Threads: as in gpu/device.h. Memory outlives the Device that made it, and must not outlive the process's use of CUDA.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "gpu/cuda/facts.h"
#include "gpu/device.h"

namespace devmem::cuda {

// What the CUDA device can work on.
class Memory : public DeviceMemory {
 public:
  explicit Memory(int ordinal) : ordinal_(ordinal) {}
  [[nodiscard]] int ordinal() const { return ordinal_; }

 private:
  const int ordinal_;
};

// Where memory that was pinned by us lies: what the GPU can copy from and to by itself. Thread-safe.
class PinnedRanges {
 public:
  void Add(const std::byte* begin, uint64_t bytes);
  void Remove(const std::byte* begin);
  [[nodiscard]] bool Hold(std::span<const std::byte> range) const;

 private:
  mutable std::mutex mutex_;
  std::map<const std::byte*, uint64_t> ranges_;
};

// A kernel reads and writes whole words of 16 bytes, of which at least one is in the range it was given: plain memory is
// allocated in multiples of this, whatever bytes() says, and is to be cleared as far.
inline constexpr uint64_t kPlainUnit = 256;
[[nodiscard]] constexpr uint64_t WholeUnits(uint64_t bytes) { return (bytes + kPlainUnit - 1) / kPlainUnit * kPlainUnit; }

// Not zeroed. kResourceExhausted with what is free.
[[nodiscard]] absl::StatusOr<std::shared_ptr<Memory>> AllocateVmm(const Facts& facts, uint64_t bytes,
                                                                  const AllocateOptions& options);
[[nodiscard]] absl::StatusOr<std::shared_ptr<Memory>> AllocatePlain(const Facts& facts, uint64_t bytes, std::string_view name);
[[nodiscard]] absl::StatusOr<std::shared_ptr<Memory>> AllocatePinned(int ordinal, uint64_t bytes, std::string_view name,
                                                                     std::shared_ptr<PinnedRanges> ranges);
// What another process exported. kInvalidArgument if it is not of this GPU, or smaller than it says.
[[nodiscard]] absl::StatusOr<std::shared_ptr<Memory>> ImportVmm(const Facts& facts, ExportedHandle handle,
                                                                std::string_view name);

}  // namespace devmem::cuda
