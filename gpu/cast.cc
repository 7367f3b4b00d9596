// SPDX-License-Identifier: Apache-2.0
#include "gpu/cast.h"

#include <cmath>
#include <cstring>
#include <type_traits>

namespace devmem {
namespace {

// An element in memory: what its bits are, and how they become a number of type Compute and back.
template <typename T>
struct Plain {
  using Bits = T;
  template <typename Compute>
  static Compute Read(T bits) {
    return static_cast<Compute>(bits);
  }
  template <typename Compute>
  static T Write(Compute value) {
    return static_cast<T>(value);
  }
};

struct Bool {
  using Bits = uint8_t;
  template <typename Compute>
  static Compute Read(uint8_t bits) {
    return static_cast<Compute>(bits != 0);
  }
};

struct Half {
  using Bits = uint16_t;
  template <typename Compute>
  static Compute Read(uint16_t bits) {
    return HalfToFloat(bits);
  }
  static uint16_t Write(double value) { return DoubleToHalf(value); }
};

struct BFloat16 {
  using Bits = uint16_t;
  template <typename Compute>
  static Compute Read(uint16_t bits) {
    return BFloat16ToFloat(bits);
  }
  static uint16_t Write(double value) { return DoubleToBFloat16(value); }
};

// memcpy of an element: any alignment, and the compiler turns it into vector loads.
template <typename From, typename To, typename Compute>
void Loop(const std::byte* __restrict source, std::byte* __restrict destination, uint64_t count, Compute scale) {
  using FromBits = typename From::Bits;
  using ToBits = typename To::Bits;
  for (uint64_t i = 0; i < count; ++i) {
    FromBits in;
    std::memcpy(&in, source + (i * sizeof(in)), sizeof(in));
    const ToBits out = To::Write(From::template Read<Compute>(in) * scale);
    std::memcpy(destination + (i * sizeof(out)), &out, sizeof(out));
  }
}

// binary32 arithmetic gives the same bits as double arithmetic and one rounding where the product of the two
// significands (24 + 24 bits at most) is exact in a double: then both round the exact product once.
template <typename From>
constexpr bool kExactInFloat = sizeof(typename From::Bits) <= 2 || std::is_same_v<typename From::Bits, float>;

template <typename From>
void CastFrom(const CastSpec& spec, const std::byte* source, std::byte* destination) {
  switch (spec.to) {
    case DType::kF16:
      return Loop<From, Half>(source, destination, spec.count, spec.scale);
    case DType::kBF16:
      return Loop<From, BFloat16>(source, destination, spec.count, spec.scale);
    case DType::kF64:
      return Loop<From, Plain<double>>(source, destination, spec.count, spec.scale);
    default:
      break;
  }
  if constexpr (kExactInFloat<From>) {
    const auto scale = static_cast<float>(spec.scale);
    if (static_cast<double>(scale) == spec.scale) {
      return Loop<From, Plain<float>>(source, destination, spec.count, scale);
    }
  }
  Loop<From, Plain<float>>(source, destination, spec.count, spec.scale);
}

}  // namespace

bool CanCast(const CastSpec& spec) {
  if (!std::isfinite(spec.scale)) return false;
  return spec.to >= DType::kF16 || (spec.from == spec.to && spec.scale == 1.0);
}

void CastElements(const CastSpec& spec, const std::byte* source, std::byte* destination) {
  if (spec.count == 0) return;
  if (spec.from == spec.to && spec.scale == 1.0) {
    std::memcpy(destination, source, spec.count * ItemSize(spec.from));
    return;
  }
  switch (spec.from) {
    case DType::kBool:
      return CastFrom<Bool>(spec, source, destination);
    case DType::kU8:
      return CastFrom<Plain<uint8_t>>(spec, source, destination);
    case DType::kU16:
      return CastFrom<Plain<uint16_t>>(spec, source, destination);
    case DType::kU32:
      return CastFrom<Plain<uint32_t>>(spec, source, destination);
    case DType::kU64:
      return CastFrom<Plain<uint64_t>>(spec, source, destination);
    case DType::kI8:
      return CastFrom<Plain<int8_t>>(spec, source, destination);
    case DType::kI16:
      return CastFrom<Plain<int16_t>>(spec, source, destination);
    case DType::kI32:
      return CastFrom<Plain<int32_t>>(spec, source, destination);
    case DType::kI64:
      return CastFrom<Plain<int64_t>>(spec, source, destination);
    case DType::kF16:
      return CastFrom<Half>(spec, source, destination);
    case DType::kBF16:
      return CastFrom<BFloat16>(spec, source, destination);
    case DType::kF32:
      return CastFrom<Plain<float>>(spec, source, destination);
    case DType::kF64:
      return CastFrom<Plain<double>>(spec, source, destination);
  }
}

}  // namespace devmem
