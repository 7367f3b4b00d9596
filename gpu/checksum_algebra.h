// SPDX-License-Identifier: Apache-2.0
// CRC32C and CRC64NVME as algebra, so that parts computed anywhere (a fragment by a warp, a range by the CPU) come together.
//
// Both are reflected CRCs: a bit string is a polynomial over GF(2) whose first bit is the highest power, kept with bit 0 of a
// word as the highest power; the register starts as all ones and ends inverted.
//
// Constant expressions, for the host's compiler and the device's alike. Polynomials: RFC 3720, section 12.1 (Castagnoli); NVM
// Express NVM Command Set 1.0, section 5.2.1.3.4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace devmem {

// One CRC: its word and reflected polynomial, without the highest power.
struct Crc32c {
  using Word = uint32_t;
  static constexpr Word kPolynomial = 0x82f63b78U;
};
struct Crc64Nvme {
  using Word = uint64_t;
  static constexpr Word kPolynomial = 0x9a6c9329ac4bc9b5U;
};

// a * b mod P. The word with only its highest bit is 1; the bit below it is x.
template <typename Crc>
constexpr typename Crc::Word MultiplyModulo(typename Crc::Word a, typename Crc::Word b) {
  using Word = typename Crc::Word;
  Word product = 0;
  for (int bit = 8 * sizeof(Word) - 1; bit >= 0; --bit) {
    product ^= a & (Word{0} - ((b >> bit) & 1));
    a = static_cast<Word>((a >> 1) ^ (Crc::kPolynomial & (Word{0} - (a & 1))));
  }
  return product;
}

template <typename Crc>
inline constexpr typename Crc::Word kCrcOne = typename Crc::Word{1} << (8 * sizeof(typename Crc::Word) - 1);

// x^(8 * bytes) mod P: what `bytes` zero bytes behind a string multiply it by.
template <typename Crc>
constexpr typename Crc::Word PowerOfBytes(uint64_t bytes) {
  using Word = typename Crc::Word;
  Word result = kCrcOne<Crc>;
  Word square = kCrcOne<Crc> >> 8;  // x^8
  for (; bytes != 0; bytes >>= 1) {
    if ((bytes & 1) != 0) result = MultiplyModulo<Crc>(result, square);
    square = MultiplyModulo<Crc>(square, square);
  }
  return result;
}

// x^(-8 * bytes) mod P: takes zero bytes away again. x has an inverse because P has a constant term: to divide by x, add P
// where the lowest power is there, and shift.
template <typename Crc>
constexpr typename Crc::Word InversePowerOfBytes(unsigned bytes) {
  using Word = typename Crc::Word;
  Word result = kCrcOne<Crc>;
  for (unsigned bit = 0; bit < 8 * bytes; ++bit) {
    const Word low = result >> (8 * sizeof(Word) - 1);  // the constant term lies in the highest bit
    result = static_cast<Word>(((result ^ (Crc::kPolynomial & (Word{0} - low))) << 1) | low);
  }
  return result;
}

// kTables[k][b]: the byte b followed by k zero bytes, as a register of zeros would hold it.
template <typename Crc, size_t kCount>
constexpr std::array<std::array<typename Crc::Word, 256>, kCount> CrcTables() {
  using Word = typename Crc::Word;
  std::array<std::array<Word, 256>, kCount> tables{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    Word word = byte;
    for (int bit = 0; bit < 8; ++bit) word = static_cast<Word>((word >> 1) ^ (Crc::kPolynomial & (Word{0} - (word & 1))));
    tables[0][byte] = word;
  }
  for (size_t k = 1; k < kCount; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const Word word = tables[k - 1][byte];
      tables[k][byte] = static_cast<Word>((word >> 8) ^ tables[0][word & 0xff]);
    }
  }
  return tables;
}

}  // namespace devmem
