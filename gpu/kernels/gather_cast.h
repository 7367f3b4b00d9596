// SPDX-License-Identifier: Apache-2.0
// The gather fused with a cast: the kernels go by what they write.
//
//   1. A unit is what fills 16 bytes of a row of the result. A warp has a tile of units, a lane every 32nd of them.
//   2. A lane finds the run that its unit's bytes begin in; as its units ascend, it only ever steps forward. Where the unit
//   lies in one
//      run, its bytes are loaded with the widest loads their address allows, converted, and stored at once.
//   3. Where a unit is cut by a run's end (also in mid-element), or is the last of a row, it is put together byte by byte.
//
// Conversions are those of gpu/cast.h to the bit: one rounding, from a double, to nearest even. kFloat is the same in binary32,
// for what the host has proved to come to the same result (gpu/cast_path.h).
#pragma once

#include <cstdint>

#include "gpu/kernels/lane.h"

namespace devmem::lane {

// gpu/dtype.h's numbers.
enum Type : uint8_t { kBool = 1, kU8, kU16, kU32, kU64, kI8, kI16, kI32, kI64, kF16, kBF16, kF32, kF64 };

constexpr int SizeOf(Type type) {
  switch (type) {
    case kBool:
    case kU8:
    case kI8:
      return 1;
    case kU16:
    case kI16:
    case kF16:
    case kBF16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    default:
      return 8;
  }
}
constexpr bool HasNan(Type type) { return type >= kF16; }

// --- one element ------------------------------------------------------------------------------------------------

template <Type kFrom>
DEVMEM_LANE double ValueOf(uint64_t bits) {
  if constexpr (kFrom == kBool) return bits != 0 ? 1 : 0;
  if constexpr (kFrom == kU8 || kFrom == kU16 || kFrom == kU32) return static_cast<uint32_t>(bits);
  if constexpr (kFrom == kU64) return static_cast<double>(bits);
  if constexpr (kFrom == kI8) return static_cast<int8_t>(bits);
  if constexpr (kFrom == kI16) return static_cast<int16_t>(bits);
  if constexpr (kFrom == kI32) return static_cast<int32_t>(bits);
  if constexpr (kFrom == kI64) return static_cast<double>(static_cast<int64_t>(bits));
  if constexpr (kFrom == kF16) return OfHalf(static_cast<uint16_t>(bits));
  if constexpr (kFrom == kBF16) return FloatOf(static_cast<uint32_t>(bits) << 16);
  if constexpr (kFrom == kF32) return FloatOf(static_cast<uint32_t>(bits));
  return DoubleOf(bits);
}

template <Type kFrom>
DEVMEM_LANE float FloatValueOf(uint64_t bits) {
  if constexpr (kFrom == kU8 || kFrom == kU16) return static_cast<float>(static_cast<uint32_t>(bits));
  if constexpr (kFrom == kF16) return OfHalf(static_cast<uint16_t>(bits));
  return FloatOf(static_cast<uint32_t>(bits) << 16);
}

template <Type kTo>
DEVMEM_LANE uint64_t BitsIn(float value) {
  if constexpr (kTo == kF16) return HalfOf(value);
  if constexpr (kTo == kBF16) return BFloat16Of(value);
  return BitsOf(value);
}

// Rounded to odd, a float still knows which side of any 16-bit number, or of the middle between two, the double lay on.
template <Type kTo>
DEVMEM_LANE uint64_t BitsIn(double value) {
  if constexpr (kTo == kF64) return BitsOf(value);
  if constexpr (kTo == kF32) return BitsOf(Nearest(value));
  const float towards = TowardsZero(value);
  const uint32_t inexact = static_cast<double>(towards) != value ? 1 : 0;
  return BitsIn<kTo>(FloatOf(BitsOf(towards) | inexact));
}

// A NaN's sign and what fits of its payload, quiet; as a binary64 first.
template <Type kFrom>
DEVMEM_LANE uint64_t NanAsDouble(uint64_t bits) {
  constexpr int kMantissa = kFrom == kF16 ? 10 : kFrom == kBF16 ? 7 : kFrom == kF32 ? 23 : 52;
  constexpr int kTop = 8 * SizeOf(kFrom) - 1;
  const uint64_t payload = (bits & ((uint64_t{1} << kMantissa) - 1)) << (52 - kMantissa);
  return (bits >> kTop & 1) << 63 | uint64_t{0x7ff8} << 48 | payload;
}
template <Type kTo>
DEVMEM_LANE uint64_t NanIn(uint64_t as_double) {
  if constexpr (kTo == kF64) return as_double;
  constexpr int kMantissa = kTo == kF16 ? 10 : kTo == kBF16 ? 7 : 23;
  constexpr int kTop = 8 * SizeOf(kTo) - 1;
  constexpr uint64_t kInfinity = ((uint64_t{1} << (kTop - kMantissa)) - 1) << kMantissa;
  return (as_double >> 63) << kTop | kInfinity | ((as_double & 0xfffffffffffffU) >> (52 - kMantissa));
}
inline constexpr uint64_t kNoNumber = uint64_t{0xfff8} << 48;  // of infinity times 0

template <Type kFrom, Type kTo, bool kFloat>
DEVMEM_LANE uint64_t Convert(uint64_t bits, double factor, double offset, bool add) {
  if constexpr (kFloat) {
    const float x = FloatValueOf<kFrom>(bits);
    float y = Multiply(x, static_cast<float>(factor));
    if (add) y = Add(y, static_cast<float>(offset));
    if constexpr (HasNan(kFrom)) {
      if (y != y) return NanIn<kTo>(x != x ? NanAsDouble<kFrom>(bits) : kNoNumber);
    }
    return BitsIn<kTo>(y);
  } else {
    const double x = ValueOf<kFrom>(bits);
    double y = Multiply(x, factor);
    if (add) y = Add(y, offset);
    if constexpr (HasNan(kFrom)) {
      if (y != y) return NanIn<kTo>(x != x ? NanAsDouble<kFrom>(bits) : kNoNumber);
    }
    return BitsIn<kTo>(y);
  }
}

template <int kBytes>
DEVMEM_LANE void StoreElement(uint64_t address, uint64_t bits) {
  if (address % kBytes == 0) {
    if constexpr (kBytes == 2) return Store2(address, static_cast<uint16_t>(bits));
    if constexpr (kBytes == 4) return Store4(address, static_cast<uint32_t>(bits));
    if constexpr (kBytes == 8) return Store8(address, bits);
  }
#pragma unroll
  for (int i = 0; i < kBytes; ++i) Store1(address + i, static_cast<uint8_t>(bits >> (8 * i)));
}

// --- runs, as one lane walks them ---------------------------------------------------------------------------------

struct Walk {
  const Run* runs;
  uint64_t index;
  Run run;

