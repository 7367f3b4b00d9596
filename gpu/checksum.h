// SPDX-License-Identifier: Apache-2.0
// Checksums of bytes that the CPU can read, and of strings put together of parts whose checksums are known.
//
//   uint64_t sum = ChecksumOf(Checksum::kCrc32c, bytes);
//   uint64_t both = CombineChecksums(Checksum::kCrc32c, first, second, second_bytes);   // of the two one after the other
//
// Pure functions; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gpu/device.h"

namespace devmem {

// CRC32C in the low 32 bits.
[[nodiscard]] uint64_t ChecksumOf(Checksum kind, std::span<const std::byte> bytes);

// The checksum of two strings one after the other, the second of them `second_bytes` long.
[[nodiscard]] uint64_t CombineChecksums(Checksum kind, uint64_t first, uint64_t second, uint64_t second_bytes);

}  // namespace devmem
