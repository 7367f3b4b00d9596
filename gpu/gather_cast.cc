// SPDX-License-Identifier: Apache-2.0
#include "gpu/gather_cast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "base/error.h"
#include "gpu/cast.h"

namespace devmem {
namespace {

absl::Status Bad(const std::string& what, const std::string& cause, const std::string& action) {
  return MakeError(absl::StatusCode::kInvalidArgument, what, {.cause = cause, .action = action});
}

double ReadElement(DType dtype, const std::byte* from) {
  const auto read = [from](auto value) {
    std::memcpy(&value, from, sizeof(value));
    return value;
  };
  switch (dtype) {
    case DType::kBool:
      return read(uint8_t{}) != 0 ? 1 : 0;
    case DType::kU8:
      return read(uint8_t{});
    case DType::kU16:
      return read(uint16_t{});
    case DType::kU32:
      return read(uint32_t{});
    case DType::kU64:
      return static_cast<double>(read(uint64_t{}));
    case DType::kI8:
      return read(int8_t{});
    case DType::kI16:
      return read(int16_t{});
    case DType::kI32:
      return read(int32_t{});
    case DType::kI64:
      return static_cast<double>(read(int64_t{}));
    case DType::kF16:
      return HalfToFloat(read(uint16_t{}));
    case DType::kBF16:
      return BFloat16ToFloat(read(uint16_t{}));
    case DType::kF32:
      return read(float{});
    case DType::kF64:
      return read(double{});
  }
  return 0;
}

void WriteElement(DType dtype, double value, std::byte* to) {
  const auto write = [to](auto bits) { std::memcpy(to, &bits, sizeof(bits)); };
  switch (dtype) {
    case DType::kF16:
      return write(DoubleToHalf(value));
    case DType::kBF16:
      return write(DoubleToBFloat16(value));
    case DType::kF32:
      return write(static_cast<float>(value));
    default:
      return write(value);
  }
}

}  // namespace

ChannelConstants ConstantsOf(const GatherCastSpec& spec) {
  ChannelConstants constants;
  constants.add = !spec.mean.empty();
  constants.factor.assign(spec.channels, spec.cast.scale);
  constants.offset.assign(spec.channels, 0);
  for (uint32_t c = 0; constants.add && c < spec.channels; ++c) {
    constants.factor[c] = spec.cast.scale / spec.deviation[c];
    constants.offset[c] = -spec.mean[c] / spec.deviation[c];
  }
  return constants;
}

absl::Status CheckGatherCast(const GatherCastSpec& spec, std::span<const Fragment> fragments, uint64_t source_bytes,
                             uint64_t destination_bytes) {
  const std::string pair = std::string(Name(spec.cast.from)) + " to " + std::string(Name(spec.cast.to));
  if (spec.cast.to < DType::kF16 || !CanCast(spec.cast)) {
    return Bad("no gather with a cast from " + pair + " with scale " + std::to_string(spec.cast.scale), "unsupported cast",
               "cast to float16, bfloat16, float32 or float64 with a finite scale, or gather without a cast");
  }
  if (spec.channels == 0 || spec.channels > kMostChannels || spec.cast.count % spec.channels != 0) {
    return Bad(std::to_string(spec.channels) + " channels in " + std::to_string(spec.cast.count) + " elements", "bad channels",
               "1 to " + std::to_string(kMostChannels) + " channels, dividing the elements");
  }
  if (spec.mean.size() != spec.deviation.size() || (!spec.mean.empty() && spec.mean.size() != spec.channels)) {
    return Bad(std::to_string(spec.mean.size()) + " means and " + std::to_string(spec.deviation.size()) + " deviations for " +
                   std::to_string(spec.channels) + " channels",
               "bad normalisation", "one of each for every channel, or none");
  }
  const auto finite = [](double value) { return std::isfinite(value); };
  const ChannelConstants constants = ConstantsOf(spec);
  if (!std::all_of(constants.factor.begin(), constants.factor.end(), finite) ||
      !std::all_of(constants.offset.begin(), constants.offset.end(), finite)) {
    return Bad("a mean or deviation that makes no finite number", "bad normalisation", "finite means, deviations other than 0");
  }
  if (spec.pixels != 0 && (spec.pixels > spec.cast.count || spec.cast.count % (spec.pixels * spec.channels) != 0)) {
    return Bad(std::to_string(spec.pixels) + " pixels of " + std::to_string(spec.channels) + " channels in " +
                   std::to_string(spec.cast.count) + " elements",
               "bad layout", "give whole samples");
  }
  if (spec.cast.count > destination_bytes / ItemSize(spec.cast.to)) {
    return MakeError(
        absl::StatusCode::kOutOfRange,
        std::to_string(spec.cast.count) + " elements do not fit into " + std::to_string(destination_bytes) + " bytes",
        {.cause = "range outside memory", .action = "report a bug with this message"});
  }
  uint64_t at = 0;
  for (const Fragment& fragment : fragments) {
    if (fragment.source > source_bytes || fragment.bytes > source_bytes - fragment.source) {
      return MakeError(absl::StatusCode::kOutOfRange,
                       "a fragment's source leaves its memory of " + std::to_string(source_bytes) + " bytes",
                       {.offset = fragment.source,
                        .length = fragment.bytes,
                        .cause = "range outside memory",
                        .action = "report a bug with this message"});
    }
    if (fragment.destination != at) {
      return Bad("a fragment at " + std::to_string(fragment.destination) + " where " + std::to_string(at) + " was to follow",
                 "gap or overlap", "report a bug with this message");
    }
    at += fragment.bytes;
  }
  if (at != spec.cast.count * ItemSize(spec.cast.from)) {
    return Bad("fragments of " + std::to_string(at) + " bytes for " + std::to_string(spec.cast.count) + " elements of " + pair,
               "sizes differ", "report a bug with this message");
  }
  return absl::OkStatus();
}

void GatherCastElements(const GatherCastSpec& spec, std::span<const Fragment> fragments, const std::byte* source,
                        std::byte* destination) {
  const ChannelConstants constants = ConstantsOf(spec);
  const size_t from_size = ItemSize(spec.cast.from), to_size = ItemSize(spec.cast.to);
  std::array<std::byte, 8> element;
  size_t have = 0;
  uint64_t index = 0;
  for (const Fragment& fragment : fragments) {
    for (uint64_t i = 0; i < fragment.bytes; ++i) {
      element[have++] = source[fragment.source + i];
      if (have < from_size) continue;
      have = 0;
      const uint64_t channel = index % spec.channels;
      uint64_t place = index;
      if (spec.pixels != 0) {
        const uint64_t sample = index / (spec.pixels * spec.channels);
        const uint64_t pixel = index / spec.channels % spec.pixels;
        place = (((sample * spec.channels) + channel) * spec.pixels) + pixel;
      }
      // Two roundings: a contraction to one would be another number.
      volatile double value = ReadElement(spec.cast.from, element.data()) * constants.factor[channel];
      if (constants.add) value = value + constants.offset[channel];
      WriteElement(spec.cast.to, value, destination + (place * to_size));
      ++index;
    }
  }
}

}  // namespace devmem
