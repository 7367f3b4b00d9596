// SPDX-License-Identifier: Apache-2.0
#include "gpu/gather_cast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gpu/cast.h"

namespace devmem {
namespace {

using testing::HasSubstr;

// [0, bytes) cut at random places, each piece somewhere in a source with room between.
std::vector<Fragment> Cut(uint64_t bytes, std::mt19937_64& random) {
  std::vector<Fragment> fragments;
  uint64_t source = random() % 9;
  for (uint64_t at = 0; at < bytes;) {
    const uint64_t piece = std::min<uint64_t>(bytes - at, random() % 7);  // empty ones too
    fragments.push_back({.source = source, .destination = at, .bytes = piece});
    at += piece;
    source += piece + random() % 5;
  }
  return fragments;
}

std::vector<std::byte> Spread(std::span<const std::byte> bytes, std::span<const Fragment> fragments) {
  std::vector<std::byte> source(fragments.empty() ? 1 : fragments.back().source + fragments.back().bytes + 16, std::byte{0xee});
  for (const Fragment& fragment : fragments) {
    std::memcpy(source.data() + fragment.source, bytes.data() + fragment.destination, fragment.bytes);
  }
  return source;
}

TEST(GatherCast, WithoutChannelsIsACast) {
  std::mt19937_64 random(1);
  for (int from = 1; from <= 13; ++from) {
    for (const DType to : {DType::kF16, DType::kBF16, DType::kF32, DType::kF64}) {
      const CastSpec cast{.from = static_cast<DType>(from), .to = to, .scale = 1.0 / 255, .count = 300};
      std::vector<std::byte> stored(cast.count * ItemSize(cast.from));
      for (std::byte& byte : stored) byte = static_cast<std::byte>(random());
      const std::vector<Fragment> fragments = Cut(stored.size(), random);
      const std::vector<std::byte> source = Spread(stored, fragments);
      std::vector<std::byte> expected(cast.count * ItemSize(to)), got(expected.size(), std::byte{0xee});
      CastElements(cast, stored.data(), expected.data());
      const GatherCastSpec spec{.cast = cast};
      ASSERT_TRUE(CheckGatherCast(spec, fragments, source.size(), got.size()).ok());
      GatherCastElements(spec, fragments, source.data(), got.data());
      EXPECT_EQ(got, expected) << Name(cast.from) << " to " << Name(to);
    }
  }
}

TEST(GatherCast, NormalisesAndTransposes) {
  // Two samples of three pixels of two channels.
  const std::vector<uint8_t> stored = {10, 20, 11, 21, 12, 22, 30, 40, 31, 41, 32, 42};
  const GatherCastSpec spec{.cast = {.from = DType::kU8, .to = DType::kF64, .scale = 0.5, .count = 12},
                            .channels = 2,
                            .mean = {1, 2},
                            .deviation = {2, 4},
                            .pixels = 3};
  const std::vector<Fragment> fragments = {{.source = 0, .destination = 0, .bytes = 5},
                                           {.source = 5, .destination = 5, .bytes = 7}};
  std::vector<double> got(12);
  ASSERT_TRUE(CheckGatherCast(spec, fragments, 12, 96).ok());
  GatherCastElements(spec, fragments, reinterpret_cast<const std::byte*>(stored.data()),
                     reinterpret_cast<std::byte*>(got.data()));
  // (x / 2 - mean) / deviation, channel by channel.
  EXPECT_THAT(got, testing::ElementsAre(2, 2.25, 2.5, 2, 2.125, 2.25, 7, 7.25, 7.5, 4.5, 4.625, 4.75));
}

TEST(GatherCast, RefusesWhatMakesNoSense) {
  const GatherCastSpec good{.cast = {.from = DType::kU16, .to = DType::kF32, .count = 6}, .channels = 3, .pixels = 2};
  const std::vector<Fragment> whole = {{.source = 0, .destination = 0, .bytes = 12}};
  ASSERT_TRUE(CheckGatherCast(good, whole, 12, 24).ok());
  struct Case {
    const char* description;
    GatherCastSpec spec;
    std::vector<Fragment> fragments;
    uint64_t source_bytes;
    absl::StatusCode code;
    const char* message;
  };
  using enum absl::StatusCode;
  auto with = [&good](auto change) {
    GatherCastSpec spec = good;
    change(spec);
    return spec;
  };
  const double infinity = std::numeric_limits<double>::infinity();
  const Case cases[] = {
      {"an integer result", with([](auto& s) { s.cast.to = DType::kI32; }), whole, 12, kInvalidArgument,
       "no gather with a cast"},
      {"channels that do not divide", with([](auto& s) { s.channels = 4; }), whole, 12, kInvalidArgument, "4 channels"},
      {"no channel", with([](auto& s) { s.channels = 0; }), whole, 12, kInvalidArgument, "0 channels"},
      {"too many channels", with([](auto& s) { s.channels = 65; }), whole, 12, kInvalidArgument, "65 channels"},
      {"a mean too few", with([](auto& s) {
         s.mean = s.deviation = {1, 2};
       }),
       whole, 12, kInvalidArgument, "2 means"},
      {"a deviation of 0", with([](auto& s) {
         s.mean = {0, 0, 0}, s.deviation = {1, 0, 1};
       }),
       whole, 12, kInvalidArgument, "finite"},
      {"an infinite scale", with([=](auto& s) { s.cast.scale = infinity; }), whole, 12, kInvalidArgument, "finite scale"},
      {"half a sample", with([](auto& s) { s.pixels = 4; }), whole, 12, kInvalidArgument, "4 pixels"},
      {"pixels that overflow", with([](auto& s) { s.pixels = UINT64_MAX / 2; }), whole, 12, kInvalidArgument, "pixels"},
      {"a source too short", good, whole, 11, kOutOfRange, "leaves its memory"},
      {"a gap", good, {{0, 0, 5}, {5, 6, 6}}, 12, kInvalidArgument, "was to follow"},
      {"an overlap", good, {{0, 0, 6}, {5, 5, 6}}, 12, kInvalidArgument, "was to follow"},
      {"too few bytes", good, {{0, 0, 11}}, 12, kInvalidArgument, "11 bytes"},
      {"a result too large", with([](auto& s) { s.cast.to = DType::kF64; }), whole, 12, kOutOfRange, "do not fit"},
  };
  for (const Case& c : cases) {
    const absl::Status status = CheckGatherCast(c.spec, c.fragments, c.source_bytes, 24);
    EXPECT_EQ(status.code(), c.code) << c.description << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message)) << c.description;
  }
}

}  // namespace
}  // namespace devmem
