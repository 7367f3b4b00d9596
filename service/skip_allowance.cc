// SPDX-License-Identifier: Apache-2.0
#include "service/skip_allowance.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

constexpr std::string_view kAction = "mend the data, or raise --max-skipped if so much may be missing";

uint64_t CeilDivide(uint64_t a, uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// `share` of `samples`, rounded up: one bad sample among few shall not end a stream that may skip.
uint64_t PartOf(double share, uint64_t samples) {
  const double part = std::ceil(share * static_cast<double>(samples));
  return part >= static_cast<double>(samples) ? samples : static_cast<uint64_t>(part);
}

// How many samples the shards held that were left out. Their headers are bad, so it is told by their bytes.
uint64_t LeftOut(const Dataset& dataset) {
  if (dataset.skipped.empty()) return 0;
  uint64_t bytes = 0, readable = 0;
  for (const Dataset::Skipped& skipped : dataset.skipped) bytes += skipped.bytes;
  for (size_t i = 0; i < dataset.objects.size(); ++i) readable += dataset.objects[i].size;
  const double per_sample = dataset.samples() == 0 ? 0 : static_cast<double>(readable) / static_cast<double>(dataset.samples());
  const auto samples = per_sample == 0 ? 0 : static_cast<uint64_t>(std::ceil(static_cast<double>(bytes) / per_sample));
  return std::max<uint64_t>(samples, 1);
}

// What the rank gets of an epoch: more than an even part where batches are large or filled up.
uint64_t RowsOf(const Plan& plan) {
  const uint64_t steps = plan.Steps(0);
  return steps == 0 ? 0 : (steps - 1) * plan.spec().batch_size + plan.BatchAtStep(0, 0, steps - 1)->count;
}

}  // namespace

absl::StatusOr<uint64_t> SkipAllowance(const devmem_loader::v1::StreamSpec& spec, const Plan& plan, const Dataset& dataset) {
  using Limit = devmem_loader::v1::SkipLimit;
  const Limit& limit = spec.max_skipped();
  const double share = limit.limit_case() == Limit::kShare ? limit.share() : kDefaultSkippedShare;
  if (!(share >= 0 && share <= 1)) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, absl::StrCat("max_skipped is a share of ", share),
        {.object = "max_skipped", .fault = Fault::kBadRequest, .cause = "bad request", .action = "give a share from 0 to 1"});
  }
  const PlanSpec& of = plan.spec();
  const uint64_t ranks = of.world_size;
  const uint64_t left_out = LeftOut(dataset);
  const uint64_t all = of.samples + left_out;
  const uint64_t already = CeilDivide(left_out, ranks);
  // A share is of what this rank would get; a number is this rank's.
  const uint64_t part = std::max(CeilDivide(all, ranks), RowsOf(plan) + already);
  const uint64_t most = limit.limit_case() == Limit::kSamples ? limit.samples() : PartOf(share, part);
  if (already <= most) return most - already;
  const Dataset::Skipped& first = dataset.skipped.front();
  return MakeError(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat(dataset.skipped.size(), dataset.skipped.size() == 1 ? " object was" : " objects were", " left out, about ",
                   left_out, " of ", all, " samples, and ", most * ranks, " may be skipped; the first: ", Text(first.status)),
      {.object = first.object, .fault = Fault::kTooManySkipped, .cause = "too many skipped", .action = std::string(kAction)});
}

absl::Status TooManySkipped(uint64_t skipped, uint64_t most, const absl::Status& last) {
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   absl::StrCat(skipped, skipped == 1 ? " sample" : " samples", " of this epoch had to be skipped, and ", most,
                                " may be; the last: ", Text(last)),
                   {.object = GetErrorInfo(last).object,
                    .fault = Fault::kTooManySkipped,
                    .cause = "too many skipped",
                    .action = std::string(kAction)});
}

}  // namespace devmem
