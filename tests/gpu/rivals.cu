// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/rivals.h"

#include <cub/device/device_memcpy.cuh>

namespace devmem::rivals {
namespace {

struct Lists {
  std::vector<const void*> from;
  std::vector<void*> to;
  std::vector<size_t> bytes;
};
Lists& HostLists() {
  static Lists lists;
  return lists;
}

cudaError_t FillHost(const std::vector<Run>& runs) {
  Lists& lists = HostLists();
  lists = {};
  for (const Run& run : runs) {
    lists.from.push_back(reinterpret_cast<const void*>(run.source));
    lists.to.push_back(reinterpret_cast<void*>(run.destination));
    lists.bytes.push_back(run.bytes);
  }
  return cudaSuccess;
}

cudaError_t Batch(const std::vector<Run>&, cudaStream_t stream) {
  Lists& lists = HostLists();
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  size_t index = 0;
  return cudaMemcpyBatchAsync(lists.to.data(), lists.from.data(), lists.bytes.data(), lists.bytes.size(), &attributes, &index, 1,
                              stream);
}

cudaError_t OneByOne(const std::vector<Run>& runs, cudaStream_t stream) {
  for (const Run& run : runs) {
    const cudaError_t error = cudaMemcpyAsync(reinterpret_cast<void*>(run.destination), reinterpret_cast<const void*>(run.source),
                                              run.bytes, cudaMemcpyDeviceToDevice, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// CUB takes its lists from the device; they are there before the clock starts, which flatters it.
struct CubState {
  void** from = nullptr;
  void** to = nullptr;
  size_t* bytes = nullptr;
  void* temporary = nullptr;
  size_t temporary_bytes = 0;
  size_t count = 0;
};
CubState& Cub() {
  static CubState state;
  return state;
}

cudaError_t SetUpCub(const std::vector<Run>& runs) {
  CubState& state = Cub();
  for (void* const old : {static_cast<void*>(state.from), static_cast<void*>(state.to), static_cast<void*>(state.bytes),
                          state.temporary}) {
    (void)cudaFree(old);
  }
  state = {.count = runs.size()};
  (void)FillHost(runs);
  const Lists& lists = HostLists();
  const size_t pointers = runs.size() * sizeof(void*);
  if (const cudaError_t error = cudaMalloc(&state.from, pointers); error != cudaSuccess) return error;
  if (const cudaError_t error = cudaMalloc(&state.to, pointers); error != cudaSuccess) return error;
  if (const cudaError_t error = cudaMalloc(&state.bytes, runs.size() * sizeof(size_t)); error != cudaSuccess) return error;
  (void)cudaMemcpy(state.from, lists.from.data(), pointers, cudaMemcpyHostToDevice);
  (void)cudaMemcpy(state.to, lists.to.data(), pointers, cudaMemcpyHostToDevice);
  (void)cudaMemcpy(state.bytes, lists.bytes.data(), runs.size() * sizeof(size_t), cudaMemcpyHostToDevice);
  (void)cudaDeviceSynchronize();
  if (const cudaError_t error = cub::DeviceMemcpy::Batched(nullptr, state.temporary_bytes, state.from, state.to, state.bytes,
                                                           static_cast<uint32_t>(state.count));
      error != cudaSuccess) {
    return error;
  }
  return cudaMalloc(&state.temporary, state.temporary_bytes);
}

cudaError_t CubCopy(const std::vector<Run>&, cudaStream_t stream) {
  CubState& state = Cub();
  return cub::DeviceMemcpy::Batched(state.temporary, state.temporary_bytes, state.from, state.to, state.bytes,
                                    static_cast<uint32_t>(state.count), stream);
}

}  // namespace

std::vector<Rival> All() {
  return {{"cudaMemcpyBatchAsync", Batch, FillHost},
          {"cudaMemcpyAsync each", OneByOne, FillHost},
          {"cub::DeviceMemcpy::Batched", CubCopy, SetUpCub}};
}

}  // namespace devmem::rivals
