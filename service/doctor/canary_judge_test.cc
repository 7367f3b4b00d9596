// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/canary_judge.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace devmem::doctor {
namespace {

constexpr size_t kPool = 64 << 10;
constexpr size_t kPage = 4096;
const Poison kPoison(1);

std::vector<std::byte> Sent(size_t bytes) {
  std::mt19937_64 random(7);
  std::vector<std::byte> sent(bytes);
  for (std::byte& each : sent) each = static_cast<std::byte>(random());
  return sent;
}

// A pool as it was before the bind, with some of a stream written into it.
struct Memory {
  std::vector<std::byte> pool = std::vector<std::byte>(kPool);
  std::vector<std::byte> sent;
  std::vector<PoolFragment> fragments;

  explicit Memory(std::vector<std::byte> stream) : sent(std::move(stream)) { kPoison.Fill(pool, 0); }
  // As the NIC says that it did.
  void Told(uint64_t at, uint64_t stream, uint64_t bytes) { fragments.push_back({at, stream, bytes}); }
  void Write(uint64_t at, uint64_t stream, uint64_t bytes) {
    std::copy_n(sent.begin() + static_cast<ptrdiff_t>(stream), bytes, pool.begin() + static_cast<ptrdiff_t>(at));
  }
  void Both(uint64_t at, uint64_t stream, uint64_t bytes) {
    Told(at, stream, bytes);
    Write(at, stream, bytes);
  }
  [[nodiscard]] std::optional<Fault> Judged(uint64_t from = 0) const {
    return Judge(pool, kPoison, fragments, std::span(sent).subspan(from), from);
  }
};

TEST(Poison, IsTheSameHoweverItIsRead) {
  std::vector<std::byte> whole(100), part(50);
  kPoison.Fill(whole, 4096);
  kPoison.Fill(part, 4096 + 48);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 48));
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(kPoison.At(4096 + i), whole[i]) << i;
}

TEST(Poison, DiffersFromPlaceToPlaceAndBySeed) {
  std::vector<std::byte> here(kPage), there(kPage), other(kPage);
  kPoison.Fill(here, 0);
  kPoison.Fill(there, kPage);
  Poison(2).Fill(other, 0);
  EXPECT_NE(here, there);
  EXPECT_NE(here, other);
}

TEST(Judge, WhatIsInItsPlaceIsRight) {
  Memory memory(Sent(3000));
  memory.Both(5 * kPage, 0, 1448);
  memory.Both(2 * kPage + 7, 1448, 1552);
  EXPECT_EQ(memory.Judged(), std::nullopt);
}

TEST(Judge, OnlyWhatWasAskedFor) {
  Memory memory(Sent(3000));
  memory.Told(0, 0, 1000);  // never written, and not asked about
  memory.Both(kPage, 1000, 2000);
  EXPECT_EQ(memory.Judged(1000), std::nullopt);
}

TEST(Judge, ALostWriteShowsThePoison) {
  Memory memory(Sent(3000));
  memory.Both(0, 0, 1448);
  memory.Told(kPage, 1448, 1552);
  const auto fault = memory.Judged();
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, Fault::Kind::kLost);
  // Some bytes of the poison are by chance what was sent.
  EXPECT_LT(fault->stream, 1448U + 8);
  EXPECT_EQ(fault->pool - kPage, fault->stream - 1448);
  EXPECT_GT(fault->bytes, 1500U);
}

TEST(Judge, AMisplacedWriteIsFound) {
  Memory memory(Sent(3000));
  memory.Both(0, 0, 1448);
  memory.Told(kPage, 1448, 1552);
  memory.Write(9 * kPage + 100, 1448, 1552);
  const auto fault = memory.Judged();
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, Fault::Kind::kMisplaced);
  EXPECT_EQ(fault->found - (9 * kPage + 100), fault->stream - 1448);
}

TEST(Judge, ARowOfMisplacedWritesIsFoundThoughEachCoversTheLast) {
  Memory memory(Sent(8000));
  for (uint64_t i = 0; i < 8; ++i) {
    memory.Told(i * kPage, i * 1000, 1000);
    memory.Write((i + 1) * kPage, i * 1000, 1000);
  }
  const auto fault = memory.Judged();
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, Fault::Kind::kMisplaced);
  EXPECT_EQ(fault->found - kPage, fault->pool);
}

TEST(Judge, OfSuchARowTheLastIsFoundWhereTheFirstIsNot) {
  Memory memory(Sent(8000));
  for (uint64_t i = 0; i < 8; ++i) {
    memory.Told(i * kPage, i * 1000, 1000);
    memory.Write(9 * kPage, i * 1000, 1000);  // all to one place
  }
  const auto fault = memory.Judged();
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, Fault::Kind::kMisplaced);
  EXPECT_GE(fault->stream, 7000U);
  EXPECT_EQ(fault->found - 9 * kPage, fault->stream - 7000);
  EXPECT_GT(fault->bytes, 7900U);
}

TEST(Judge, BytesThatRepeatAreNotTakenForMisplacedOnes) {
  std::vector<std::byte> stream(3000, std::byte{0});
  Memory memory(std::move(stream));
  memory.Both(0, 0, 1448);  // zeros, by right
  memory.Told(kPage, 1448, 1552);
  const auto fault = memory.Judged();
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, Fault::Kind::kLost);
}

TEST(Judge, NorAreThoseOfAnEarlierAnswer) {
  std::vector<std::byte> stream = Sent(100);
  stream.insert(stream.end(), stream.begin(), stream.end());
  Memory memory(std::move(stream));
  memory.Both(0, 0, 100);
  memory.Told(kPage, 100, 100);
  const auto fault = memory.Judged(100);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, Fault::Kind::kLost);
}

TEST(Judge, OtherBytesAreNeither) {
  Memory memory(Sent(1448));
  memory.Both(0, 0, 1448);
  memory.pool[77] ^= std::byte{0xff};
  EXPECT_EQ(memory.Judged(), (Fault{.kind = Fault::Kind::kGarbled, .stream = 77, .pool = 77, .bytes = 1}));
}

TEST(Judge, AHeadThatIsNotThereIsLookedForByItsFirstWord) {
  const std::string_view word = "HTTP/1.";
  const auto sent = std::as_bytes(std::span(word.data(), word.size()));
  std::vector<std::byte> pool(kPool);
  kPoison.Fill(pool, 0);
  const std::vector<PoolFragment> fragments = {{.pool = kPage, .stream = 0, .bytes = 500}};
  EXPECT_EQ(Judge(pool, kPoison, fragments, sent, 0)->kind, Fault::Kind::kLost);
  std::copy(sent.begin(), sent.end(), pool.begin() + 3 * kPage);
  const auto fault = Judge(pool, kPoison, fragments, sent, 0);
  EXPECT_EQ(fault->kind, Fault::Kind::kMisplaced);
  EXPECT_EQ(fault->found, 3 * kPage);
}

TEST(Judge, AFragmentBeyondThePoolIsNoReasonToReadThere) {
  Memory memory(Sent(100));
  memory.Told(kPool - 10, 0, 100);
  memory.Told(UINT64_MAX - 10, 0, 100);
  EXPECT_EQ(memory.Judged(), std::nullopt);
}

}  // namespace
}  // namespace devmem::doctor
