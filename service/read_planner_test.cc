// SPDX-License-Identifier: Apache-2.0
#include "service/read_planner.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::ElementsAre;

// What lies at `offset` of a synthetic object.
uint8_t ByteAt(uint32_t object, uint64_t offset) {
  const uint64_t x = (offset + object * 1000003ULL) * 0x9e3779b97f4a7c15;
  return static_cast<uint8_t>(x >> 56);
}

// All that a plan must be, whatever the wants; memory is filled as the pieces say and compared.
void Check(const std::vector<Want>& wants, const ReadPlan& plan, const ReadOptions& options) {
  uint64_t size = 0;
  uint64_t wanted = 0;
  for (const Want& want : wants) {
    size = std::max(size, want.destination + want.bytes);
    wanted += want.bytes;
  }
  std::vector<uint8_t> memory(size, 0xa5);
  std::vector<uint8_t> written(size, 0);
  std::vector<uint64_t> bytes_of_want(wants.size());
  uint64_t requested = 0;
  uint64_t copied = 0;
  uint32_t last_ordinal = 0;
  for (const PlannedRange& range : plan.ranges) {
    ASSERT_GE(range.length, 1U);
    ASSERT_LE(range.length, options.max_range);
    ASSERT_GE(range.ordinal, last_ordinal);
    last_ordinal = range.ordinal;
    requested += range.length;
    uint64_t at = range.offset;
    const auto pieces = plan.PiecesOf(range);
    ASSERT_FALSE(pieces.empty());
    ASSERT_NE(pieces.front().destination, ReadPiece::kDiscard);
    ASSERT_NE(pieces.back().destination, ReadPiece::kDiscard);
    for (const ReadPiece& piece : pieces) {
      ASSERT_GE(piece.bytes, 1U);
      if (piece.destination == ReadPiece::kDiscard) {
        ASSERT_LE(piece.bytes, options.max_gap);
      } else {
        copied += piece.bytes;
        for (uint64_t i = 0; i < piece.bytes; ++i) {
          ASSERT_EQ(written[piece.destination + i]++, 0) << "written twice";
          memory[piece.destination + i] = ByteAt(range.object, at + i);
        }
      }
      at += piece.bytes;
    }
    ASSERT_EQ(at, range.offset + range.length);
    // Copies are made from what the pieces brought.
    uint64_t in_copies = 0;
    for (const ReadCopy& copy : plan.CopiesOf(range)) {
      ASSERT_GE(copy.bytes, 1U);
      in_copies += copy.bytes;
      for (uint64_t i = 0; i < copy.bytes; ++i) {
        ASSERT_EQ(written[copy.source + i], 1) << "a copy of what is not read";
        ASSERT_EQ(written[copy.destination + i]++, 0) << "written twice";
        memory[copy.destination + i] = memory[copy.source + i];
      }
    }
    copied += in_copies;
    ASSERT_GE(range.wants, 1U);
    uint32_t smallest = ~0U;
    uint64_t total = 0;
    for (const uint32_t index : plan.WantsOf(range)) {
      const Want& want = wants[index];
      ASSERT_EQ(want.object, range.object);
      const uint64_t begin = std::max(want.offset, range.offset);
      const uint64_t end = std::min(want.offset + want.bytes, range.offset + range.length);
      ASSERT_LT(begin, end);
      bytes_of_want[index] += end - begin;
      total += end - begin;
      smallest = std::min(smallest, want.ordinal);
    }
    ASSERT_EQ(smallest, range.ordinal);
    uint64_t in_pieces = 0;
    for (const ReadPiece& piece : pieces) in_pieces += piece.destination == ReadPiece::kDiscard ? 0 : piece.bytes;
    ASSERT_EQ(in_pieces + in_copies, total);
  }
  ASSERT_EQ(plan.bytes_wanted, wanted);
  ASSERT_EQ(copied, wanted);
  ASSERT_EQ(plan.bytes_requested, requested);
  for (size_t i = 0; i < wants.size(); ++i) {
    ASSERT_EQ(bytes_of_want[i], wants[i].bytes) << "want " << i;
    for (uint64_t b = 0; b < wants[i].bytes; ++b) {
      ASSERT_EQ(memory[wants[i].destination + b], ByteAt(wants[i].object, wants[i].offset + b)) << "want " << i;
    }
  }
}

