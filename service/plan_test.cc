// SPDX-License-Identifier: Apache-2.0
#include "service/plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

Plan Make(const PlanSpec& spec) {
  auto plan = Plan::Create(spec);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

std::vector<uint64_t> Order(const Plan& plan, uint64_t epoch) {
  Plan::Hint hint;
  std::vector<uint64_t> order(plan.spec().samples);
  for (uint64_t i = 0; i < order.size(); ++i) order[i] = plan.SampleAt(epoch, i, hint);
  return order;
}

// Random specs: small numbers, so that every edge (short blocks, short windows, empty ranks) comes up often.
PlanSpec RandomSpec(std::mt19937_64& random) {
  PlanSpec spec;
  constexpr uint64_t kSamples[] = {0, 1, 2, 3, 7, 50, 400};
  spec.samples = random() % 3 == 0 ? kSamples[random() % 7] : random() % 300;
  spec.sample_bytes = uint64_t{1} << (random() % 24);
  spec.batch_size = 1 + static_cast<uint32_t>(random() % 9);
  spec.world_size = 1 + static_cast<uint32_t>(random() % 7);
  spec.rank = static_cast<uint32_t>(random() % spec.world_size);
  spec.tail = static_cast<TailRule>(random() % 3);
  spec.seed = random() % 5;
  spec.epochs = 1 + random() % 3;
  spec.shuffle.mode = static_cast<ShuffleMode>(random() % 4);
  spec.shuffle.window = 1 + random() % 60;
  spec.shuffle.block_samples = random() % 40;
  spec.shuffle.group_blocks = random() % 5;
  return spec;
}

std::string Describe(const PlanSpec& spec) {
  return "N=" + std::to_string(spec.samples) + " B=" + std::to_string(spec.batch_size) +
         " W=" + std::to_string(spec.world_size) + " tail=" + std::to_string(static_cast<int>(spec.tail)) +
         " mode=" + std::to_string(static_cast<int>(spec.shuffle.mode)) + " window=" + std::to_string(spec.shuffle.window) +
         " block=" + std::to_string(spec.shuffle.block_samples) + " K=" + std::to_string(spec.shuffle.group_blocks) +
         " seed=" + std::to_string(spec.seed);
}

constexpr int kSpecs = 1500;

template <typename Check>
void ForRandomSpecs(uint64_t seed, Check check) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < kSpecs; ++i) {
    const PlanSpec spec = RandomSpec(random);
    SCOPED_TRACE(Describe(spec));
    check(spec, random);
    if (testing::Test::HasFatalFailure()) return;
  }
}

Plan ForRank(PlanSpec spec, uint32_t rank) {
  spec.rank = rank;
  return Make(spec);
}

struct Row {
  uint64_t sample;
  bool padding;
};

std::vector<Row> Rows(const Plan& plan, const BatchPlan& batch, Plan::Hint& hint) {
  std::vector<Row> rows;
  for (uint32_t i = 0; i < batch.count; ++i) rows.push_back({plan.SampleOf(batch, i, hint), i >= batch.padding_from});
  return rows;
}

TEST(PlanTest, EveryEpochIsAPermutationOfAllSamples) {
  ForRandomSpecs(1, [](const PlanSpec& spec, std::mt19937_64&) {
    const Plan plan = Make(spec);
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<uint64_t> order = Order(plan, epoch);
      std::sort(order.begin(), order.end());
      for (uint64_t i = 0; i < order.size(); ++i) ASSERT_EQ(order[i], i) << "epoch " << epoch;
    }
  });
}

TEST(PlanTest, AHintNeverChangesTheAnswer) {
  ForRandomSpecs(2, [](const PlanSpec& spec, std::mt19937_64& random) {
    if (spec.samples == 0) return;
    const Plan plan = Make(spec);
    Plan::Hint hint;
    for (int i = 0; i < 50; ++i) {
      const uint64_t epoch = random() % 3;
      const uint64_t position = random() % spec.samples;
      ASSERT_EQ(plan.SampleAt(epoch, position, hint), plan.SampleAt(epoch, position));
      ASSERT_EQ(plan.GroupEnd(epoch, position, hint), plan.GroupEnd(epoch, position));
    }
  });
}

