// SPDX-License-Identifier: Apache-2.0
// How many samples a stream with on_error=skip may leave out before it fails: bad data is skipped, but never most of it.
//
//   DEVMEM_ASSIGN_OR_RETURN(const uint64_t most, SkipAllowance(spec, plan, *dataset));   // of this rank, in one epoch
//
// Threads: values only.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "devmem_loader/v1/loader.pb.h"
#include "service/dataset.h"
#include "service/plan.h"

namespace devmem {

// Where StreamSpec.max_skipped is absent: a hundredth. What a training run does not notice, and what a store that turns
// everybody away exceeds at once.
inline constexpr double kDefaultSkippedShare = 0.01;

// Samples that `plan`'s rank may leave out in one epoch, less its part of the shards that were left out when `dataset` was
// made.
//   kInvalidArgument      max_skipped is no share from 0 to 1
//   kFailedPrecondition   more was left out already (Fault::kTooManySkipped)
[[nodiscard]] absl::StatusOr<uint64_t> SkipAllowance(const devmem_loader::v1::StreamSpec& spec, const Plan& plan,
                                                     const Dataset& dataset);

// What a stream fails with that left out `skipped` samples of an epoch, the last because of `last`.
[[nodiscard]] absl::Status TooManySkipped(uint64_t skipped, uint64_t most, const absl::Status& last);

}  // namespace devmem
