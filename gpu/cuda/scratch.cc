// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/scratch.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "gpu/cuda/error.h"

namespace devmem::cuda {
namespace {

constexpr uint64_t kLeast = 64 << 10;

}  // namespace

class ScratchPool::State {
 public:
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    for (const Scratch& scratch : free_) Free(scratch);
  }

  static void Free(const Scratch& scratch) {
    (void)cudaFreeHost(scratch.host);
    (void)cudaFree(scratch.device);
  }

  bool TakeFree(uint64_t bytes, Scratch* taken) {
    std::lock_guard lock(mutex_);
    // The smallest that will do.
    const auto found = std::min_element(free_.begin(), free_.end(), [bytes](const Scratch& a, const Scratch& b) {
      const bool a_fits = a.bytes >= bytes, b_fits = b.bytes >= bytes;
      return a_fits != b_fits ? a_fits : a.bytes < b.bytes;
    });
    if (found == free_.end() || found->bytes < bytes) return false;
    *taken = *found;
    free_.erase(found);
    return true;
  }

  void GiveBack(const Scratch& scratch) {
    std::lock_guard lock(mutex_);
    free_.push_back(scratch);
  }

 private:
  std::mutex mutex_;
  std::vector<Scratch> free_;
};

ScratchPool::ScratchPool() : state_(std::make_shared<State>()) {}
ScratchPool::~ScratchPool() = default;

absl::StatusOr<std::shared_ptr<Scratch>> ScratchPool::Take(uint64_t bytes) {
  Scratch scratch;
  if (!state_->TakeFree(bytes, &scratch)) {
    scratch.bytes = std::max(kLeast, std::bit_ceil(bytes));
    void *host = nullptr, *device = nullptr;
    DEVMEM_CUDA_RETURN(cudaHostAlloc(&host, scratch.bytes, cudaHostAllocPortable), "pinning memory for descriptors");
    if (absl::Status status = ToStatus(cudaMalloc(&device, scratch.bytes), "allocating memory for descriptors"); !status.ok()) {
      (void)cudaFreeHost(host);
      return status;
    }
    scratch.host = static_cast<std::byte*>(host);
    scratch.device = static_cast<std::byte*>(device);
  }
  return std::shared_ptr<Scratch>(new Scratch(scratch), [state = state_](Scratch* back) {
    state->GiveBack(*back);
    delete back;
  });
}

}  // namespace devmem::cuda
