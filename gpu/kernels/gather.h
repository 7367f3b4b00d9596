// SPDX-License-Identifier: Apache-2.0
// The gather kernel: any number of runs, of any length and any alignment, in one launch.
//
//   1. A warp has a tile. It reads the tile's runs 32 at a time, one a lane.
//   2. Short runs (labels, lengths) are copied by the lane that read them, the others by the whole warp, one after the other.
//   3. A warp's copy: bytes up to the destination's next multiple of 16; then 16-byte stores, 4 a lane in flight; then what is
//   left.
//      Where the source has another place within 16 bytes than the destination, each stored word is put together in registers
//      from the two aligned words that hold it. Such a word has at least one byte of the run, so nothing outside of its 16
//      bytes is ever read.
#pragma once

#include <cstdint>

#include "gpu/kernels/lane.h"

namespace devmem::lane {

inline constexpr uint32_t kShortRun = 32;  // bytes that one lane copies alone
inline constexpr uint64_t kInFlight = 4;   // words that a lane loads before it stores the first

// The 16 bytes at any address, of two aligned words. kWords: address / 4 % 4.
template <int kWords>
DEVMEM_LANE Word16 Realign(const Word16& low, const Word16& high, uint32_t bits) {
  const uint32_t all[8] = {low.x[0], low.x[1], low.x[2], low.x[3], high.x[0], high.x[1], high.x[2], high.x[3]};
  Word16 word;
#pragma unroll
  for (int i = 0; i < 4; ++i) word.x[i] = FunnelRight(all[kWords + i], all[kWords + i + 1], bits);
  return word;
}

// `kAll`: all lanes have all their words, so that nothing is asked for each.
template <bool kAll>
DEVMEM_LANE void CopyAlignedStep(uint64_t source, uint64_t destination, uint64_t at, uint64_t words) {
  Word16 word[kInFlight];
#pragma unroll
  for (uint64_t i = 0; i < kInFlight; ++i) {
    if (kAll || at + i * kWarp < words) word[i] = Load16(source + (at + i * kWarp) * 16);
  }
#pragma unroll
  for (uint64_t i = 0; i < kInFlight; ++i) {
    if (kAll || at + i * kWarp < words) Store16(destination + (at + i * kWarp) * 16, word[i]);
  }
}

// The same from any address; `base` is it without its last four bits.
template <int kWords, bool kAll>
DEVMEM_LANE void CopyShiftedStep(uint64_t base, uint32_t bits, uint64_t destination, uint64_t at, uint64_t words) {
  Word16 low[kInFlight], high[kInFlight];
#pragma unroll
  for (uint64_t i = 0; i < kInFlight; ++i) {
    if (kAll || at + i * kWarp < words) {
      low[i] = Load16(base + (at + i * kWarp) * 16);
      high[i] = Load16(base + (at + i * kWarp) * 16 + 16);
    }
  }
#pragma unroll
  for (uint64_t i = 0; i < kInFlight; ++i) {
    if (kAll || at + i * kWarp < words) Store16(destination + (at + i * kWarp) * 16, Realign<kWords>(low[i], high[i], bits));
  }
}

// `words` words of 16 bytes to `destination` (a multiple of 16), by the whole warp.
DEVMEM_LANE void CopyAligned(uint64_t source, uint64_t destination, uint64_t words) {
  const uint32_t lane = LaneIndex();
  constexpr uint64_t kStep = kInFlight * kWarp;
  uint64_t at = 0;
#pragma unroll 1
  for (; at + kStep <= words; at += kStep) CopyAlignedStep<true>(source, destination, at + lane, words);
  if (at < words) CopyAlignedStep<false>(source, destination, at + lane, words);
}

template <int kWords>
DEVMEM_LANE void CopyShifted(uint64_t source, uint64_t destination, uint64_t words) {
  const uint64_t base = source & ~uint64_t{15};
  const uint32_t bits = static_cast<uint32_t>(source % 4) * 8;
  const uint32_t lane = LaneIndex();
  constexpr uint64_t kStep = kInFlight * kWarp;
  uint64_t at = 0;
#pragma unroll 1
  for (; at + kStep <= words; at += kStep) CopyShiftedStep<kWords, true>(base, bits, destination, at + lane, words);
  if (at < words) CopyShiftedStep<kWords, false>(base, bits, destination, at + lane, words);
}

// By the whole warp; the arguments are the same in every lane.
DEVMEM_LANE void CopyByWarp(uint64_t source, uint64_t destination, uint64_t bytes) {
  const uint32_t lane = LaneIndex();
  const uint64_t to_boundary = (0 - destination) & 15;
  const uint64_t head = to_boundary < bytes ? to_boundary : bytes;
  const uint64_t words = (bytes - head) / 16;
  const uint64_t tail = bytes - head - words * 16;
  // At most 15 bytes each: the first half of the warp has the head, the second the tail.
  if (lane < head) Store1(destination + lane, Load1(source + lane));
  if (lane >= 16 && lane - 16 < tail) {
    const uint64_t at = head + words * 16 + lane - 16;
    Store1(destination + at, Load1(source + at));
  }
  source += head;
  destination += head;
  if (source % 16 == 0) return CopyAligned(source, destination, words);
  switch (source / 4 % 4) {
    case 0:
      return CopyShifted<0>(source, destination, words);
    case 1:
      return CopyShifted<1>(source, destination, words);
    case 2:
      return CopyShifted<2>(source, destination, words);
    default:
      return CopyShifted<3>(source, destination, words);
  }
}

// By one lane.
DEVMEM_LANE void CopyByLane(uint64_t source, uint64_t destination, uint64_t bytes) {
  const uint64_t both = source | destination;
  uint64_t at = 0;
  if (both % 8 == 0) {
    for (; at + 8 <= bytes; at += 8) Store8(destination + at, Load8(source + at));
  }
  if (both % 4 == 0) {
    for (; at + 4 <= bytes; at += 4) Store4(destination + at, Load4(source + at));
  }
  for (; at < bytes; ++at) Store1(destination + at, Load1(source + at));
}

// Calls `piece(source, destination, bytes, run)` with the whole warp for each long piece of a tile, and `small(...)` with one
// lane for each short one.
template <typename Piece, typename Small>
DEVMEM_LANE void ForPieces(const Run* runs, const Tile& from, const Tile& to, Piece&& piece, Small&& small,
                           uint64_t short_bytes) {
  const uint32_t lane = LaneIndex();
  const uint64_t end = to.run + (to.offset > 0 ? 1 : 0);  // one past the last run of which there is something
  for (uint64_t first = from.run; first < end; first += kWarp) {
    const uint64_t mine = first + lane;
    uint64_t source = 0, destination = 0, bytes = 0;
    if (mine < end) {
      const Run run = runs[mine];
      const uint64_t begin = mine == from.run ? from.offset : 0;
      const uint64_t until = mine == to.run ? to.offset : run.bytes;
      source = run.source + begin;
      destination = run.destination + begin;
      bytes = until - begin;
      if (bytes > 0 && bytes <= short_bytes) small(source, destination, bytes, mine);
    }
    for (uint32_t left = Ballot(bytes > short_bytes); left != 0; left &= left - 1) {
      const uint32_t turn = LowestBit(left);
      piece(Shuffle(source, turn), Shuffle(destination, turn), Shuffle(bytes, turn), first + turn);
    }
  }
}

DEVMEM_LANE void GatherTile(const Run* runs, const Tile& from, const Tile& to) {
  ForPieces(
      runs, from, to,
      [](uint64_t source, uint64_t destination, uint64_t bytes, uint64_t) { CopyByWarp(source, destination, bytes); },
      [](uint64_t source, uint64_t destination, uint64_t bytes, uint64_t) { CopyByLane(source, destination, bytes); },
      kShortRun);
}

DEVMEM_LANE void GatherBody(const GatherTask& task) {
  const uint32_t tile = BlockIndex() * kBlockWarps + BlockWarpIndex();
  if (tile >= task.count) return;
  GatherTile(task.runs, task.tiles[tile], task.tiles[tile + 1]);
}

DEVMEM_LANE void InlineGatherBody(const InlineGatherTask& task) {
  const uint32_t tile = BlockIndex() * kBlockWarps + BlockWarpIndex();
  if (tile >= task.count) return;
  const InlineGatherTask::SmallTile from = task.tiles[tile], to = task.tiles[tile + 1];
  GatherTile(task.runs, {from.run, from.offset}, {to.run, to.offset});
}

}  // namespace devmem::lane
