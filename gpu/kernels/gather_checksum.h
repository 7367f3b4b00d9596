// SPDX-License-Identifier: Apache-2.0
// The gather fused with a CRC of every run.
//
//   1. A warp takes a piece's 16-byte words of the destination, the first and the last filled up with zeros, 32 words a round;
//   rounds are
//      counted so that the last word is the last lane's. Zeros in front change nothing of a register of zeros.
//   2. A lane: register = register * x^(8 * 512) + its word's remainder. The word's 16 bytes are looked up in 16 tables of 256,
//   and the
//      register's bytes in tables of that product.
//   3. At the end, lane i's register lies 31 - i words before the end: times x^(8 * 16 * (31 - i)), and all together by
//   exclusive or.
//   4. The last word's zeros are taken away again, and where the run goes on behind the piece, the register is multiplied by
//   what follows;
//      so the pieces of a run come together by exclusive or, in any order. SumsBody makes the usual values of the sums.
#pragma once

#include <cstdint>

#include "gpu/checksum_algebra.h"
#include "gpu/kernels/gather.h"

namespace devmem::lane {

// In the device's memory, and from there in the block's shared memory.
template <typename Crc>
struct ChecksumTables {
  using Word = typename Crc::Word;
  Word of_byte[16][256];             // [k]: a byte with k zero bytes behind it
  Word of_round[sizeof(Word)][256];  // [k]: byte k of the register, 512 zero bytes behind it
  Word of_lane[kWarp];               // x^(8 * 16 * (31 - lane))
  Word of_padding[16];               // x^(-8 * bytes)
  Word of_power[16][16];             // [k][d]: x^(8 * d * 16^k)
};

// x^(8 * bytes), a hexadecimal digit at a time.
template <typename Crc>
DEVMEM_LANE typename Crc::Word PowerByTable(const ChecksumTables<Crc>& tables, uint64_t bytes) {
  typename Crc::Word power = kCrcOne<Crc>;
#pragma unroll 1
  for (int k = 0; bytes != 0; bytes >>= 4, ++k) {
    if ((bytes & 15) != 0) power = MultiplyModulo<Crc>(power, tables.of_power[k][bytes & 15]);
  }
  return power;
}

template <typename Crc>
DEVMEM_LANE typename Crc::Word WordRemainder(const ChecksumTables<Crc>& tables, const Word16& word) {
  typename Crc::Word remainder = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) remainder ^= tables.of_byte[15 - i][(word.x[i / 4] >> (i % 4 * 8)) & 0xff];
  return remainder;
}

template <typename Crc>
DEVMEM_LANE typename Crc::Word NextRound(const ChecksumTables<Crc>& tables, typename Crc::Word value) {
  typename Crc::Word next = 0;
#pragma unroll
  for (unsigned i = 0; i < sizeof(value); ++i) next ^= tables.of_round[i][(value >> (8 * i)) & 0xff];
  return next;
}

// The bytes [from, to) of the 16 at `source`; the others are not read, and 0. Rare (a piece's ends), so short rather than fast.
DEVMEM_LANE Word16 LoadPart(uint64_t source, uint32_t from, uint32_t to) {
  uint64_t low = 0, high = 0;
#pragma unroll 1
  for (uint32_t i = from; i < to; ++i) {
    const uint64_t byte = static_cast<uint64_t>(Load1(source + i)) << (i % 8 * 8);
    low |= i < 8 ? byte : 0;
    high |= i < 8 ? 0 : byte;
  }
  return {{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high),
           static_cast<uint32_t>(high >> 32)}};
}

DEVMEM_LANE void StorePart(uint64_t destination, const Word16& word, uint32_t from, uint32_t to) {
  const uint64_t low = static_cast<uint64_t>(word.x[1]) << 32 | word.x[0];
  const uint64_t high = static_cast<uint64_t>(word.x[3]) << 32 | word.x[2];
#pragma unroll 1
  for (uint32_t i = from; i < to; ++i) Store1(destination + i, static_cast<uint8_t>((i < 8 ? low : high) >> (i % 8 * 8)));
}

DEVMEM_LANE Word16 LoadAny(uint64_t source) {
  const uint64_t base = source & ~uint64_t{15};
  const Word16 low = Load16(base);
  if (base == source) return low;
  const Word16 high = Load16(base + 16);
  const uint32_t bits = static_cast<uint32_t>(source % 4) * 8;
  switch (source / 4 % 4) {
    case 0:
      return Realign<0>(low, high, bits);
    case 1:
      return Realign<1>(low, high, bits);
    case 2:
      return Realign<2>(low, high, bits);
    default:
      return Realign<3>(low, high, bits);
  }
}

