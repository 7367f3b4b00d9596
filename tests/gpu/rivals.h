// SPDX-License-Identifier: Apache-2.0
// What else copies many pieces at once on a GPU; the benchmark's other columns.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "gpu/kernels/tasks.h"

namespace devmem::rivals {

struct Rival {
  std::string name;
  // Enqueues the runs' copies on the stream. The runs are the host's; `setup` was called with the same before.
  cudaError_t (*copy)(const std::vector<Run>& runs, cudaStream_t stream);
  cudaError_t (*setup)(const std::vector<Run>& runs);
};
// cudaMemcpyBatchAsync, a cudaMemcpyAsync for each run, cub::DeviceMemcpy::Batched.
std::vector<Rival> All();

}  // namespace devmem::rivals
