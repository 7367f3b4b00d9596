// SPDX-License-Identifier: Apache-2.0
// gpu/kernels/lane.h for the CPU: the same words, by gpu/simt/simt.h. Included from there only.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "gpu/cast.h"
#include "gpu/kernels/tasks.h"
#include "gpu/simt/simt.h"

#define DEVMEM_LANE inline

namespace devmem::lane {

struct alignas(16) Word16 {
  uint32_t x[4];
};

inline uint32_t ThreadIndex() { return simt::Thread(); }
inline uint32_t LaneIndex() { return simt::Thread() % kWarp; }
inline uint32_t BlockIndex() { return simt::Block(); }
inline uint32_t BlockWarpIndex() { return simt::Thread() / kWarp; }
inline uint32_t GridBlocks() { return simt::Blocks(); }

inline uint64_t Shuffle(uint64_t value, uint32_t lane) { return simt::Exchange(value, lane); }
inline uint32_t Shuffle(uint32_t value, uint32_t lane) { return static_cast<uint32_t>(simt::Exchange(value, lane)); }
inline uint64_t XorShuffle(uint64_t value, uint32_t mask) { return simt::Exchange(value, LaneIndex() ^ mask); }
inline uint32_t XorShuffle(uint32_t value, uint32_t mask) {
  return static_cast<uint32_t>(simt::Exchange(value, LaneIndex() ^ mask));
}
inline uint32_t Ballot(bool value) { return simt::Vote(value); }
inline void BlockBarrier() { simt::Barrier(); }
inline uint32_t LowestBit(uint32_t mask) { return static_cast<uint32_t>(std::countr_zero(mask)); }

template <typename T>
T LoadAligned(uint64_t address) {
  if (address % sizeof(T) != 0) simt::Fault("an unaligned load", address);
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof(T));
  return value;
}
template <typename T>
void StoreAligned(uint64_t address, const T& value) {
  if (address % sizeof(T) != 0) simt::Fault("an unaligned store", address);
  std::memcpy(reinterpret_cast<void*>(address), &value, sizeof(T));
}
inline Word16 Load16(uint64_t address) { return LoadAligned<Word16>(address); }
inline uint64_t Load8(uint64_t address) { return LoadAligned<uint64_t>(address); }
inline uint32_t Load4(uint64_t address) { return LoadAligned<uint32_t>(address); }
inline uint16_t Load2(uint64_t address) { return LoadAligned<uint16_t>(address); }
inline uint8_t Load1(uint64_t address) { return LoadAligned<uint8_t>(address); }
inline void Store16(uint64_t address, const Word16& word) { StoreAligned(address, word); }
inline void Store8(uint64_t address, uint64_t value) { StoreAligned(address, value); }
inline void Store4(uint64_t address, uint32_t value) { StoreAligned(address, value); }
inline void Store2(uint64_t address, uint16_t value) { StoreAligned(address, value); }
inline void Store1(uint64_t address, uint8_t value) { StoreAligned(address, value); }

inline void AtomicXor(uint64_t* pointer, uint64_t value) { *pointer ^= value; }  // lanes run one at a time

inline uint32_t FunnelRight(uint32_t low, uint32_t high, uint32_t bits) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (bits & 31));
}

// The CPU contracts nothing it is not told to (no -mfma, no -ffast-math).
inline double Multiply(double a, double b) { return a * b; }
inline double Add(double a, double b) { return a + b; }
inline float Multiply(float a, float b) { return a * b; }
inline float Add(float a, float b) { return a + b; }
inline float Nearest(double value) { return static_cast<float>(value); }
inline float TowardsZero(double value) {
  const float nearest = static_cast<float>(value);
  if (std::fabs(static_cast<double>(nearest)) <= std::fabs(value) || std::isnan(value)) return nearest;
  return std::nextafterf(nearest, 0);
}
inline uint16_t HalfOf(float value) { return DoubleToHalf(value); }
inline uint16_t BFloat16Of(float value) { return DoubleToBFloat16(value); }
inline float OfHalf(uint16_t bits) { return HalfToFloat(bits); }
inline uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }
inline float FloatOf(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint64_t BitsOf(double value) { return std::bit_cast<uint64_t>(value); }
inline double DoubleOf(uint64_t bits) { return std::bit_cast<double>(bits); }

}  // namespace devmem::lane