TEST(PlanTest, TheOrderDependsOnShuffleSeedAndEpochAlone) {
  ForRandomSpecs(3, [](const PlanSpec& spec, std::mt19937_64& random) {
    PlanSpec other = RandomSpec(random);
    other.samples = spec.samples;
    other.sample_bytes = spec.sample_bytes;
    other.shuffle = spec.shuffle;
    other.seed = spec.seed;
    ASSERT_EQ(Order(Make(spec), 1), Order(Make(other), 1));
    ASSERT_EQ(Make(spec).SpecHash("x"), Make(other).SpecHash("x"));
  });
}

TEST(PlanTest, EpochsAndSeedsDiffer) {
  for (const ShuffleMode mode : {ShuffleMode::kBlock, ShuffleMode::kWindow, ShuffleMode::kGlobal}) {
    PlanSpec spec{.samples = 500, .shuffle = {.mode = mode, .window = 100, .block_samples = 10}};
    const std::vector<uint64_t> first = Order(Make(spec), 0);
    EXPECT_NE(first, Order(Make(spec), 1));
    spec.seed = 1;
    EXPECT_NE(first, Order(Make(spec), 0));
  }
}

TEST(PlanTest, NoneIsTheStoredOrder) {
  const Plan plan = Make({.samples = 100, .shuffle = {.mode = ShuffleMode::kNone}, .seed = 9});
  std::vector<uint64_t> want(100);
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(Order(plan, 0), want);
  EXPECT_EQ(Order(plan, 5), want);
}

// All of an epoch from `start`, step by step over the ranks.
std::vector<Row> Interleave(const PlanSpec& spec, uint64_t epoch, uint64_t start, uint64_t steps = ~uint64_t{0}) {
  std::vector<Row> rows;
  std::vector<Plan> plans;
  std::vector<Plan::Hint> hints(spec.world_size);
  for (uint32_t rank = 0; rank < spec.world_size; ++rank) plans.push_back(ForRank(spec, rank));
  for (uint64_t step = 0; step < steps; ++step) {
    bool any = false;
    for (uint32_t rank = 0; rank < spec.world_size; ++rank) {
      const auto batch = plans[rank].BatchAtStep(epoch, start, step);
      if (!batch.has_value()) continue;
      any = true;
      for (const Row& row : Rows(plans[rank], *batch, hints[rank])) rows.push_back(row);
    }
    if (!any) break;
  }
  return rows;
}

TEST(PlanTest, UnevenDeliversEachSampleOnceInTheGlobalOrder) {
  ForRandomSpecs(4, [](PlanSpec spec, std::mt19937_64& random) {
    spec.tail = TailRule::kUneven;
    const std::vector<uint64_t> order = Order(Make(spec), 1);
    const uint64_t start = random() % 2 == 0 ? 0 : random() % (spec.samples + 1);
    const std::vector<Row> rows = Interleave(spec, 1, start);
    ASSERT_EQ(rows.size(), spec.samples - start);  // so each once, and the ranks are disjoint
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i].sample, order[start + i]);
      ASSERT_FALSE(rows[i].padding);
    }
  });
}

TEST(PlanTest, DropDeliversTheFullStepsOfTheSameOrder) {
  ForRandomSpecs(5, [](PlanSpec spec, std::mt19937_64& random) {
    spec.tail = TailRule::kDrop;
    const std::vector<uint64_t> order = Order(Make(spec), 0);
    const uint64_t start = random() % (spec.samples + 1);
    const uint64_t step = uint64_t{spec.batch_size} * spec.world_size;
    const std::vector<Row> rows = Interleave(spec, 0, start);
    ASSERT_EQ(rows.size(), (spec.samples - start) / step * step);
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i].sample, order[start + i]);
      ASSERT_FALSE(rows[i].padding);
    }
  });
}

TEST(PlanTest, PadFillsTheLastStepFromTheEpochsStartAndFlagsIt) {
  ForRandomSpecs(6, [](PlanSpec spec, std::mt19937_64& random) {
    spec.tail = TailRule::kPad;
    const std::vector<uint64_t> order = Order(Make(spec), 2);
    const uint64_t start = random() % (spec.samples + 1);
    const uint64_t step = uint64_t{spec.batch_size} * spec.world_size;
    const std::vector<Row> rows = Interleave(spec, 2, start);
    ASSERT_EQ(rows.size(), (spec.samples - start + step - 1) / step * step);
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i].padding, start + i >= spec.samples);
      ASSERT_EQ(rows[i].sample, order[(start + i) % spec.samples]);
    }
  });
}