// Lays wants out in memory one after another, in their order, with `pad` bytes between.
void Place(std::vector<Want>& wants, uint64_t pad = 0) {
  uint64_t at = 0;
  for (Want& want : wants) {
    want.destination = at;
    at += want.bytes + pad;
  }
}

TEST(ReadPlannerTest, RandomWantsArriveWholeAndOnce) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE(round);
    const ReadOptions options{.max_gap = random() % 40, .max_range = 1 + random() % 300};
    ReadPlanner planner(options);
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second plan comes out of used buffers
      std::vector<Want> wants(random() % 40);
      const uint64_t spread = 1 + random() % 2000;
      for (Want& want : wants) {
        want = {.object = static_cast<uint32_t>(random() % 3),
                .ordinal = static_cast<uint32_t>(random() % 5),
                .offset = random() % spread,
                .bytes = random() % (random() % 4 == 0 ? 700 : 30)};
      }
      if (!wants.empty()) {
        for (size_t i = 0; i < wants.size() / 3; ++i) wants[random() % wants.size()] = wants[random() % wants.size()];
      }
      if (random() % 3 == 0) {
        std::sort(wants.begin(), wants.end(),
                  [](const Want& a, const Want& b) { return std::tie(a.object, a.offset) < std::tie(b.object, b.offset); });
      }
      Place(wants, random() % 2 == 0 ? 0 : random() % 10);
      Check(wants, planner.Plan(wants), options);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ReadPlannerTest, NothingWanted) {
  ReadPlanner planner({});
  EXPECT_TRUE(planner.Plan({}).ranges.empty());
  const std::vector<Want> empty(3);
  const ReadPlan& plan = planner.Plan(empty);
  EXPECT_TRUE(plan.ranges.empty());
  EXPECT_EQ(plan.Amplification(), 1.0);
}

TEST(ReadPlannerTest, SequentialSamplesAreOnePieceARange) {
  std::vector<Want> wants(4096);
  for (uint32_t i = 0; i < wants.size(); ++i) wants[i] = {.ordinal = i, .offset = 128 + i * 4096ULL, .bytes = 4096};
  Place(wants);
  ReadPlanner planner({});
  const ReadPlan& plan = planner.Plan(wants);
  ASSERT_EQ(plan.ranges.size(), 2U);
  for (const PlannedRange& range : plan.ranges) {
    EXPECT_EQ(range.length, 8U << 20);
    EXPECT_EQ(range.pieces, 1U);
    EXPECT_EQ(range.wants, 2048U);
  }
  EXPECT_EQ(plan.Amplification(), 1.0);
}

TEST(ReadPlannerTest, AGapIsReadUpToMaxGapAndSplitAtBeyond) {
  for (const auto& [gap, ranges] : {std::pair<uint64_t, size_t>{0, 1}, {99, 1}, {100, 1}, {101, 2}}) {
    std::vector<Want> wants = {{.offset = 10, .bytes = 20}, {.offset = 30 + gap, .bytes = 5}};
    Place(wants, 1);
    ReadPlanner planner({.max_gap = 100, .max_range = 1000});
    const ReadPlan& plan = planner.Plan(wants);
    ASSERT_EQ(plan.ranges.size(), ranges) << gap;
    EXPECT_EQ(plan.bytes_wanted, 25U);
    EXPECT_EQ(plan.bytes_requested, ranges == 1 ? 25 + gap : 25);
    if (gap == 99) {
      EXPECT_THAT(plan.PiecesOf(plan.ranges[0]),
                  ElementsAre(ReadPiece{0, 20}, ReadPiece{ReadPiece::kDiscard, 99}, ReadPiece{21, 5}));
    }
  }
}

