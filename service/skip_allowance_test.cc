// SPDX-License-Identifier: Apache-2.0
#include "service/skip_allowance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"

namespace devmem {
namespace {

using testing::HasSubstr;
namespace v1 = devmem_loader::v1;

struct Row {
  const char* what;
  uint64_t samples;               // readable, of 10 bytes each
  std::vector<uint64_t> skipped;  // bytes of the objects left out
  uint32_t ranks = 1;
  double share = -1;     // none
  int64_t number = -1;   // none
  int64_t expected = 0;  // -1: refused
  uint32_t batch_size = 1;
  TailRule tail = TailRule::kDrop;
};

absl::StatusOr<uint64_t> AllowanceOf(const Row& row) {
  Dataset dataset;
  dataset.first_sample = {0, row.samples};
  dataset.objects.Add("good.npy", row.samples * 10, "");
  for (const uint64_t bytes : row.skipped) dataset.skipped.push_back({"bad.npy", absl::DataLossError("bad magic"), bytes});
  v1::StreamSpec spec;
  if (row.share >= 0 || std::isnan(row.share)) spec.mutable_max_skipped()->set_share(row.share);
  if (row.number >= 0) spec.mutable_max_skipped()->set_samples(static_cast<uint64_t>(row.number));
  const auto plan = Plan::Create(
      {.samples = row.samples, .sample_bytes = 10, .batch_size = row.batch_size, .tail = row.tail, .world_size = row.ranks});
  EXPECT_TRUE(plan.ok()) << plan.status();
  return SkipAllowance(spec, *plan, dataset);
}

TEST(SkipAllowance, Table) {
  for (const Row& row : std::vector<Row>{
           {.what = "a hundredth by default", .samples = 800, .expected = 8},
           {.what = "rounded up: one of few", .samples = 30, .expected = 1},
           {.what = "of this rank's part", .samples = 800, .ranks = 8, .expected = 1},
           {.what = "a share", .samples = 800, .share = 0.5, .expected = 400},
           {.what = "all", .samples = 800, .share = 1, .expected = 800},
           {.what = "none", .samples = 800, .share = 0, .expected = 0},
           {.what = "a number is of one rank", .samples = 800, .ranks = 8, .number = 5, .expected = 5},
           {.what = "more than there are", .samples = 8, .number = 5000, .expected = 5000},
           {.what = "a shard of 4 samples left out before", .samples = 796, .skipped = {40}, .expected = 4},
           {.what = "of several ranks, its part of that", .samples = 796, .skipped = {40}, .ranks = 2, .expected = 2},
           {.what = "an empty object counts as a sample", .samples = 800, .skipped = {0}, .expected = 8},
           {.what = "a shard too large", .samples = 700, .skipped = {1000}, .expected = -1},
           {.what = "the same, allowed", .samples = 700, .skipped = {1000}, .share = 1, .expected = 700},
           {.what = "the same, by number", .samples = 700, .skipped = {1000}, .number = 100, .expected = 0},
           {.what = "all of an uneven part",
           .samples = 27,
           .ranks = 2,
           .share = 1,
           .expected = 20,
           .batch_size = 20,
           .tail = TailRule::kUneven},
           {.what = "all of a part that is filled up",
           .samples = 27,
           .ranks = 2,
           .share = 1,
           .expected = 30,
           .batch_size = 30,
           .tail = TailRule::kPad},
           {.what = "none may be left out", .samples = 700, .skipped = {1000}, .number = 0, .expected = -1},
       }) {
    const auto allowance = AllowanceOf(row);
    if (row.expected < 0) {
      EXPECT_EQ(FaultOf(allowance.status()), Fault::kTooManySkipped) << row.what;
      EXPECT_THAT(Text(allowance.status()), HasSubstr("bad magic")) << row.what;
    } else {
      ASSERT_TRUE(allowance.ok()) << row.what << allowance.status();
      EXPECT_EQ(*allowance, static_cast<uint64_t>(row.expected)) << row.what;
    }
  }
}

TEST(SkipAllowance, RefusesWhatIsNoShare) {
  for (const double share : {1.01, std::nan("")}) {
    const auto allowance = AllowanceOf({.what = "", .samples = 10, .share = share});
    EXPECT_EQ(allowance.status().code(), absl::StatusCode::kInvalidArgument) << share;
  }
}

TEST(TooManySkipped, SaysHowManyAndWhy) {
  const absl::Status last = MakeError(absl::StatusCode::kNotFound, "gone", {.object = "b.npy", .fault = Fault::kObjectGone});
  const absl::Status status = TooManySkipped(9, 8, last);
  EXPECT_EQ(ScopeOf(status), Scope::kPolicy);
  EXPECT_EQ(GetErrorInfo(status).object, "b.npy");
  EXPECT_THAT(Text(status), HasSubstr("9 samples of this epoch had to be skipped, and 8 may be"));
  EXPECT_THAT(Text(status), HasSubstr("--max-skipped"));
}

}  // namespace
}  // namespace devmem
