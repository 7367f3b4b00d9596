// SPDX-License-Identifier: Apache-2.0
#include "gpu/checksum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

#include "gpu/checksum_algebra.h"

namespace devmem {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

TEST(Checksum, PublishedVectors) {
  // RFC 3720, appendix B.4; the check values of the catalogue of parametrised CRC algorithms.
  EXPECT_EQ(ChecksumOf(Checksum::kCrc32c, Bytes("123456789")), 0xe3069283U);
  EXPECT_EQ(ChecksumOf(Checksum::kCrc64Nvme, Bytes("123456789")), 0xae8b14860a799888U);
  const std::vector<std::byte> zeros(32, std::byte{0}), ones(32, std::byte{0xff});
  EXPECT_EQ(ChecksumOf(Checksum::kCrc32c, zeros), 0x8a9136aaU);
  EXPECT_EQ(ChecksumOf(Checksum::kCrc32c, ones), 0x62a8ab43U);
  std::vector<std::byte> rising(32);
  for (size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<std::byte>(i);
  EXPECT_EQ(ChecksumOf(Checksum::kCrc32c, rising), 0x46dd794eU);
  EXPECT_EQ(ChecksumOf(Checksum::kCrc32c, {}), 0U);
  EXPECT_EQ(ChecksumOf(Checksum::kCrc64Nvme, {}), 0U);
}

template <typename Crc>
class CrcAlgebra : public testing::Test {};
using Crcs = testing::Types<Crc32c, Crc64Nvme>;
TYPED_TEST_SUITE(CrcAlgebra, Crcs);

TYPED_TEST(CrcAlgebra, InverseUndoes) {
  for (unsigned bytes = 0; bytes <= 64; ++bytes) {
    EXPECT_EQ(MultiplyModulo<TypeParam>(PowerOfBytes<TypeParam>(bytes), InversePowerOfBytes<TypeParam>(bytes)),
              kCrcOne<TypeParam>)
        << bytes;
  }
}

TYPED_TEST(CrcAlgebra, PowersAdd) {
  for (const uint64_t bytes : {0ULL, 1ULL, 7ULL, 512ULL, 123456789ULL, 1ULL << 62}) {
    EXPECT_EQ(MultiplyModulo<TypeParam>(PowerOfBytes<TypeParam>(bytes), PowerOfBytes<TypeParam>(5)),
              PowerOfBytes<TypeParam>(bytes + 5));
  }
}

TEST(Checksum, CombinesAnySplit) {
  std::mt19937_64 random(7);
  std::vector<std::byte> bytes(700);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (const Checksum kind : {Checksum::kCrc32c, Checksum::kCrc64Nvme}) {
    const uint64_t whole = ChecksumOf(kind, bytes);
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
      const std::span<const std::byte> all(bytes);
      ASSERT_EQ(
          CombineChecksums(kind, ChecksumOf(kind, all.first(cut)), ChecksumOf(kind, all.subspan(cut)), bytes.size() - cut),
          whole)
          << cut;
    }
  }
}

}  // namespace
}  // namespace devmem