TEST(ReadPlannerTest, AWantLargerThanARangeIsCutIntoEvenPartsOnPages) {
  std::vector<Want> wants = {{.offset = 100, .bytes = (16 << 20) + 1}, {.offset = 100 + (16 << 20) + 1, .bytes = 10}};
  Place(wants);
  ReadPlanner planner({});
  const ReadPlan& plan = planner.Plan(wants);
  ASSERT_EQ(plan.ranges.size(), 3U);
  EXPECT_EQ(plan.ranges[0].length % 4096, 0U);
  EXPECT_EQ(plan.ranges[0].length, plan.ranges[1].length);
  EXPECT_THAT(plan.WantsOf(plan.ranges[1]), ElementsAre(0));
  EXPECT_THAT(plan.WantsOf(plan.ranges[2]), ElementsAre(0, 1));  // the next sample joins the last part
  EXPECT_EQ(plan.Amplification(), 1.0);
}

TEST(ReadPlannerTest, TheEarliestBatchIsReadFirst) {
  std::vector<Want> wants = {{.object = 0, .ordinal = 3, .offset = 0, .bytes = 10},
                             {.object = 1, .ordinal = 1, .offset = 0, .bytes = 10},
                             {.object = 2, .ordinal = 2, .offset = 0, .bytes = 10},
                             {.object = 2, .ordinal = 0, .offset = 10, .bytes = 10}};
  Place(wants);
  ReadPlanner planner({});
  const ReadPlan& plan = planner.Plan(wants);
  std::vector<uint32_t> objects;
  for (const PlannedRange& range : plan.ranges) objects.push_back(range.object);
  EXPECT_THAT(objects, ElementsAre(2, 1, 0));
}

