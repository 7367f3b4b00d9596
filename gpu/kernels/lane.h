// SPDX-License-Identifier: Apache-2.0
// What a lane of a warp can do. Kernels are written in these words alone, so that nvcc makes GPU code of them and gpu/simt/
// runs the very same source on the CPU, where a test can compare it with the reference and a sanitizer can watch it.
//
//   LaneIndex() BlockIndex() BlockWarpIndex() GridBlocks()      where this lane is
//   Shuffle(v, lane) Ballot(p) XorShuffle(v, mask)              with the other lanes of the warp; all 32 take part
//   BlockBarrier()                                              with the other warps of the block
//   Load16 Load8 Load4 Load2 Load1, Store16 ... Store1          of an address that is a multiple of the size
//   AtomicXor(pointer, value)                                   with all lanes of all blocks
//   FunnelRight(low, high, bits)                                (high:low) >> bits, low 32 bits; bits 0 to 31
//   Multiply, Add                                               of doubles, rounded each, never contracted to one rounding
#pragma once

#include <cstdint>

#include "gpu/kernels/tasks.h"

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEVMEM_LANE __device__ __forceinline__

namespace devmem::lane {

struct alignas(16) Word16 {
  uint32_t x[4];
};

DEVMEM_LANE uint32_t LaneIndex() { return threadIdx.x % kWarp; }
DEVMEM_LANE uint32_t BlockIndex() { return blockIdx.x; }
DEVMEM_LANE uint32_t BlockWarpIndex() { return threadIdx.x / kWarp; }
DEVMEM_LANE uint32_t GridBlocks() { return gridDim.x; }
DEVMEM_LANE uint32_t ThreadIndex() { return threadIdx.x; }

DEVMEM_LANE uint32_t Shuffle(uint32_t value, uint32_t lane) { return __shfl_sync(0xffffffffU, value, static_cast<int>(lane)); }
DEVMEM_LANE uint64_t Shuffle(uint64_t value, uint32_t lane) {
  return __shfl_sync(0xffffffffU, static_cast<unsigned long long>(value), static_cast<int>(lane));
}
DEVMEM_LANE uint32_t XorShuffle(uint32_t value, uint32_t mask) {
  return __shfl_xor_sync(0xffffffffU, value, static_cast<int>(mask));
}
DEVMEM_LANE uint64_t XorShuffle(uint64_t value, uint32_t mask) {
  return __shfl_xor_sync(0xffffffffU, static_cast<unsigned long long>(value), static_cast<int>(mask));
}
DEVMEM_LANE uint32_t Ballot(bool value) { return __ballot_sync(0xffffffffU, value); }
DEVMEM_LANE void BlockBarrier() { __syncthreads(); }
DEVMEM_LANE uint32_t LowestBit(uint32_t mask) { return static_cast<uint32_t>(__ffs(static_cast<int>(mask)) - 1); }

// Everything is in global memory (or in the host's, mapped there): a load that need not find out is shorter.
template <typename T>
DEVMEM_LANE const T* Global(uint64_t address) {
  return reinterpret_cast<const T*>(address);
}
DEVMEM_LANE Word16 Load16(uint64_t address) {
  const uint4 v = __ldca(Global<uint4>(address));
  return {{v.x, v.y, v.z, v.w}};
}
DEVMEM_LANE uint64_t Load8(uint64_t address) { return __ldca(Global<unsigned long long>(address)); }
DEVMEM_LANE uint32_t Load4(uint64_t address) { return __ldca(Global<unsigned int>(address)); }
DEVMEM_LANE uint16_t Load2(uint64_t address) { return __ldca(Global<unsigned short>(address)); }
DEVMEM_LANE uint8_t Load1(uint64_t address) { return __ldca(Global<unsigned char>(address)); }
template <typename T>
DEVMEM_LANE void Store(uint64_t address, T value) {
  __stwb(reinterpret_cast<T*>(address), value);
}
DEVMEM_LANE void Store16(uint64_t address, const Word16& w) { Store(address, make_uint4(w.x[0], w.x[1], w.x[2], w.x[3])); }
DEVMEM_LANE void Store8(uint64_t address, uint64_t value) { Store<unsigned long long>(address, value); }
DEVMEM_LANE void Store4(uint64_t address, uint32_t value) { Store<unsigned int>(address, value); }
DEVMEM_LANE void Store2(uint64_t address, uint16_t value) { Store<unsigned short>(address, value); }
DEVMEM_LANE void Store1(uint64_t address, uint8_t value) { Store<unsigned char>(address, value); }

DEVMEM_LANE void AtomicXor(uint64_t* pointer, uint64_t value) {
  atomicXor(reinterpret_cast<unsigned long long*>(pointer), static_cast<unsigned long long>(value));
}

DEVMEM_LANE uint32_t FunnelRight(uint32_t low, uint32_t high, uint32_t bits) { return __funnelshift_r(low, high, bits); }

DEVMEM_LANE double Multiply(double a, double b) { return __dmul_rn(a, b); }
DEVMEM_LANE double Add(double a, double b) { return __dadd_rn(a, b); }
DEVMEM_LANE float Multiply(float a, float b) { return __fmul_rn(a, b); }
DEVMEM_LANE float Add(float a, float b) { return __fadd_rn(a, b); }
DEVMEM_LANE float TowardsZero(double value) { return __double2float_rz(value); }
DEVMEM_LANE float Nearest(double value) { return __double2float_rn(value); }
DEVMEM_LANE uint16_t HalfOf(float value) { return __half_as_ushort(__float2half_rn(value)); }
DEVMEM_LANE uint16_t BFloat16Of(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
DEVMEM_LANE float OfHalf(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
DEVMEM_LANE uint32_t BitsOf(float value) { return __float_as_uint(value); }
DEVMEM_LANE float FloatOf(uint32_t bits) { return __uint_as_float(bits); }
DEVMEM_LANE uint64_t BitsOf(double value) { return static_cast<uint64_t>(__double_as_longlong(value)); }
DEVMEM_LANE double DoubleOf(uint64_t bits) { return __longlong_as_double(static_cast<long long>(bits)); }

}  // namespace devmem::lane

#else
#include "gpu/simt/lane.h"
#endif