  DEVMEM_LANE Walk(const Run* all, uint64_t first) : runs(all), index(first), run(all[first]) {}
  // To the run that holds the byte `at`; never back.
  DEVMEM_LANE void Seek(uint64_t at) {
    while (at - run.destination >= run.bytes) run = runs[++index];
  }
  [[nodiscard]] DEVMEM_LANE bool Holds(uint64_t at, uint64_t bytes) const { return at - run.destination + bytes <= run.bytes; }
  [[nodiscard]] DEVMEM_LANE uint64_t Address(uint64_t at) const { return run.source + (at - run.destination); }
};

// An element's bits, from as many runs as it lies in.
DEVMEM_LANE uint64_t BitsAt(Walk& walk, uint64_t at, int bytes) {
  uint64_t bits = 0;
  for (int i = 0; i < bytes; ++i) {
    walk.Seek(at + i);
    bits |= static_cast<uint64_t>(Load1(walk.Address(at + i))) << (8 * i);
  }
  return bits;
}

struct Division {
  uint64_t quotient, rest;
};
DEVMEM_LANE Division Divide(uint64_t value, uint64_t by) {
  if ((value | by) >> 32 == 0) {
    const auto small = static_cast<uint32_t>(value), small_by = static_cast<uint32_t>(by);
    return {small / small_by, small % small_by};
  }
  return {value / by, value % by};
}

// Which channel an element is of, and where it goes.
struct Place {
  uint32_t channel;
  uint64_t index;
};
DEVMEM_LANE Place PlaceOf(const CastTask& task, uint64_t element) {
  if (task.channels == 1) return {0, element};  // one channel: the order stays, whatever the pixels
  const Division pixel = Divide(element, task.channels);
  const auto channel = static_cast<uint32_t>(pixel.rest);
  if (task.pixels == 0) return {channel, element};
  const Division sample = Divide(pixel.quotient, task.pixels);
  return {channel, (sample.quotient * task.channels + channel) * task.pixels + sample.rest};
}

// --- one unit -----------------------------------------------------------------------------------------------------

template <int kBytes>
struct Raw {
  uint32_t x[(kBytes + 3) / 4];
};

// kBytes at any address. Of the aligned words read each has at least one of them.
template <int kBytes>
DEVMEM_LANE Raw<kBytes> LoadRaw(uint64_t address) {
  Raw<kBytes> raw;
  if constexpr (kBytes == 2) {
    raw.x[0] = Load1(address) | static_cast<uint32_t>(Load1(address + 1)) << 8;
    return raw;
  } else {
    constexpr int kWords = kBytes / 4;
    if (kBytes % 16 == 0 && address % 16 == 0) {
#pragma unroll
      for (uint64_t i = 0; i < kWords / 4; ++i) {
        const Word16 word = Load16(address + 16 * i);
#pragma unroll
        for (int j = 0; j < 4; ++j) raw.x[4 * i + j] = word.x[j];
      }
    } else if (kBytes % 8 == 0 && address % 8 == 0) {
#pragma unroll
      for (uint64_t i = 0; i < kWords / 2; ++i) {
        const uint64_t word = Load8(address + 8 * i);
        raw.x[2 * i] = static_cast<uint32_t>(word);
        raw.x[2 * i + 1] = static_cast<uint32_t>(word >> 32);
      }
    } else {
      const uint64_t base = address & ~uint64_t{3};
      const uint32_t bits = static_cast<uint32_t>(address % 4) * 8;
      uint32_t word[kWords + 1];
#pragma unroll
      for (uint64_t i = 0; i < kWords; ++i) word[i] = Load4(base + 4 * i);
      word[kWords] = bits != 0 ? Load4(base + uint64_t{4} * kWords) : 0;
#pragma unroll
      for (int i = 0; i < kWords; ++i) raw.x[i] = FunnelRight(word[i], word[i + 1], bits);
    }
    return raw;
  }
}

template <Type kFrom, int kBytes>
DEVMEM_LANE uint64_t ElementOf(const Raw<kBytes>& raw, int index) {
  constexpr int kSize = SizeOf(kFrom);
  if constexpr (kSize == 8) return static_cast<uint64_t>(raw.x[2 * index + 1]) << 32 | raw.x[2 * index];
  if constexpr (kSize == 4) return raw.x[index];
  if constexpr (kSize == 2) return (raw.x[index / 2] >> (index % 2 * 16)) & 0xffff;
  return (raw.x[index / 4] >> (index % 4 * 8)) & 0xff;
}

template <Type kTo>
inline constexpr int kUnit = 16 / SizeOf(kTo);  // elements

// A row's 16 bytes.
template <Type kTo>
DEVMEM_LANE void StoreUnit(uint64_t address, const uint64_t (&bits)[kUnit<kTo>]) {
  constexpr int kSize = SizeOf(kTo);
  if (address % 16 == 0) {
    Word16 word = {{0, 0, 0, 0}};
#pragma unroll
    for (int i = 0; i < kUnit<kTo>; ++i) {
      word.x[i * kSize / 4] |= static_cast<uint32_t>(bits[i]) << (i * kSize % 4 * 8);
      if constexpr (kSize == 8) word.x[2 * i + 1] |= static_cast<uint32_t>(bits[i] >> 32);
    }
    return Store16(address, word);
  }
#pragma unroll
  for (uint64_t i = 0; i < kUnit<kTo>; ++i) StoreElement<kSize>(address + i * kSize, bits[i]);
}

// Elements [first, first + count), one after the other.
template <Type kFrom, Type kTo, bool kFloat>
DEVMEM_LANE void CastOneByOne(const CastTask& task, const double* factor, const double* offset, Walk walk, uint64_t first,
                              uint64_t count) {
  for (uint64_t element = first; element < first + count; ++element) {
    const uint64_t bits = BitsAt(walk, element * SizeOf(kFrom), SizeOf(kFrom));
    const Place place = PlaceOf(task, element);
    StoreElement<SizeOf(kTo)>(task.destination + place.index * SizeOf(kTo),
                              Convert<kFrom, kTo, kFloat>(bits, factor[place.channel], offset[place.channel], task.add));
  }
}

// --- kernels ------------------------------------------------------------------------------------------------------

// What a block keeps in shared memory: constants that lanes look up by channels of their own.
struct CastConstants {
  double factor[kTaskChannels];
  double offset[kTaskChannels];
};
DEVMEM_LANE void LoadConstants(const CastTask& task, CastConstants* shared) {
  for (uint32_t i = ThreadIndex(); i < task.channels; i += kBlockThreads) {
    shared->factor[i] = task.factor[i];
    shared->offset[i] = task.offset[i];
  }
  BlockBarrier();
}

// Units that a lane loads before it converts the first: 32 bytes or more in registers.
template <int kBytes>
inline constexpr int kUnitsInFlight = kBytes <= 8 ? 4 : 2;

// Elements that stay in their order. A unit: kUnit elements.
template <Type kFrom, Type kTo, bool kFloat>
DEVMEM_LANE void CastRowsBody(const CastTask& task, CastConstants* shared) {
  LoadConstants(task, shared);
  constexpr int kCount = kUnit<kTo>;
  constexpr int kBytes = kCount * SizeOf(kFrom);
  constexpr uint64_t kInFlightHere = kUnitsInFlight<kBytes>;
  const uint32_t tile = BlockIndex() * kBlockWarps + BlockWarpIndex();
  if (tile >= task.count) return;
  const uint64_t begin = uint64_t{tile} * task.tile_units;
  const uint64_t end = begin + task.tile_units < task.units ? begin + task.tile_units : task.units;
  Walk walk(task.runs, task.tiles[tile].run);
  const double factor = shared->factor[0], offset = shared->offset[0];
  for (uint64_t first = begin + LaneIndex(); first < end; first += kInFlightHere * kWarp) {
    const Walk before = walk;
    Raw<kBytes> raw[kInFlightHere];
    uint32_t whole = 0, present = 0;
#pragma unroll
    for (uint64_t i = 0; i < kInFlightHere; ++i) {
      const uint64_t unit = first + i * kWarp;
      if (unit >= end) continue;
      present |= 1U << i;
      const uint64_t at = unit * kBytes;
      walk.Seek(at);
      if (!walk.Holds(at, kBytes)) continue;
      whole |= 1U << i;
      raw[i] = LoadRaw<kBytes>(walk.Address(at));
    }
#pragma unroll
    for (uint64_t i = 0; i < kInFlightHere; ++i) {
      if ((whole >> i & 1) == 0) continue;
      const uint64_t unit = first + i * kWarp;
      uint64_t bits[kCount];
      if (task.channels == 1) {
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          bits[j] = Convert<kFrom, kTo, kFloat>(ElementOf<kFrom>(raw[i], j), factor, offset, task.add);
        }
      } else {
        auto channel = static_cast<uint32_t>(Divide(unit * kCount, task.channels).rest);
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          bits[j] = Convert<kFrom, kTo, kFloat>(ElementOf<kFrom>(raw[i], j), shared->factor[channel], shared->offset[channel],
                                                task.add);
          channel = channel + 1 == task.channels ? 0 : channel + 1;
        }
      }
      StoreUnit<kTo>(task.destination + unit * 16, bits);
    }
#pragma unroll 1
    for (uint32_t left = present & ~whole; left != 0; left &= left - 1) {
      const uint64_t element = (first + uint64_t{LowestBit(left)} * kWarp) * kCount;
      const uint64_t count = task.elements - element < kCount ? task.elements - element : kCount;
      CastOneByOne<kFrom, kTo, kFloat>(task, shared->factor, shared->offset, before, element, count);
    }
  }
}

