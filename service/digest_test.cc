// SPDX-License-Identifier: Apache-2.0
#include "service/digest.h"

#include <gtest/gtest.h>

namespace devmem {
namespace {

// FIPS 180-2: SHA-256("abc") = ba7816bf 8f01cfea …; its first 8 bytes read as a little-endian number.
TEST(DigestTest, IsTheHeadOfSha256) {
  ShortDigest digest;
  digest.AddBytes("a");
  digest.AddBytes("bc");
  EXPECT_EQ(digest.Finish(), 0xeacf018fbf1678baULL);
}

TEST(DigestTest, DoesNotDependOnHowBytesAreAdded) {
  const std::string bytes(100'000, 'x');
  ShortDigest whole;
  whole.AddBytes(bytes);
  ShortDigest pieces;
  for (size_t at = 0; at < bytes.size();) {
    const size_t n = std::min<size_t>(bytes.size() - at, 1 + at * 7 % 30'000);
    pieces.AddBytes(std::string_view(bytes).substr(at, n));
    at += n;
  }
  EXPECT_EQ(whole.Finish(), pieces.Finish());
}

ObjectTable Table(std::string_view first, uint64_t size, std::string_view validator) {
  ObjectTable table;
  table.Add(first, size, validator);
  table.Add("z", 1, "");
  return table;
}

TEST(DigestTest, FingerprintSeesEveryPartOfAListing) {
  const uint64_t base = Fingerprint(Table("a", 10, "\"e\""), {});
  EXPECT_EQ(base, Fingerprint(Table("a", 10, "\"e\""), {}));
  EXPECT_NE(base, Fingerprint(Table("b", 10, "\"e\""), {}));
  EXPECT_NE(base, Fingerprint(Table("a", 11, "\"e\""), {}));
  EXPECT_NE(base, Fingerprint(Table("a", 10, "\"f\""), {}));
  EXPECT_NE(base, Fingerprint(Table("a", 10, ""), {}));
  const std::vector<Dataset::Skipped> skipped = {{.object = "x"}};
  EXPECT_NE(base, Fingerprint(Table("a", 10, "\"e\""), skipped));
}

}  // namespace
}  // namespace devmem
