// SPDX-License-Identifier: Apache-2.0
#include "gpu/checksum.h"

#include <array>
#include <cstring>

#include "gpu/checksum_algebra.h"

namespace devmem {
namespace {

template <typename Crc>
uint64_t Compute(std::span<const std::byte> bytes) {
  using Word = typename Crc::Word;
  constexpr size_t kStep = 16;
  static const auto tables = CrcTables<Crc, kStep>();
  auto crc = static_cast<Word>(~Word{0});
  for (; bytes.size() >= kStep; bytes = bytes.subspan(kStep)) {
    std::array<uint8_t, kStep> block;
    std::memcpy(block.data(), bytes.data(), kStep);
    Word first;
    std::memcpy(&first, block.data(), sizeof(first));
    first ^= crc;
    std::memcpy(block.data(), &first, sizeof(first));
    crc = 0;
    for (size_t i = 0; i < kStep; ++i) crc ^= tables[kStep - 1 - i][block[i]];
  }
  for (const std::byte byte : bytes) crc = static_cast<Word>((crc >> 8) ^ tables[0][(crc ^ static_cast<uint8_t>(byte)) & 0xff]);
  return static_cast<Word>(~crc);
}

// crc(A B) = crc(A) x^|B| + crc(B): the ones at start and end of the three cancel.
template <typename Crc>
uint64_t Combine(uint64_t first, uint64_t second, uint64_t second_bytes) {
  using Word = typename Crc::Word;
  return MultiplyModulo<Crc>(static_cast<Word>(first), PowerOfBytes<Crc>(second_bytes)) ^ static_cast<Word>(second);
}

}  // namespace

uint64_t ChecksumOf(Checksum kind, std::span<const std::byte> bytes) {
  return kind == Checksum::kCrc32c ? Compute<Crc32c>(bytes) : Compute<Crc64Nvme>(bytes);
}

uint64_t CombineChecksums(Checksum kind, uint64_t first, uint64_t second, uint64_t second_bytes) {
  return kind == Checksum::kCrc32c ? Combine<Crc32c>(first, second, second_bytes)
                                   : Combine<Crc64Nvme>(first, second, second_bytes);
}

}  // namespace devmem
