// SPDX-License-Identifier: Apache-2.0
// What a cast means, for one element and for many; a GPU kernel computes the same from the same functions.
//
//   y = round_to(TO, double(x) * scale)
//
// x becomes a double (only u64 and i64 beyond 2^53 round there), the product is a double, and one rounding to nearest,
// ties to even, makes the result. Overflow gives infinity, underflow denormals; NaN stays NaN with its sign.
//
//   CastElements({.from = DType::kU8, .to = DType::kF16, .scale = 1.0 / 255, .count = n}, source, destination);
//
// Pure functions; thread-safe.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "gpu/device.h"
#include "gpu/dtype.h"

namespace devmem {

// IEEE binary16 to binary32; exact.
constexpr float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  // Denormals: mantissa * 2^-24 is exact in binary32.
  const uint32_t denormal = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(mantissa)) * 0x1p-24F);
  const uint32_t normal = ((exponent + (127 - 15)) << 23) | (mantissa << 13);
  const uint32_t special = 0x7f800000U | (mantissa << 13);  // infinity, NaN
  const uint32_t magnitude = exponent == 0 ? denormal : exponent == 31 ? special : normal;
  return std::bit_cast<float>(sign | magnitude);
}

constexpr float BFloat16ToFloat(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Rounds to a 16-bit float with kMantissa stored mantissa bits and an exponent of bias kBias.
template <int kMantissa, int kBias>
constexpr uint16_t RoundTo16(double value) {
  constexpr int kDrop = 52 - kMantissa;                                           // mantissa bits that go
  constexpr uint64_t kInfinity = 0x7ff0000000000000U;                             // of binary64
  constexpr uint64_t kMinNormal = static_cast<uint64_t>(1023 - kBias + 1) << 52;  // 2^(1 - bias), smallest normal result
  constexpr uint64_t kTooLarge = static_cast<uint64_t>(1023 + kBias + 1) << 52;   // 2^(bias + 1): infinity from here on
  constexpr uint64_t kInfinity16 = ((static_cast<uint64_t>(2) * kBias) + 1) << kMantissa;
  // Adding 2^(52 + 1 - bias - mantissa) to a smaller number leaves it in the low bits in units of the smallest
  // denormal, rounded to nearest even by the adder.
  constexpr uint64_t kMagic = static_cast<uint64_t>(1023 + 52 + 1 - kBias - kMantissa) << 52;

  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const uint64_t magnitude = bits & ~(uint64_t{1} << 63);
  const uint64_t denormal =
      std::bit_cast<uint64_t>(std::bit_cast<double>(magnitude < kMinNormal ? magnitude : 0) + std::bit_cast<double>(kMagic)) -
      kMagic;
  // Half a unit less one, plus one if the result would be odd; a carry moves into the exponent, as it should.
  const uint64_t rounded = magnitude + ((uint64_t{1} << (kDrop - 1)) - 1) + ((magnitude >> kDrop) & 1);
  const uint64_t normal = (rounded - (static_cast<uint64_t>(1023 - kBias) << 52)) >> kDrop;
  const uint64_t nan = kInfinity16 | (uint64_t{1} << (kMantissa - 1)) |
                       ((magnitude >> kDrop) & ((uint64_t{1} << (kMantissa - 1)) - 1));  // quiet, with what fits of the payload
  const uint64_t result = magnitude > kInfinity    ? nan
                          : magnitude >= kTooLarge ? kInfinity16
                          : magnitude < kMinNormal ? denormal
                                                   : normal;
  return static_cast<uint16_t>(result | (bits >> 63 << 15));
}

constexpr uint16_t DoubleToHalf(double value) { return RoundTo16<10, 15>(value); }
constexpr uint16_t DoubleToBFloat16(double value) { return RoundTo16<7, 127>(value); }

// Whether `spec` is a cast there is: any type to f16, bf16, f32 or f64, or a type to itself unscaled (a copy).
[[nodiscard]] bool CanCast(const CastSpec& spec);

// Casts spec.count elements; CanCast(spec). The two regions must not overlap and may have any alignment.
void CastElements(const CastSpec& spec, const std::byte* source, std::byte* destination);

}  // namespace devmem
