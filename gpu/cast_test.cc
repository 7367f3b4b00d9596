// SPDX-License-Identifier: Apache-2.0
// The reference here shares nothing with the code under test: it rounds with long double, frexp and nearbyint, and
// reads the 16-bit formats from their definition (-1)^s * 2^(e - bias) * 1.m.
#include "gpu/cast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace devmem {
namespace {

constexpr std::array kAll = {DType::kBool, DType::kU8,  DType::kU16, DType::kU32,  DType::kU64, DType::kI8, DType::kI16,
                             DType::kI32,  DType::kI64, DType::kF16, DType::kBF16, DType::kF32, DType::kF64};

// A binary format: mantissa bits stored, exponent bias.
struct Format {
  int mantissa;
  int bias;
};
constexpr Format kHalf{10, 15};
constexpr Format kBFloat{7, 127};

long double Decode(uint16_t bits, Format format) {
  const int exponent = (bits & 0x7fff) >> format.mantissa;
  const int mantissa = bits & ((1 << format.mantissa) - 1);
  const long double sign = (bits & 0x8000) != 0 ? -1.0L : 1.0L;
  if (exponent == 2 * format.bias + 1) {
    return sign *
           (mantissa == 0 ? std::numeric_limits<long double>::infinity() : std::numeric_limits<long double>::quiet_NaN());
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<long double>(mantissa), 1 - format.bias - format.mantissa);
  return sign *
         std::ldexp(static_cast<long double>(mantissa + (1 << format.mantissa)), exponent - format.bias - format.mantissa);
}

// The value of `format` nearest to `value`, ties to even.
long double Round(long double value, Format format) {
  if (std::isnan(value) || std::isinf(value) || value == 0) return value;
  int exponent = 0;
  (void)std::frexp(value, &exponent);  // |value| in [2^(exponent-1), 2^exponent)
  const int unit = std::max(exponent - 1, 1 - format.bias) - format.mantissa;
  const long double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
  const long double limit = std::ldexp(1.0L, format.bias + 1);
  return std::abs(rounded) >= limit ? std::copysign(std::numeric_limits<long double>::infinity(), value) : rounded;
}

bool Same(long double a, long double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b && std::signbit(a) == std::signbit(b);
}

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

long double Decode(DType dtype, const std::byte* at) {
  switch (dtype) {
    case DType::kBool:
      return Load<uint8_t>(at) != 0 ? 1 : 0;
    case DType::kU8:
      return Load<uint8_t>(at);
    case DType::kU16:
      return Load<uint16_t>(at);
    case DType::kU32:
      return Load<uint32_t>(at);
    case DType::kU64:
      return Load<uint64_t>(at);
    case DType::kI8:
      return Load<int8_t>(at);
    case DType::kI16:
      return Load<int16_t>(at);
    case DType::kI32:
      return Load<int32_t>(at);
    case DType::kI64:
      return Load<int64_t>(at);
    case DType::kF16:
      return Decode(Load<uint16_t>(at), kHalf);
    case DType::kBF16:
      return Decode(Load<uint16_t>(at), kBFloat);
    case DType::kF32:
      return Load<float>(at);
    case DType::kF64:
      return Load<double>(at);
  }
  return 0;
}

long double RoundTo(DType dtype, long double value) {
  constexpr Format kSingle{23, 127};
  constexpr Format kDouble{52, 1023};
  return Round(value, dtype == DType::kF16    ? kHalf
                      : dtype == DType::kBF16 ? kBFloat
                      : dtype == DType::kF32  ? kSingle
                                              : kDouble);
}

TEST(CastTest, EveryHalfConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    ASSERT_TRUE(Same(value, Decode(half, kHalf))) << std::hex << bits;
    const uint16_t back = DoubleToHalf(value);
    ASSERT_EQ(back, std::isnan(value) ? (half | 0x200) : half) << std::hex << bits;
  }
}

TEST(CastTest, EveryBFloat16ConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto brain = static_cast<uint16_t>(bits);
    const float value = BFloat16ToFloat(brain);
    ASSERT_TRUE(Same(value, Decode(brain, kBFloat))) << std::hex << bits;
    const uint16_t back = DoubleToBFloat16(value);
    ASSERT_EQ(back, std::isnan(value) ? (brain | 0x40) : brain) << std::hex << bits;
  }
}

// Around every 16-bit number and every midpoint between two: exactly there, and the next double on either side.
void CheckRounding(Format format, uint16_t (*convert)(double)) {
  const uint32_t infinity = static_cast<uint32_t>(2 * format.bias + 1) << format.mantissa;
  for (uint32_t bits = 0; bits < infinity; ++bits) {
    const auto low = static_cast<double>(Decode(static_cast<uint16_t>(bits), format));
    const double high = bits + 1 == infinity ? std::ldexp(1.0, format.bias + 1)
                                             : static_cast<double>(Decode(static_cast<uint16_t>(bits + 1), format));
    for (const double base : {low, low + ((high - low) / 2)}) {
      for (const double value : {base, std::nextafter(base, 0.0), std::nextafter(base, 1e300)}) {
        for (const double sign : {1.0, -1.0}) {
          const uint16_t got = convert(sign * value);
          ASSERT_TRUE(Same(Decode(got, format), Round(sign * value, format)))
              << std::hexfloat << sign * value << " became " << std::hex << got;
        }
      }
    }
  }
}
TEST(CastTest, RoundsToHalfNearestEven) { CheckRounding(kHalf, DoubleToHalf); }
TEST(CastTest, RoundsToBFloat16NearestEven) { CheckRounding(kBFloat, DoubleToBFloat16); }