// Copies a piece with the whole warp; every lane returns its CRC, as if the bytes ended at the next multiple of 16 of the
// destination with zeros.
template <typename Crc>
DEVMEM_LANE typename Crc::Word ChecksumByWarp(const ChecksumTables<Crc>& tables, uint64_t source, uint64_t destination,
                                              uint64_t bytes) {
  const uint32_t lane = LaneIndex();
  const uint32_t lead = static_cast<uint32_t>(destination % 16);  // bytes of the first word that are not the piece's
  const uint64_t words = (lead + bytes + 15) / 16;
  const uint64_t rounds = (words + kWarp - 1) / kWarp;
  const uint64_t absent = rounds * kWarp - words;  // words before the first one
  const uint64_t from = source - lead, to = destination - lead;
  const auto begin_of = [&](uint64_t at) { return at < lead ? lead : 0; };
  const auto end_of = [&](uint64_t at) { return lead + bytes - at < 16 ? static_cast<uint32_t>(lead + bytes - at) : 16; };
  const auto load = [&](uint64_t round) -> Word16 {
    const uint64_t index = round * kWarp + lane;
    if (round >= rounds || index < absent) return {{0, 0, 0, 0}};
    const uint64_t at = (index - absent) * 16;
    if (begin_of(at) == 0 && end_of(at) == 16) return LoadAny(from + at);
    return LoadPart(from + at, begin_of(at), end_of(at));
  };
  typename Crc::Word value = 0;
  Word16 next = load(0);
#pragma unroll 1
  for (uint64_t round = 0; round < rounds; ++round) {
    const Word16 word = next;
    next = load(round + 1);  // on its way while the tables are looked up
    const uint64_t index = round * kWarp + lane;
    if (index >= absent) {
      const uint64_t at = (index - absent) * 16;
      if (begin_of(at) == 0 && end_of(at) == 16) {
        Store16(to + at, word);
      } else {
        StorePart(to + at, word, begin_of(at), end_of(at));
      }
    }
    value = NextRound(tables, value) ^ WordRemainder(tables, word);
  }
  value = MultiplyModulo<Crc>(value, tables.of_lane[lane]);
  for (uint32_t mask = kWarp / 2; mask != 0; mask /= 2) value ^= XorShuffle(value, mask);
  return value;
}

// `shared`: the block's, as large as the tables.
template <typename Crc>
DEVMEM_LANE void ChecksumBody(const ChecksumTask& task, ChecksumTables<Crc>* shared) {
  using Word = typename Crc::Word;
  const auto* const tables = static_cast<const Word*>(task.tables);
  auto* const copy = reinterpret_cast<Word*>(shared);
  for (uint32_t i = ThreadIndex(); i < sizeof(*shared) / sizeof(Word); i += kBlockThreads) copy[i] = tables[i];
  BlockBarrier();
  // The tables are dear: a block has as many tiles as it comes to.
  for (uint32_t tile = BlockIndex() * kBlockWarps + BlockWarpIndex(); tile < task.count; tile += GridBlocks() * kBlockWarps) {
    const Tile from = task.tiles[tile], to = task.tiles[tile + 1];
    ForPieces(
        task.runs, from, to,
        [&](uint64_t source, uint64_t destination, uint64_t bytes, uint64_t run) {
          Word value = ChecksumByWarp<Crc>(*shared, source, destination, bytes);
          if (LaneIndex() != 0) return;
          value = MultiplyModulo<Crc>(value, shared->of_padding[(0 - (destination + bytes)) & 15]);
          const uint64_t behind = run == to.run ? task.runs[run].bytes - to.offset : 0;
          if (behind != 0) value = MultiplyModulo<Crc>(value, PowerByTable<Crc>(*shared, behind));
          AtomicXor(task.sums + run, value);
        },
        [](uint64_t, uint64_t, uint64_t, uint64_t) {}, 0);
  }
}

// One thread a run: of a register of ones, inverted.
template <typename Crc>
DEVMEM_LANE void SumsBody(const SumsTask& task) {
  using Word = typename Crc::Word;
  const uint64_t run = uint64_t{BlockIndex()} * kBlockThreads + ThreadIndex();
  if (run >= task.run_count) return;
  const Word ones = static_cast<Word>(~Word{0});
  const Word power = PowerByTable<Crc>(*static_cast<const ChecksumTables<Crc>*>(task.tables), task.runs[run].bytes);
  task.sums[run] = static_cast<Word>(static_cast<Word>(task.sums[run]) ^ MultiplyModulo<Crc>(ones, power) ^ ones);
}

}  // namespace devmem::lane
