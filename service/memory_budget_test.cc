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

TEST(MemoryBudget, AHigherLimitCountsAtOnce) {
  MemoryBudget budget(100);
  const auto held = budget.Reserve(100);
  EXPECT_FALSE(budget.Reserve(1).ok());
  budget.SetLimit(150);
  EXPECT_TRUE(budget.Reserve(50).ok());
}

}  // namespace
}  // namespace devmem
