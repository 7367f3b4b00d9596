// SPDX-License-Identifier: Apache-2.0
#include "base/memory_account.h"

#include <gmock/gmock.h>

#include "base/testing/counted_memory.h"

namespace devmem {
namespace {

TEST(MemoryAccount, HoldsUpToTheLimitAndGivesBack) {
  CountedMemory limit(100);
  const auto account = limit.Account(0);
  {
    HeldMemory a(account), b(account);
    ASSERT_TRUE(a.Resize(60).ok());
    ASSERT_TRUE(b.Add(30).ok());
    EXPECT_EQ(limit.used(), 90u);
    EXPECT_EQ(b.Add(11).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(b.bytes(), 30u);
    EXPECT_EQ(b.Resize(UINT64_MAX).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(limit.used(), 90u);
    a.Subtract(20);
    EXPECT_EQ(limit.used(), 70u);
    EXPECT_TRUE(b.Add(11).ok());
    EXPECT_EQ(account->held(), 81u);
  }
  EXPECT_EQ(limit.used(), 0u);
}

TEST(MemoryAccount, WhatIsMovedIsHeldOnce) {
  CountedMemory limit(100);
  HeldMemory last(limit.Account(0));
  ASSERT_TRUE(last.Resize(10).ok());
  {
    HeldMemory first(limit.Account(0));
    ASSERT_TRUE(first.Resize(60).ok());
    HeldMemory second(std::move(first));
    last = std::move(second);
  }
  EXPECT_EQ(limit.used(), 60u);
  EXPECT_EQ(last.bytes(), 60u);
  last.Clear();
  EXPECT_EQ(limit.used(), 0u);
}

TEST(MemoryAccount, TheFirstBytesAreFree) {
  CountedMemory limit(5);
  HeldMemory held(limit.Account(10));
  ASSERT_TRUE(held.Resize(10).ok());
  EXPECT_EQ(limit.used(), 0u);
  ASSERT_TRUE(held.Resize(13).ok());
  EXPECT_EQ(limit.used(), 3u);
  EXPECT_FALSE(held.Resize(16).ok());
  ASSERT_TRUE(held.Resize(4).ok());
  EXPECT_EQ(limit.used(), 0u);
}

TEST(MemoryAccount, WithoutOneNothingIsCounted) {
  HeldMemory held;
  EXPECT_TRUE(held.Resize(UINT64_MAX).ok());
  EXPECT_TRUE(held.Add(1).ok());
}

}  // namespace
}  // namespace devmem