TEST(PlanTest, DropAndPadGiveEveryRankTheSameNumberOfFullBatches) {
  ForRandomSpecs(7, [](PlanSpec spec, std::mt19937_64& random) {
    spec.tail = random() % 2 == 0 ? TailRule::kDrop : TailRule::kPad;
    const uint64_t start = random() % (spec.samples + 2);
    const uint64_t steps = ForRank(spec, 0).Steps(start);
    for (uint32_t rank = 0; rank < spec.world_size; ++rank) {
      const Plan plan = ForRank(spec, rank);
      ASSERT_EQ(plan.Steps(start), steps);
      for (uint64_t step = 0; step < steps; ++step) ASSERT_EQ(plan.BatchAtStep(0, start, step)->count, spec.batch_size);
      ASSERT_FALSE(plan.BatchAtStep(0, start, steps).has_value());
    }
  });
}

TEST(PlanTest, AWalkResumedAtAnyCursorContinuesExactly) {
  ForRandomSpecs(8, [](const PlanSpec& spec, std::mt19937_64&) {
    const Plan plan = Make(spec);
    Plan::Walk walk(plan);
    std::vector<BatchPlan> all;
    while (auto batch = walk.Next()) {
      ASSERT_GE(batch->count, 1U);
      ASSERT_LE(batch->padding_from, batch->count);
      all.push_back(*batch);
    }
    for (size_t cut = 0; cut < all.size(); cut += 1 + all.size() / 10) {
      Plan::Walk resumed(plan, all[cut].after);
      for (size_t i = cut + 1; i < all.size(); ++i) {
        const auto batch = resumed.Next();
        ASSERT_TRUE(batch.has_value());
        ASSERT_EQ(batch->epoch, all[i].epoch);
        ASSERT_EQ(batch->first_position, all[i].first_position);
        ASSERT_EQ(batch->count, all[i].count);
        ASSERT_EQ(batch->padding_from, all[i].padding_from);
        ASSERT_EQ(batch->after, all[i].after);
      }
      ASSERT_FALSE(resumed.Next().has_value());
    }
  });
}

TEST(PlanTest, TheWorldMayChangeBetweenSteps) {
  ForRandomSpecs(9, [](PlanSpec spec, std::mt19937_64& random) {
    spec.tail = TailRule::kUneven;
    const std::vector<uint64_t> order = Order(Make(spec), 0);
    std::vector<uint64_t> seen;
    for (Position cursor; cursor.position < spec.samples;) {
      spec.world_size = 1 + static_cast<uint32_t>(random() % 7);
      spec.batch_size = 1 + static_cast<uint32_t>(random() % 9);
      const uint64_t steps = 1 + random() % 3;
      for (const Row& row : Interleave(spec, 0, cursor.position, steps)) seen.push_back(row.sample);
      // Rank 0 always has the longest epoch. Every rank that has a batch at that step names the same cursor.
      const Plan zero = ForRank(spec, 0);
      const uint64_t last = std::min(steps, zero.Steps(cursor.position)) - 1;
      const Position after = zero.BatchAtStep(0, cursor.position, last)->after;
      for (uint32_t rank = 1; rank < spec.world_size; ++rank) {
        const auto batch = ForRank(spec, rank).BatchAtStep(0, cursor.position, last);
        if (batch.has_value()) {
          ASSERT_EQ(batch->after, after);
        }
      }
      ASSERT_GT(after.position, cursor.position);
      cursor = after;
    }
    ASSERT_EQ(seen, order);
  });
}

