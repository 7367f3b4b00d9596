// SPDX-License-Identifier: Apache-2.0
// Launches of the kernels in gpu/kernels/. The only interface between what nvcc compiles and everything else. Asynchronous on
// `stream`; the tasks' pointers must be good until the kernel is done. Errors are those of the launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "gpu/kernels/tasks.h"

namespace devmem::cuda {

// Once for each device, before the first launch on it.
cudaError_t PrepareKernels();

cudaError_t LaunchGather(const GatherTask& task, cudaStream_t stream);
cudaError_t LaunchGather(const InlineGatherTask& task, cudaStream_t stream);
cudaError_t LaunchCast(const CastPath& path, const CastTask& task, cudaStream_t stream);

enum class CrcKind : uint8_t { kCrc32c, kCrc64Nvme };
// `blocks`: as many as the device holds at a time, at most; each copies the tables first.
cudaError_t LaunchChecksum(CrcKind kind, const ChecksumTask& task, uint32_t blocks, cudaStream_t stream);
cudaError_t LaunchSums(CrcKind kind, const SumsTask& task, cudaStream_t stream);
// Blocks of the checksum that a multiprocessor holds.
cudaError_t ChecksumBlocks(CrcKind kind, int* blocks);

// Bytes of a CRC's tables, and the tables, to be copied to the device.
std::vector<uint8_t> TablesOf(CrcKind kind);

// What a launch costs that does nothing.
cudaError_t LaunchNothing(cudaStream_t stream);

// How a kernel was compiled for the device at hand.
struct KernelFacts {
  std::string name;
  int registers = 0;         // a thread
  uint64_t local_bytes = 0;  // a thread: spills and stack
  uint64_t shared_bytes = 0;
  int blocks_per_sm = 0;
};
cudaError_t DescribeKernels(std::vector<KernelFacts>* facts);

}  // namespace devmem::cuda