// Pixels of kChannels bytes, which part into planes. A unit: kUnit pixels of one sample.
template <int kChannels, Type kTo, bool kFloat>
DEVMEM_LANE void CastPlanesBody(const CastTask& task, CastConstants* shared) {
  LoadConstants(task, shared);
  constexpr int kCount = kUnit<kTo>;
  constexpr int kBytes = kCount * kChannels;
  const uint32_t tile = BlockIndex() * kBlockWarps + BlockWarpIndex();
  if (tile >= task.count) return;
  const uint64_t begin = uint64_t{tile} * task.tile_units;
  const uint64_t end = begin + task.tile_units < task.units ? begin + task.tile_units : task.units;
  const uint64_t units_of_sample = (task.pixels + kCount - 1) / kCount;
  Walk walk(task.runs, task.tiles[tile].run);
  for (uint64_t unit = begin + LaneIndex(); unit < end; unit += kWarp) {
    const Division sample = Divide(unit, units_of_sample);
    const uint64_t pixel = sample.rest * kCount;
    const uint64_t count = task.pixels - pixel < kCount ? task.pixels - pixel : kCount;
    const uint64_t at = (sample.quotient * task.pixels + pixel) * kChannels;
    walk.Seek(at);
    if (count < kCount || !walk.Holds(at, kBytes)) {
      CastOneByOne<kU8, kTo, kFloat>(task, shared->factor, shared->offset, walk, at, count * kChannels);
      continue;
    }
    const Raw<kBytes> raw = LoadRaw<kBytes>(walk.Address(at));
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const double factor = shared->factor[c], offset = shared->offset[c];
      uint64_t bits[kCount];
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        bits[j] = Convert<kU8, kTo, kFloat>(ElementOf<kU8>(raw, j * kChannels + c), factor, offset, task.add);
      }
      const uint64_t row = (sample.quotient * kChannels + c) * task.pixels + pixel;
      StoreUnit<kTo>(task.destination + row * SizeOf(kTo), bits);
    }
  }
}

