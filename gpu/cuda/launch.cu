// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/launch.h"

#include <algorithm>
#include <cstring>

#include "gpu/kernels/cast_kernels.h"
#include "gpu/kernels/checksum_tables.h"
#include "gpu/kernels/gather.h"
#include "gpu/kernels/gather_checksum.h"

namespace devmem::cuda {
namespace {

__global__ void __launch_bounds__(kBlockThreads) GatherKernel(const __grid_constant__ GatherTask task) {
  lane::GatherBody(task);
}

__global__ void __launch_bounds__(kBlockThreads) InlineGatherKernel(const __grid_constant__ InlineGatherTask task) {
  lane::InlineGatherBody(task);
}

// Five blocks a multiprocessor: left alone, ptxas spills a register or two to make room for more.
template <typename Kernel>
__global__ void __launch_bounds__(kBlockThreads, 5) CastKernel(const __grid_constant__ CastTask task) {
  __shared__ lane::CastConstants shared;
  Kernel::Body(task, &shared);
}

// So many blocks a multiprocessor that the tables' shared memory, not registers, is what limits them.
template <typename Crc>
__global__ void __launch_bounds__(kBlockThreads, 6) ChecksumKernel(const __grid_constant__ ChecksumTask task) {
  extern __shared__ uint64_t dynamic[];
  lane::ChecksumBody<Crc>(task, reinterpret_cast<lane::ChecksumTables<Crc>*>(dynamic));
}

template <typename Crc>
__global__ void __launch_bounds__(kBlockThreads) SumsKernel(const __grid_constant__ SumsTask task) {
  lane::SumsBody<Crc>(task);
}

__global__ void NothingKernel() {}

uint32_t BlocksFor(uint64_t warps) { return static_cast<uint32_t>((warps + kBlockWarps - 1) / kBlockWarps); }

template <typename Crc>
constexpr size_t kTableBytes = sizeof(lane::ChecksumTables<Crc>);

template <typename Crc>
std::vector<uint8_t> Tables() {
  const auto tables = MakeChecksumTables<Crc>();
  std::vector<uint8_t> bytes(kTableBytes<Crc>);
  std::memcpy(bytes.data(), tables.get(), bytes.size());
  return bytes;
}

template <typename F>
cudaError_t Describe(const char* name, F* kernel, size_t dynamic, std::vector<KernelFacts>* facts) {
  cudaFuncAttributes attributes;
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel); error != cudaSuccess) return error;
  int blocks = 0;
  if (const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kBlockThreads, dynamic);
      error != cudaSuccess) {
    return error;
  }
  facts->push_back({name, attributes.numRegs, attributes.localSizeBytes, attributes.sharedSizeBytes + dynamic, blocks});
  return cudaSuccess;
}

}  // namespace

cudaError_t PrepareKernels() {
  // More shared memory than a block gets unasked.
  if (const cudaError_t error = cudaFuncSetAttribute(ChecksumKernel<Crc32c>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(kTableBytes<Crc32c>));
      error != cudaSuccess) {
    return error;
  }
  return cudaFuncSetAttribute(ChecksumKernel<Crc64Nvme>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(kTableBytes<Crc64Nvme>));
}

cudaError_t LaunchGather(const GatherTask& task, cudaStream_t stream) {
  GatherKernel<<<BlocksFor(task.count), kBlockThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

cudaError_t LaunchGather(const InlineGatherTask& task, cudaStream_t stream) {
  InlineGatherKernel<<<BlocksFor(task.count), kBlockThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

cudaError_t LaunchCast(const CastPath& path, const CastTask& task, cudaStream_t stream) {
  return WithCastKernel(path, task, [&](auto kernel) {
    CastKernel<decltype(kernel)><<<BlocksFor(task.count), kBlockThreads, 0, stream>>>(task);
    return cudaGetLastError();
  });
}

cudaError_t LaunchChecksum(CrcKind kind, const ChecksumTask& task, uint32_t blocks, cudaStream_t stream) {
  blocks = std::min(blocks, BlocksFor(task.count));
  if (kind == CrcKind::kCrc32c) {
    ChecksumKernel<Crc32c><<<blocks, kBlockThreads, kTableBytes<Crc32c>, stream>>>(task);
  } else {
    ChecksumKernel<Crc64Nvme><<<blocks, kBlockThreads, kTableBytes<Crc64Nvme>, stream>>>(task);
  }
  return cudaGetLastError();
}

cudaError_t LaunchSums(CrcKind kind, const SumsTask& task, cudaStream_t stream) {
  const auto blocks = static_cast<uint32_t>((task.run_count + kBlockThreads - 1) / kBlockThreads);
  if (kind == CrcKind::kCrc32c) {
    SumsKernel<Crc32c><<<blocks, kBlockThreads, 0, stream>>>(task);
  } else {
    SumsKernel<Crc64Nvme><<<blocks, kBlockThreads, 0, stream>>>(task);
  }
  return cudaGetLastError();
}

cudaError_t ChecksumBlocks(CrcKind kind, int* blocks) {
  return kind == CrcKind::kCrc32c ? cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, ChecksumKernel<Crc32c>, kBlockThreads,
                                                                                  kTableBytes<Crc32c>)
                                  : cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, ChecksumKernel<Crc64Nvme>,
                                                                                  kBlockThreads, kTableBytes<Crc64Nvme>);
}

std::vector<uint8_t> TablesOf(CrcKind kind) { return kind == CrcKind::kCrc32c ? Tables<Crc32c>() : Tables<Crc64Nvme>(); }

cudaError_t LaunchNothing(cudaStream_t stream) {
  NothingKernel<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}

cudaError_t DescribeKernels(std::vector<KernelFacts>* facts) {
  struct {
    cudaError_t first = cudaSuccess;
    void operator()(cudaError_t error) {
      if (first == cudaSuccess) first = error;
    }
  } check;
  check(Describe("gather", GatherKernel, 0, facts));
  check(Describe("gather, in the launch", InlineGatherKernel, 0, facts));
  check(Describe("cast u8 to bf16, float", CastKernel<CastRows<lane::kU8, lane::kBF16, true>>, 0, facts));
  check(Describe("cast u8 to bf16, double", CastKernel<CastRows<lane::kU8, lane::kBF16, false>>, 0, facts));
  check(Describe("planes of 3 u8 to bf16, float", CastKernel<CastPlanes<3, lane::kBF16, true>>, 0, facts));
  check(Describe("cast f32 to bf16", CastKernel<CastRows<lane::kF32, lane::kBF16, false>>, 0, facts));
  check(Describe("cast, any", CastKernel<CastAny>, 0, facts));
  check(Describe("gather and crc32c", ChecksumKernel<Crc32c>, kTableBytes<Crc32c>, facts));
  check(Describe("gather and crc64nvme", ChecksumKernel<Crc64Nvme>, kTableBytes<Crc64Nvme>, facts));
  return check.first;
}

}  // namespace devmem::cuda
