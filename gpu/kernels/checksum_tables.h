// SPDX-License-Identifier: Apache-2.0
// Computes the tables of the checksum kernel, for the host to put into the device's memory.
#pragma once

#include <memory>

#include "gpu/checksum_algebra.h"
#include "gpu/kernels/gather_checksum.h"

namespace devmem {

template <typename Crc>
std::unique_ptr<lane::ChecksumTables<Crc>> MakeChecksumTables() {
  using Word = typename Crc::Word;
  constexpr uint64_t kRoundBytes = uint64_t{16} * kWarp;
  auto tables = std::make_unique<lane::ChecksumTables<Crc>>();
  const auto of_byte = CrcTables<Crc, 16>();
  for (size_t k = 0; k < 16; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) tables->of_byte[k][byte] = of_byte[k][byte];
    tables->of_padding[k] = InversePowerOfBytes<Crc>(static_cast<unsigned>(k));
  }
  const Word round = PowerOfBytes<Crc>(kRoundBytes);
  for (size_t k = 0; k < sizeof(Word); ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      tables->of_round[k][byte] = MultiplyModulo<Crc>(static_cast<Word>(static_cast<Word>(byte) << (8 * k)), round);
    }
  }
  for (unsigned k = 0; k < 16; ++k) {
    for (uint64_t digit = 0; digit < 16; ++digit) tables->of_power[k][digit] = PowerOfBytes<Crc>(digit << (4 * k));
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) tables->of_lane[lane] = PowerOfBytes<Crc>(16 * (kWarp - 1 - lane));
  return tables;
}

}  // namespace devmem
