// SPDX-License-Identifier: Apache-2.0
#include "service/memory_budget.h"

#include <gmock/gmock.h>

namespace devmem {
namespace {

TEST(MemoryBudget, ALowerLimitTakesNothingAway) {
  MemoryBudget budget(100);
  auto held = budget.Reserve(80);
  ASSERT_TRUE(held.ok());
  budget.SetLimit(50);
  EXPECT_EQ(budget.limit(), 50u);
  EXPECT_EQ(budget.used(), 80u);
  const absl::Status refused = budget.Reserve(1).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Text(refused), ::testing::HasSubstr("of this node's 50 bytes 80 are in use"));
  held->reset();
  EXPECT_FALSE(budget.Reserve(51).ok());
  EXPECT_TRUE(budget.Reserve(50).ok());
}

TEST(MemoryBudget, SlabsAndTheRestShareTheLimit) {
  MemoryBudget budget(100, "as set");
  EXPECT_EQ(budget.source(), "as set");
  ASSERT_TRUE(budget.Take(60).ok());
  EXPECT_EQ(budget.taken(), 60u);
  EXPECT_EQ(budget.used(), 0u);
  EXPECT_THAT(Text(budget.Reserve(41).status()), ::testing::HasSubstr("of this node's 100 bytes 60 are in use"));
  auto slabs = budget.Reserve(40);
  ASSERT_TRUE(slabs.ok());
  const absl::Status refused = budget.Take(1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(FaultOf(refused), Fault::kMemoryLimit);
  budget.Give(20);
  EXPECT_TRUE(budget.Take(20).ok());
  slabs->reset();
  EXPECT_EQ(budget.Take(UINT64_MAX).code(), absl::StatusCode::kResourceExhausted);
  budget.Give(60);
  EXPECT_EQ(budget.taken(), 0u);
}

TEST(MemoryBudget, WhatCanNeverFitTakesNothingFromWhatIsKept) {
  MemoryBudget budget(100);
  auto kept = budget.Keep(20);
  ASSERT_NE(kept, nullptr);
  int given_up = 0;
  budget.OnShort([&] {
    ++given_up;
    kept.reset();
  });
  EXPECT_EQ(FaultOf(budget.Reserve(101).status()), Fault::kMemoryLimit);
  EXPECT_EQ(given_up, 0);
  EXPECT_TRUE(budget.Reserve(90).ok());
  EXPECT_EQ(given_up, 1);
  budget.OnShort(nullptr);
}

TEST(MemoryBudget, AHigherLimitCountsAtOnce) {
  MemoryBudget budget(100);
  const auto held = budget.Reserve(100);
  EXPECT_FALSE(budget.Reserve(1).ok());
  budget.SetLimit(150);
  EXPECT_TRUE(budget.Reserve(50).ok());
}

}  // namespace
}  // namespace devmem