// Calls f.operator()<type>() with the type of that number.
template <typename F>
DEVMEM_LANE void WithType(uint8_t type, F&& f) {
  switch (type) {
#define DEVMEM_TYPE(t) \
  case t:              \
    return f.template operator()<t>();
    DEVMEM_TYPE(kBool)
    DEVMEM_TYPE(kU8)
    DEVMEM_TYPE(kU16)
    DEVMEM_TYPE(kU32)
    DEVMEM_TYPE(kU64)
    DEVMEM_TYPE(kI8)
    DEVMEM_TYPE(kI16)
    DEVMEM_TYPE(kI32)
    DEVMEM_TYPE(kI64)
    DEVMEM_TYPE(kF16)
    DEVMEM_TYPE(kBF16)
    DEVMEM_TYPE(kF32)
    DEVMEM_TYPE(kF64)
#undef DEVMEM_TYPE
    default:
      return;
  }
}

// Anything else, an element a lane: pairs of types, and layouts, that are not worth a kernel of their own. A unit: one element.
DEVMEM_LANE void CastAnyBody(const CastTask& task, CastConstants* shared) {
  LoadConstants(task, shared);
  const uint32_t tile = BlockIndex() * kBlockWarps + BlockWarpIndex();
  if (tile >= task.count) return;
  const uint64_t begin = uint64_t{tile} * task.tile_units;
  const uint64_t end = begin + task.tile_units < task.units ? begin + task.tile_units : task.units;
  WithType(task.from, [&]<Type kFrom>() {
    Walk walk(task.runs, task.tiles[tile].run);
    for (uint64_t element = begin + LaneIndex(); element < end; element += kWarp) {
      const uint64_t at = element * SizeOf(kFrom);
      const uint64_t bits = BitsAt(walk, at, SizeOf(kFrom));
      const Place place = PlaceOf(task, element);
      const double factor = shared->factor[place.channel], offset = shared->offset[place.channel];
      const auto store = [&]<Type kTo>() {
        StoreElement<SizeOf(kTo)>(task.destination + place.index * SizeOf(kTo),
                                  Convert<kFrom, kTo, false>(bits, factor, offset, task.add));
      };
      if (task.to == kF16) store.template operator()<kF16>();
      if (task.to == kBF16) store.template operator()<kBF16>();
      if (task.to == kF32) store.template operator()<kF32>();
      if (task.to == kF64) store.template operator()<kF64>();
    }
  });
}

}  // namespace devmem::lane
