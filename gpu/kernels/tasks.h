// SPDX-License-Identifier: Apache-2.0
// What the host hands to a kernel. Plain data, the same for nvcc and for the compiler that runs the kernels on the CPU
// (gpu/simt/).
//
// Work is cut into tiles, one a warp: tile t is what lies from tiles[t] up to tiles[t + 1], so that a warp has about as many
// bytes to move as every other, however the fragments are cut. gpu/work_plan.h makes the tiles.
#pragma once

#include <cstdint>

namespace devmem {

inline constexpr int kWarp = 32;           // lanes
inline constexpr int kBlockThreads = 128;  // of every kernel
inline constexpr int kBlockWarps = kBlockThreads / kWarp;

// Copies `bytes` from address to address.
struct Run {
  uint64_t source;
  uint64_t destination;
  uint64_t bytes;
};

// Where a warp begins: in run `run`, at its byte `offset`.
struct Tile {
  uint64_t run;
  uint64_t offset;
};

struct GatherTask {
  const Run* runs;
  const Tile* tiles;  // count + 1
  uint32_t count;     // tiles
};

// A small batch travels in the launch itself: no copy to the device before it. The size of a kernel's parameters is what
// every driver takes.
struct InlineGatherTask {
  static constexpr uint32_t kMostRuns = 96;
  static constexpr uint32_t kMostTiles = 128;
  struct SmallTile {
    uint32_t run;
    uint32_t offset;
  };
  Run runs[kMostRuns];
  SmallTile tiles[kMostTiles + 1];
  uint32_t count;
};
static_assert(sizeof(InlineGatherTask) <= 4096);

// A CRC of each run's bytes, of a register of zeros, put together by exclusive or in `sums`, which begin as zeros; SumsTask
// makes the usual values of them.
struct ChecksumTask {
  const Run* runs;
  const Tile* tiles;
  uint32_t count;
  const void* tables;  // of the CRC: ChecksumTables<Crc>, in the device's memory
  uint64_t* sums;      // one a run
};
struct SumsTask {
  const Run* runs;
  uint64_t run_count;
  const void* tables;
  uint64_t* sums;
};

// Which kernel does a cast, and with what arithmetic.
struct CastPath {
  enum class Kernel : uint8_t { kRows, kPlanes, kAny } kernel = Kernel::kAny;
  bool in_float = false;  // binary32 gives the very same bits; proved by trying every value of a source of 8 or 16 bits
};

inline constexpr uint32_t kTaskChannels = 64;

// Element types as gpu/dtype.h numbers them.
struct CastTask {
  const Run* runs;    // destination: the byte of what would lie there unconverted, from 0 on
  const Tile* tiles;  // by units (below), not bytes; offset is not used
  uint32_t count;
  uint32_t tile_units;  // units of every tile but the last
  uint64_t run_count;
  uint64_t units;        // in all
  uint64_t elements;     // in all
  uint64_t destination;  // address
  uint64_t pixels;       // of a sample; 0: elements stay in their order
  uint32_t channels;     // 1 where all elements are treated alike
  uint8_t from, to;
  bool add;  // the offsets
  double factor[kTaskChannels];
  double offset[kTaskChannels];
};
static_assert(sizeof(CastTask) <= 4096);

}  // namespace devmem
