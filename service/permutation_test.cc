// SPDX-License-Identifier: Apache-2.0
#include "service/permutation.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(PermutationTest, EverySmallSizeIsABijectionWithItsInverse) {
  for (uint64_t n = 0; n <= 2000; ++n) {
    const Permutation permutation(n, PermutationKey({n, 1}));
    EXPECT_EQ(permutation.size(), n);
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t value = permutation.Forward(i);
      ASSERT_LT(value, n);
      ASSERT_FALSE(seen[value]) << n;
      seen[value] = true;
      ASSERT_EQ(permutation.Inverse(value), i) << n;
    }
  }
}

TEST(PermutationTest, SampledLargeSizes) {
  std::mt19937_64 random(3);
  for (const uint64_t n :
       {(uint64_t{1} << 20) + 1, uint64_t{1'000'000'007}, (uint64_t{1} << 32) - 1, uint64_t{1} << 32,
        (uint64_t{1} << 47) + 12345, (uint64_t{1} << 62) + 1, Permutation::kMaxSize - 1, Permutation::kMaxSize}) {
    const Permutation permutation(n, PermutationKey({n}));
    std::set<uint64_t> values;
    for (int i = 0; i < 2000; ++i) {
      const uint64_t index = random() % n;
      const uint64_t value = permutation.Forward(index);
      ASSERT_LT(value, n);
      ASSERT_EQ(permutation.Inverse(value), index);
      values.insert(value);
    }
    for (uint64_t value : {uint64_t{0}, n - 1}) EXPECT_EQ(permutation.Forward(permutation.Inverse(value)), value);
    EXPECT_GT(values.size(), 1990U - (n < (1U << 21) ? 20 : 0));
  }
}

// Pearson's chi-square over `cells` equally likely cells is about normal with mean cells - 1, variance 2 (cells - 1).
void ExpectUniform(const std::vector<uint64_t>& counts) {
  double total = 0;
  for (const uint64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  double chi = 0;
  for (const uint64_t count : counts)
    chi += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
  const double freedom = static_cast<double>(counts.size()) - 1;
  EXPECT_LT(chi, freedom + 5 * std::sqrt(2 * freedom) + 5);
}

TEST(PermutationTest, OverManyKeysEveryPlaceGetsEveryValueEquallyOften) {
  for (const uint64_t n : {2, 3, 5, 8, 13, 16, 31, 64}) {
    SCOPED_TRACE(n);
    std::vector<uint64_t> counts(n * n);
    for (uint64_t key = 0; key < 20'000; ++key) {
      const Permutation permutation(n, PermutationKey({42, key}));
      for (uint64_t i = 0; i < n; ++i) ++counts[i * n + permutation.Forward(i)];
    }
    // Per place: the rows of a permutation matrix depend on one another.
    for (uint64_t i = 0; i < n; ++i) {
      ExpectUniform({counts.begin() + static_cast<ptrdiff_t>(i * n), counts.begin() + static_cast<ptrdiff_t>((i + 1) * n)});
    }
  }
}

TEST(PermutationTest, NeighboursScatterEverywhere) {
  constexpr uint64_t kSize = 1'000'003;
  const Permutation permutation(kSize, PermutationKey({5}));
  std::vector<uint64_t> distances(100);
  std::vector<uint64_t> first(100);
  for (uint64_t i = 0; i + 1 < 200'000; ++i) {
    const uint64_t a = permutation.Forward(i);
    const uint64_t b = permutation.Forward(i + 1);
    ++distances[(b + kSize - a) % kSize * 100 / kSize];
    if (i < 100'000) ++first[a * 100 / kSize];
  }
  ExpectUniform(distances);
  ExpectUniform(first);
}

TEST(PermutationTest, KeysAndTheirWordsMatter) {
  EXPECT_NE(PermutationKey({1, 2}), PermutationKey({2, 1}));
  EXPECT_NE(PermutationKey({0}), PermutationKey({0, 0}));
  EXPECT_NE(PermutationKey({}), PermutationKey({0}));
  int same = 0;
  const Permutation a(1000, PermutationKey({7, 0}));
  const Permutation b(1000, PermutationKey({7, 1}));
  for (uint64_t i = 0; i < 1000; ++i) same += a.Forward(i) == b.Forward(i) ? 1 : 0;
  EXPECT_LT(same, 10);  // 1 is expected
}

// Saved cursors speak of this very order. If this fails, raise kPlanVersion with the new numbers.
TEST(PermutationTest, TheMappingIsFrozen) {
  const Permutation permutation(10, PermutationKey({1, 2, 3}));
  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < 10; ++i) order.push_back(permutation.Forward(i));
  EXPECT_EQ(order, (std::vector<uint64_t>{2, 1, 8, 7, 0, 5, 9, 3, 4, 6}));
}

}  // namespace
}  // namespace devmem