TEST(ReadPlannerTest, PaddingThatRepeatsABatchSharesItsRange) {
  std::vector<Want> wants;
  for (uint32_t copy = 0; copy < 3; ++copy) {
    for (uint64_t i = 0; i < 100; ++i) wants.push_back({.ordinal = copy, .offset = i * 512, .bytes = 512});
  }
  Place(wants);
  ReadPlanner planner({});
  const ReadPlan& plan = planner.Plan(wants);
  Check(wants, plan, {});
  ASSERT_EQ(plan.ranges.size(), 1U);
  EXPECT_EQ(plan.ranges[0].length, 51'200U);
  EXPECT_EQ(plan.ranges[0].wants, 300U);
  EXPECT_EQ(plan.bytes_wanted, 3 * plan.bytes_requested);
}

// Half a batch of padding: its rows follow one another, as the rows that they repeat do.
TEST(ReadPlannerTest, CopiesThatFollowOneAnotherAreOne) {
  std::vector<Want> wants;
  for (uint64_t i = 0; i < 150; ++i) wants.push_back({.offset = i % 100 * 512, .bytes = 512});
  Place(wants);
  ReadPlanner planner({});
  const ReadPlan& plan = planner.Plan(wants);
  Check(wants, plan, {});
  EXPECT_THAT(plan.copies, ElementsAre(ReadCopy{.source = 0, .destination = 51'200, .bytes = 25'600}));
}

// A repeat of what takes several ranges has a copy of each.
TEST(ReadPlannerTest, ARepeatedWantLargerThanARange) {
  std::vector<Want> wants(3, Want{.offset = 100, .bytes = 10'000});
  Place(wants, 3);
  const ReadOptions options{.max_gap = 0, .max_range = 4096};
  ReadPlanner planner(options);
  const ReadPlan& plan = planner.Plan(wants);
  Check(wants, plan, options);
  ASSERT_EQ(plan.ranges.size(), 3U);
  for (const PlannedRange& range : plan.ranges) EXPECT_EQ(range.copies, 2U);
}

TEST(ReadPlannerTest, TheSameSampleThousandsOfTimes) {
  std::vector<Want> wants(5000, Want{.offset = 7, .bytes = 9});
  Place(wants);
  ReadPlanner planner({});
  Check(wants, planner.Plan(wants), {});
  EXPECT_EQ(planner.Plan(wants).ranges.size(), 1U);
}

TEST(ReadPlannerTest, AdjacentInMemoryOnlyOrInTheObjectOnlyIsNotMerged) {
  ReadPlanner planner({.max_gap = 10, .max_range = 1000});
  EXPECT_EQ(
      planner.Plan(std::vector<Want>{{.offset = 0, .bytes = 5, .destination = 0}, {.offset = 5, .bytes = 5, .destination = 6}})
          .pieces.size(),
      2U);
  EXPECT_EQ(
      planner.Plan(std::vector<Want>{{.offset = 0, .bytes = 5, .destination = 0}, {.offset = 6, .bytes = 5, .destination = 5}})
          .pieces.size(),
      3U);
  EXPECT_EQ(planner
                .Plan(std::vector<Want>{{.object = 0, .offset = 0, .bytes = 5, .destination = 0},
                                        {.object = 1, .offset = 5, .bytes = 5, .destination = 5}})
                .ranges.size(),
            2U);
}

// The prediction against what the planner really does with every wave of an epoch.
TEST(ReadPlannerTest, PredictsWithinAFactorOfTwo) {
  const ReadOptions options;
  for (const ShuffleMode mode : {ShuffleMode::kNone, ShuffleMode::kBlock, ShuffleMode::kWindow, ShuffleMode::kGlobal}) {
    for (const uint64_t row : {uint64_t{1} << 10, uint64_t{16} << 10, uint64_t{256} << 10}) {
      for (const uint32_t world : {1U, 4U}) {
        SCOPED_TRACE(testing::Message() << static_cast<int>(mode) << " row " << row << " world " << world);
        const auto plan = Plan::Create({.samples = 40'000,
                                        .sample_bytes = row,
                                        .batch_size = 8,
                                        .shuffle = {.mode = mode, .window = 2000},
                                        .world_size = world});
        ASSERT_TRUE(plan.ok());
        constexpr uint64_t kWave = 512;
        ReadPlanner planner(options);
        uint64_t actual = 0;
        std::vector<Want> wants;
        Plan::Hint hint;
        Plan::Walk walk(*plan);
        uint64_t group_end = 0;
        const auto flush = [&] {
          actual += planner.Plan(wants).ranges.size();
          wants.clear();
        };
        while (auto batch = walk.Next()) {
          if (wants.size() >= kWave || (mode != ShuffleMode::kNone && batch->first_position >= group_end)) flush();
          group_end = plan->GroupEnd(0, batch->first_position, hint);
          for (uint32_t i = 0; i < batch->count; ++i) {
            wants.push_back(
                {.offset = plan->SampleOf(*batch, i, hint) * row, .bytes = row, .destination = wants.size() * row * 2});
          }
        }
        flush();
        const uint64_t predicted = PredictRequestsPerEpoch(*plan, std::vector<uint64_t>{row}, kWave, options);
        EXPECT_LE(predicted, actual * 2);
        EXPECT_GE(predicted * 2, actual);
      }
    }
  }
}

TEST(ReadPlannerTest, WarnsOfSmallSamplesReadOneByOne) {
  const auto warning = [](ShuffleMode mode, uint64_t row, uint64_t samples) {
    const auto plan = Plan::Create({.samples = samples, .sample_bytes = row, .shuffle = {.mode = mode, .window = 10}});
    return SmallReadWarning(*plan, std::vector<uint64_t>{1 << 20, row}, 512, {});
  };
  EXPECT_THAT(warning(ShuffleMode::kGlobal, 4096, 1'000'000'000),
              testing::ContainsRegex("4096 bytes.*about [0-9]+ requests an epoch"));
  EXPECT_EQ(warning(ShuffleMode::kGlobal, 64 << 10, 1'000'000), "");
  EXPECT_EQ(warning(ShuffleMode::kBlock, 4096, 1'000'000), "");
  EXPECT_EQ(warning(ShuffleMode::kGlobal, 4096, 0), "");
}

}  // namespace
}  // namespace devmem
