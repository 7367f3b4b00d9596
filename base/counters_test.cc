// SPDX-License-Identifier: Apache-2.0
#include "base/counters.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

namespace devmem {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

TEST(LatencyHistogram, ABoundBelongsToItsBucket) {
  struct {
    Duration took;
    size_t bucket;
  } const cases[] = {
      {-microseconds(3), 0},          {Duration::zero(), 0},         {microseconds(50), 0},
      {nanoseconds(50001), 1},        {microseconds(100), 1},        {std::chrono::milliseconds(1), 4},
      {std::chrono::seconds(30), 16}, {std::chrono::minutes(5), 17},
  };
  for (const auto& each : cases) {
    LatencyHistogram histogram;
    histogram.Observe(each.took);
    LatencyHistogram::Totals totals;
    totals += histogram;
    for (size_t i = 0; i < totals.counts.size(); ++i) EXPECT_EQ(totals.counts[i], i == each.bucket ? 1 : 0) << i;
  }
}

TEST(LatencyHistogram, SumsOverWriters) {
  LatencyHistogram one, other;
  one.Observe(microseconds(10));
  one.Observe(microseconds(70));
  other.Observe(microseconds(20));
  LatencyHistogram::Totals totals;
  totals += one;
  totals += other;
  EXPECT_EQ(totals.counts[0], 2);
  EXPECT_EQ(totals.counts[1], 1);
  EXPECT_EQ(totals.nanoseconds, 100'000);
}

TEST(LatencyHistogram, BoundsRise) {
  for (size_t i = 1; i < LatencyHistogram::kBounds.size(); ++i) {
    EXPECT_LT(LatencyHistogram::kBounds[i - 1], LatencyHistogram::kBounds[i]);
  }
}

TEST(Count, IsReadWhileItGrows) {
  constexpr uint64_t kAll = 200'000;
  Count count;
  std::thread writer([&count] {
    for (uint64_t i = 0; i < kAll; ++i) count.Add(1);
  });
  for (uint64_t last = 0; last < kAll;) {
    const uint64_t now = count.get();
    ASSERT_GE(now, last);
    last = now;
  }
  writer.join();
  EXPECT_EQ(count.get(), kAll);
}

}  // namespace
}  // namespace devmem
