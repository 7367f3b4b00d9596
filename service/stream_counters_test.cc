// SPDX-License-Identifier: Apache-2.0
#include "service/stream_counters.h"

#include <gtest/gtest.h>

#include <set>

namespace devmem {
namespace {

TEST(NodeCounters, SumOverWorkersThatComeLater) {
  NodeCounters node;
  StreamCounters& first = node.OfWorker(0);
  first.delivered[Index(BytePath::kCopy)][1].batches.Add(2);
  first.errors[Index(StoreKind::kS3)][kStatusCodes - 1].Add(1);
  first.credits_taken.Add(5);
  StreamCounters& ninth = node.OfWorker(8);
  EXPECT_EQ(&first, &node.OfWorker(0)) << "it stays in place";
  ninth.delivered[Index(BytePath::kCopy)][1].batches.Add(3);
  ninth.delivered[Index(BytePath::kDevmem)][1].batches.Add(7);
  ninth.credits_back.Add(4);
  ninth.stall_microseconds[Index(StallCause::kMemory)].Add(9);
  const StreamTotals totals = node.Sum();
  EXPECT_EQ(totals.delivered[Index(BytePath::kCopy)][1].batches, 5);
  EXPECT_EQ(totals.delivered[Index(BytePath::kDevmem)][1].batches, 7);
  EXPECT_EQ(totals.errors[Index(StoreKind::kS3)][kStatusCodes - 1], 1);
  EXPECT_EQ(totals.credits_taken - totals.credits_back, 1);
  EXPECT_EQ(totals.stall_microseconds[Index(StallCause::kMemory)], 9);
}

TEST(StallCause, NamesAreDistinct) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < kStallCauses; ++i) names.insert(Name(static_cast<StallCause>(i)));
  EXPECT_EQ(names.size(), kStallCauses);
}

}  // namespace
}  // namespace devmem