TEST(PlanTest, EmptyOneSampleAndFewerSamplesThanRanks) {
  for (const TailRule tail : {TailRule::kDrop, TailRule::kPad, TailRule::kUneven}) {
    PlanSpec spec{.samples = 0, .batch_size = 4, .tail = tail, .world_size = 3, .epochs = 2};
    const Plan empty = Make(spec);
    EXPECT_FALSE(Plan::Walk(empty).Next().has_value());
    spec.samples = 1;
    EXPECT_EQ(Interleave(spec, 0, 0).size(), tail == TailRule::kDrop ? 0U : tail == TailRule::kPad ? 12U : 1U);
    spec.samples = 2;
    spec.batch_size = 1;
    EXPECT_EQ(Interleave(spec, 0, 0).size(), tail == TailRule::kDrop ? 0U : tail == TailRule::kPad ? 3U : 2U);
  }
}

TEST(PlanTest, GroupsTileTheEpochAndKeepTheirSamplesTogether) {
  ForRandomSpecs(10, [](const PlanSpec& spec, std::mt19937_64&) {
    const Plan plan = Make(spec);
    const ShuffleSpec& shuffle = plan.spec().shuffle;
    const std::vector<uint64_t> order = Order(plan, 1);
    for (uint64_t begin = 0; begin < spec.samples;) {
      const uint64_t end = plan.GroupEnd(1, begin);
      ASSERT_GT(end, begin);
      ASSERT_LE(end, spec.samples);
      std::set<uint64_t> units;
      std::set<uint64_t> samples;
      for (uint64_t position = begin; position < end; ++position) {
        ASSERT_EQ(plan.GroupEnd(1, position), end);
        samples.insert(order[position]);
        if (shuffle.mode == ShuffleMode::kWindow) units.insert(order[position] / shuffle.window);
      }
      if (shuffle.mode == ShuffleMode::kBlock) {
        // Whole groups begin where batches of a power of two do, and read from group_blocks places: one more where the
        // turned order passes the data set's end.
        uint64_t runs = 0;
        for (const uint64_t sample : samples) runs += sample == 0 || !samples.contains(sample - 1) ? 1 : 0;
        ASSERT_LE(runs, shuffle.group_blocks + 1);
        if (end < spec.samples) {
          ASSERT_EQ(begin % (shuffle.group_blocks * shuffle.block_samples), 0U);
        }
      }
      if (shuffle.mode == ShuffleMode::kWindow) {
        ASSERT_EQ(units.size(), 1U);
      }
      if (shuffle.mode == ShuffleMode::kGlobal) {
        ASSERT_EQ(end, spec.samples);
      }
      begin = end;
    }
  });
}

TEST(PlanTest, AutoBlocksAreFourMiBAtMost) {
  const std::pair<uint64_t, uint64_t> cases[] = {{0, 1 << 14}, {1, 1 << 14},   {256, 1 << 14},   {257, 1 << 13},
                                                 {4096, 1024}, {4097, 512},    {5000, 512},      {(2 << 20) + 1, 1},
                                                 {4 << 20, 1}, {100 << 20, 1}, {~uint64_t{0}, 1}};
  for (const auto& [bytes, block] : cases) {
    const Plan plan = Make({.samples = 10, .sample_bytes = bytes});
    EXPECT_EQ(plan.spec().shuffle.block_samples, block) << bytes;
    EXPECT_EQ(plan.spec().shuffle.group_blocks, 8U);
  }
  EXPECT_EQ(Make({.samples = 10000, .sample_bytes = 4096, .shuffle = {.mode = ShuffleMode::kNone}}).GroupEnd(0, 2048), 4096U);
}

TEST(PlanTest, WhatMakesNoSenseIsRefusedByName) {
  const PlanSpec good{.samples = 10};
  struct Case {
    const char* text;
    PlanSpec spec;
  };
  std::vector<Case> cases(7, Case{"", good});
  cases[0].text = "rank 1 in a world of 1", cases[0].spec.rank = 1;
  cases[1].text = "world size is 0", cases[1].spec.world_size = 0;
  cases[2].text = "batch size is 0", cases[2].spec.batch_size = 0;
  cases[3].text = "window of 0", cases[3].spec.shuffle.mode = ShuffleMode::kWindow;
  cases[4].text = "epochs is 0", cases[4].spec.epochs = 0;
  cases[5].text = "more than 2^62", cases[5].spec.samples = (uint64_t{1} << 62) + 1;
  cases[6].text = "more than 2^62", cases[6].spec.batch_size = cases[6].spec.world_size = ~uint32_t{0};
  for (const Case& c : cases) {
    const auto plan = Plan::Create(c.spec);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(Text(plan.status()), testing::HasSubstr(c.text));
    EXPECT_FALSE(GetErrorInfo(plan.status()).action.empty());
  }
}

