// SPDX-License-Identifier: Apache-2.0
#include "gpu/simt/simt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

#include "gpu/kernels/lane.h"

namespace devmem {
namespace {

TEST(Simt, EveryThreadRunsOnce) {
  std::vector<int> ran(size_t{3} * kBlockThreads, 0);
  simt::Launch({.blocks = 3}, [&] {
    EXPECT_EQ(lane::GridBlocks(), 3U);
    ++ran[(lane::BlockIndex() * kBlockThreads) + lane::ThreadIndex()];
  });
  EXPECT_THAT(ran, testing::Each(1));
}

TEST(Simt, LanesExchangeWithinTheirWarp) {
  simt::Launch({.blocks = 1, .seed = 5}, [] {
    const uint64_t mine = lane::ThreadIndex();
    for (uint32_t turn = 0; turn < 40; ++turn) {
      EXPECT_EQ(lane::Shuffle(mine + turn, turn % kWarp), (lane::BlockWarpIndex() * kWarp) + (turn % kWarp) + turn);
    }
    EXPECT_EQ(lane::Ballot(mine % 3 == 0 && lane::BlockWarpIndex() == 0), lane::BlockWarpIndex() == 0 ? 0x49249249U : 0U);
    uint64_t sum = mine;
    for (uint32_t mask = 16; mask != 0; mask /= 2) sum += lane::XorShuffle(sum, mask);
    EXPECT_EQ(sum, (uint64_t{kWarp} * lane::BlockWarpIndex() * kWarp) + 496);
  });
}

TEST(Simt, ABarrierWaitsForAllThatAreLeft) {
  std::array<uint32_t, kBlockThreads> written{};
  simt::Launch({.blocks = 1, .seed = 9}, [&] {
    if (lane::BlockWarpIndex() == 3) return;
    written[lane::ThreadIndex()] = 1;
    lane::BlockBarrier();
    for (uint32_t thread = 0; thread < 3 * kWarp; ++thread) EXPECT_EQ(written[thread], 1U);
  });
}

TEST(Simt, TheSeedChangesTheOrder) {
  std::set<std::vector<uint32_t>> orders;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::vector<uint32_t> order;
    simt::Launch({.blocks = 1, .seed = seed}, [&] { order.push_back(lane::ThreadIndex()); });
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 1U);
}

TEST(SimtDeathTest, SaysWhatIsWrongWithAKernel) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(simt::Launch({.blocks = 1},
                            [] {
                              if (lane::LaneIndex() != 7) (void)lane::Ballot(true);
                            }),
               "went another way");
  alignas(16) std::array<uint8_t, 32> bytes{};
  const auto address = reinterpret_cast<uint64_t>(bytes.data());
  EXPECT_DEATH(simt::Launch({.blocks = 1}, [&] { (void)lane::Load16(address + 4); }), "thread [0-9]+: an unaligned load");
}

}  // namespace
}  // namespace devmem