TEST(CastTest, Extremes) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(DoubleToHalf(inf), 0x7c00);
  EXPECT_EQ(DoubleToHalf(-inf), 0xfc00);
  EXPECT_EQ(DoubleToHalf(65504), 0x7bff);
  EXPECT_EQ(DoubleToHalf(65519.99), 0x7bff);
  EXPECT_EQ(DoubleToHalf(65520), 0x7c00);
  EXPECT_EQ(DoubleToHalf(1e300), 0x7c00);
  EXPECT_EQ(DoubleToHalf(-0.0), 0x8000);
  EXPECT_EQ(DoubleToHalf(0x1p-24), 0x0001);
  EXPECT_EQ(DoubleToHalf(0x1p-25), 0x0000);    // tie to even
  EXPECT_EQ(DoubleToHalf(0x1.8p-24), 0x0002);  // tie to even
  EXPECT_EQ(DoubleToHalf(5e-324), 0x0000);
  EXPECT_EQ(DoubleToHalf(nan) & 0x7e00, 0x7e00);
  EXPECT_EQ(DoubleToHalf(std::copysign(nan, -1.0)) & 0xfe00, 0xfe00);
  EXPECT_EQ(DoubleToBFloat16(inf), 0x7f80);
  EXPECT_EQ(DoubleToBFloat16(3.4e38), 0x7f80);
  EXPECT_EQ(DoubleToBFloat16(1.0), 0x3f80);
  EXPECT_EQ(DoubleToBFloat16(0x1p-133), 0x0001);
  EXPECT_EQ(DoubleToBFloat16(nan) & 0x7fc0, 0x7fc0);
}

// Interesting numbers of every kind, then random bits.
std::vector<std::byte> Input(DType dtype, size_t count, std::mt19937_64& random) {
  std::vector<std::byte> bytes(count * ItemSize(dtype));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  const std::array<uint64_t, 14> special = {0,      1,      2,      0x7f,   0x80,       0xff,       0x7fff,
                                            0x8000, 0xffff, 0x7c00, 0x7f80, 0x7f800000, 0x80000000, ~uint64_t{0}};
  for (size_t i = 0; i < std::min(count, special.size()); ++i) {
    std::memcpy(bytes.data() + (i * ItemSize(dtype)), &special[i], ItemSize(dtype));
  }
  return bytes;
}

TEST(CastTest, EveryPairMatchesTheReference) {
  std::mt19937_64 random(7);
  for (const DType from : kAll) {
    for (const DType to : {DType::kF16, DType::kBF16, DType::kF32, DType::kF64}) {
      for (const double scale : {1.0, 1.0 / 255, 0.5, -3.0, 1e-30, 1e30, 0.0, 0x1p-150}) {
        for (const size_t count : {size_t{1}, size_t{3}, size_t{4096}, size_t{4101}}) {
          const std::vector<std::byte> in = Input(from, count, random);
          const size_t shift = random() % 16;  // neither side aligned
          std::vector<std::byte> source(in.size() + 16);
          std::memcpy(source.data() + shift, in.data(), in.size());
          const size_t size = ItemSize(to) * count;
          std::vector<std::byte> out(size + 32, std::byte{0xa5});
          const size_t at = 8 + (random() % 8);
          const CastSpec spec{.from = from, .to = to, .scale = scale, .count = count};
          ASSERT_TRUE(CanCast(spec));
          CastElements(spec, source.data() + shift, out.data() + at);
          for (size_t i = 0; i < out.size(); ++i) {
            ASSERT_TRUE((i >= at && i < at + size) || out[i] == std::byte{0xa5}) << "wrote outside at " << i;
          }
          for (size_t i = 0; i < count; ++i) {
            const std::byte* x = in.data() + (i * ItemSize(from));
            // The definition: to double, product in double, one rounding. Unscaled casts of equal types are copies.
            const volatile double product = static_cast<double>(Decode(from, x)) * scale;
            const long double want = RoundTo(to, product);
            const long double got = Decode(to, out.data() + at + (i * ItemSize(to)));
            ASSERT_TRUE(Same(got, want)) << Name(from) << " to " << Name(to) << " scale " << scale << " element " << i << ": "
                                         << got << " instead of " << want;
          }
        }
      }
    }
  }
}

TEST(CastTest, ATypeToItselfIsACopyOfTheBits) {
  std::mt19937_64 random(8);
  for (const DType dtype : kAll) {
    const std::vector<std::byte> in = Input(dtype, 100, random);
    std::vector<std::byte> out(in.size());
    const CastSpec spec{.from = dtype, .to = dtype, .count = 100};
    ASSERT_TRUE(CanCast(spec)) << Name(dtype);
    CastElements(spec, in.data(), out.data());
    EXPECT_EQ(in, out) << Name(dtype);  // signalling NaNs and bools other than 0 and 1 too
  }
}

TEST(CastTest, WhatThereIsNot) {
  for (const DType from : kAll) {
    for (const DType to : kAll) {
      const bool to_float = to == DType::kF16 || to == DType::kBF16 || to == DType::kF32 || to == DType::kF64;
      EXPECT_EQ(CanCast({.from = from, .to = to}), to_float || from == to) << Name(from) << " to " << Name(to);
      EXPECT_EQ(CanCast({.from = from, .to = to, .scale = 2}), to_float) << Name(from) << " to " << Name(to);
    }
  }
  EXPECT_FALSE(CanCast({.scale = std::numeric_limits<double>::quiet_NaN()}));
  EXPECT_FALSE(CanCast({.scale = std::numeric_limits<double>::infinity()}));
}

}  // namespace
}  // namespace devmem