TEST(PlanTest, HugeDataSetsHaveNoOverflow) {
  for (const ShuffleMode mode : {ShuffleMode::kNone, ShuffleMode::kBlock, ShuffleMode::kWindow, ShuffleMode::kGlobal}) {
    for (const uint64_t group : {uint64_t{0}, ~uint64_t{0}}) {
      PlanSpec spec{.samples = uint64_t{1} << 62, .sample_bytes = 3, .batch_size = 1U << 30, .world_size = 1U << 30};
      spec.samples -= 5;
      spec.rank = spec.world_size - 1;
      spec.tail = TailRule::kPad;
      spec.shuffle = {.mode = mode, .window = group - 1, .group_blocks = group};
      const Plan plan = Make(spec);
      Plan::Hint hint;
      ASSERT_LT(plan.SampleAt(0, spec.samples - 1, hint), spec.samples);
      ASSERT_LE(plan.GroupEnd(0, spec.samples - 1, hint), spec.samples);
      const auto last = plan.BatchAtStep(0, 0, plan.Steps(0) - 1);
      ASSERT_TRUE(last.has_value());
      ASSERT_EQ(last->after.position, spec.samples);
      ASSERT_EQ(last->count - last->padding_from, 5U);
    }
  }
}

TEST(PlanTest, SpecHashCoversWhatDecidesTheOrder) {
  const PlanSpec base{.samples = 100, .sample_bytes = 4096, .seed = 1};
  const auto hash = [](const PlanSpec& spec, std::string_view data) { return Make(spec).SpecHash(data); };
  std::set<uint64_t> hashes = {hash(base, "a"), hash(base, "b"), hash(base, "")};
  PlanSpec spec = base;
  spec.seed = 2;
  hashes.insert(hash(spec, "a"));
  spec = base;
  spec.sample_bytes = 8192;  // another automatic block size
  hashes.insert(hash(spec, "a"));
  spec = base;
  spec.shuffle.group_blocks = 9;
  hashes.insert(hash(spec, "a"));
  for (const ShuffleMode mode : {ShuffleMode::kNone, ShuffleMode::kWindow, ShuffleMode::kGlobal}) {
    spec = base;
    spec.shuffle = {.mode = mode, .window = 10};
    hashes.insert(hash(spec, "a"));
  }
  EXPECT_EQ(hashes.size(), 9U);
  spec = base;
  spec.shuffle = {.window = 77, .block_samples = 1024, .group_blocks = 8};  // the defaults spelt out; window not looked at
  spec.samples = 5;
  spec.epochs = 9;
  EXPECT_EQ(hash(spec, "a"), hash(base, "a"));
}

// What does not fill a block comes last, and drop leaves the last out: it must not be the same samples every epoch.
TEST(PlanTest, DropLeavesOtherSamplesOutEachEpoch) {
  const Plan plan = Make({.samples = 1007, .batch_size = 16, .shuffle = {.block_samples = 16, .group_blocks = 4}, .seed = 3});
  std::set<uint64_t> left_out;
  for (uint64_t epoch = 0; epoch < 10; ++epoch) {
    for (uint64_t position = 1007 - 1007 % 16; position < 1007; ++position) left_out.insert(plan.SampleAt(epoch, position));
  }
  EXPECT_GT(left_out.size(), 100U);  // 150 are left out in all
}

// Saved cursors speak of this very order. If this fails, raise kPlanVersion with the new numbers.
TEST(PlanTest, TheOrderIsFrozen) {
  const Plan plan = Make({.samples = 11, .shuffle = {.block_samples = 4, .group_blocks = 2}, .seed = 1});
  EXPECT_EQ(Order(plan, 0), (std::vector<uint64_t>{10, 4, 5, 0, 9, 7, 6, 8, 2, 1, 3}));
  EXPECT_EQ(plan.SpecHash("npy"), 12544984672585125053U);
}

}  // namespace
}  // namespace devmem
