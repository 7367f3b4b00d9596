// SPDX-License-Identifier: Apache-2.0
// How the order of an epoch is computed, from a position to a sample:
//
//   none    the position itself.
//   window  1. positions fall into windows of n; the last may be short
//           2. Permutation(window's length, key of (seed, epoch, window)) within it
//   global  a window as large as the data set.
//   block   1. the samples, turned by a number of blocks that the epoch decides, fall into blocks of b
//           2. the whole blocks are permuted; what is left over, less than a block and each epoch another part of the
//              data set, comes last. So groups begin at multiples of K*b, where batches of a power of two begin too
//           3. K consecutive blocks are a group; its positions are permuted as in a window
#include "service/plan.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"

namespace devmem {
namespace {

constexpr uint64_t kAutoBlockBytes = 4 << 20;
constexpr uint64_t kAutoBlockSamples = 1 << 14;  // tiny samples: a group must fit a window of a million rows many times
constexpr uint64_t kSequentialGroupBytes = 8 << 20;
constexpr uint64_t kDefaultGroupBlocks = 8;
// Leaves room to add a whole step (2^32 ranks * 2^32 rows is refused below) without overflow.
constexpr uint64_t kMaxSamples = uint64_t{1} << 62;
constexpr uint64_t kMaxStep = uint64_t{1} << 62;

// What a key is for; part of the key, so that no two permutations of a plan are related.
enum KeyUse : uint64_t { kBlocks = 1, kWithin = 2, kTurn = 3 };

absl::Status Invalid(const std::string& message, const std::string& action) {
  return MakeError(absl::StatusCode::kInvalidArgument, message, {.cause = "invalid plan", .action = action});
}

uint64_t CeilDivide(uint64_t a, uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

absl::StatusOr<Plan> Plan::Create(const PlanSpec& spec) {
  if (spec.samples > kMaxSamples) {
    return Invalid(std::to_string(spec.samples) + " samples are more than 2^62", "split the data set");
  }
  if (spec.batch_size == 0) return Invalid("batch size is 0", "ask for at least 1 sample a batch");
  if (spec.world_size == 0) return Invalid("world size is 0", "give the number of trainers, at least 1");
  if (spec.rank >= spec.world_size) {
    return Invalid("rank " + std::to_string(spec.rank) + " in a world of " + std::to_string(spec.world_size),
                   "ranks count from 0 to world size - 1");
  }
  if (spec.epochs == 0) return Invalid("epochs is 0", "ask for at least 1 epoch");
  if (uint64_t{spec.batch_size} * spec.world_size > kMaxStep) {
    return Invalid("batch size " + std::to_string(spec.batch_size) + " times world size " + std::to_string(spec.world_size) +
                       " is more than 2^62",
                   "use smaller batches");
  }
  if (spec.shuffle.mode == ShuffleMode::kWindow && spec.shuffle.window == 0) {
    return Invalid("shuffle by window with a window of 0 samples", "give the window's size, for example 10000");
  }

  Plan plan(spec);
  ShuffleSpec& shuffle = plan.spec_.shuffle;
  const uint64_t sample_bytes = std::max<uint64_t>(spec.sample_bytes, 1);
  switch (shuffle.mode) {
    case ShuffleMode::kNone:
      plan.group_size_ = std::max<uint64_t>(kSequentialGroupBytes / sample_bytes, 1);
      break;
    case ShuffleMode::kBlock:
      if (shuffle.block_samples == 0)
        shuffle.block_samples = std::bit_floor(std::clamp<uint64_t>(kAutoBlockBytes / sample_bytes, 1, kAutoBlockSamples));
      if (shuffle.group_blocks == 0) shuffle.group_blocks = kDefaultGroupBlocks;
      plan.whole_blocks_ = spec.samples / shuffle.block_samples;
      plan.group_size_ = std::max<uint64_t>(spec.samples, 1);
      if (shuffle.group_blocks <= plan.whole_blocks_) plan.group_size_ = shuffle.group_blocks * shuffle.block_samples;
      break;
    case ShuffleMode::kWindow:
      plan.group_size_ = shuffle.window;
      break;
    case ShuffleMode::kGlobal:
      plan.group_size_ = std::max<uint64_t>(spec.samples, 1);
      break;
  }
  return plan;
}

void Plan::FindGroup(uint64_t epoch, uint64_t position, Hint& hint) const {
  if (hint.epoch == epoch && position >= hint.begin && position < hint.end) return;
  if (spec_.shuffle.mode == ShuffleMode::kBlock && hint.epoch != epoch) {
    hint.blocks = Permutation(whole_blocks_, PermutationKey({spec_.seed, epoch, kBlocks}));
    hint.turn = PermutationKey({spec_.seed, epoch, kTurn}) % std::max<uint64_t>(whole_blocks_, 1) * spec_.shuffle.block_samples;
  }
  const uint64_t group = position / group_size_;
  hint.begin = group * group_size_;
  hint.end = hint.begin + std::min(group_size_, spec_.samples - hint.begin);
  hint.epoch = epoch;
  if (spec_.shuffle.mode != ShuffleMode::kNone) {
    hint.within = Permutation(hint.end - hint.begin, PermutationKey({spec_.seed, epoch, kWithin, group}));
  }
}

uint64_t Plan::SampleAt(uint64_t epoch, uint64_t position, Hint& hint) const {
  if (spec_.shuffle.mode == ShuffleMode::kNone) return position;
  FindGroup(epoch, position, hint);
  const uint64_t shuffled = hint.begin + hint.within.Forward(position - hint.begin);
  if (spec_.shuffle.mode != ShuffleMode::kBlock) return shuffled;
  const uint64_t slot = shuffled / spec_.shuffle.block_samples;
  const uint64_t block = slot < whole_blocks_ ? hint.blocks.Forward(slot) : whole_blocks_;
  return (block * spec_.shuffle.block_samples + shuffled % spec_.shuffle.block_samples + hint.turn) % spec_.samples;
}

uint64_t Plan::SampleAt(uint64_t epoch, uint64_t position) const {
  Hint hint;
  return SampleAt(epoch, position, hint);
}

uint64_t Plan::GroupEnd(uint64_t epoch, uint64_t position, Hint& hint) const {
  FindGroup(epoch, position, hint);
  return hint.end;
}

uint64_t Plan::GroupEnd(uint64_t epoch, uint64_t position) const {
  Hint hint;
  return GroupEnd(epoch, position, hint);
}

uint64_t Plan::Steps(uint64_t start) const {
  if (start >= spec_.samples) return 0;
  const uint64_t left = spec_.samples - start;
  const uint64_t step = uint64_t{spec_.batch_size} * spec_.world_size;
  switch (spec_.tail) {
    case TailRule::kDrop:
      return left / step;
    case TailRule::kPad:
      return CeilDivide(left, step);
    case TailRule::kUneven:
      break;
  }
  const uint64_t before = uint64_t{spec_.rank} * spec_.batch_size;  // of the lower ranks in a step
  return left <= before ? 0 : CeilDivide(left - before, step);
}

std::optional<BatchPlan> Plan::BatchAtStep(uint64_t epoch, uint64_t start, uint64_t step) const {
  if (step >= Steps(start)) return std::nullopt;
  const uint64_t step_size = uint64_t{spec_.batch_size} * spec_.world_size;
  const uint64_t step_begin = start + step * step_size;
  BatchPlan batch;
  batch.epoch = epoch;
  batch.step = step;
  batch.first_position = step_begin + uint64_t{spec_.rank} * spec_.batch_size;
  const uint64_t left = batch.first_position < spec_.samples ? spec_.samples - batch.first_position : 0;
  const auto real = static_cast<uint32_t>(std::min<uint64_t>(spec_.batch_size, left));
  batch.count = spec_.tail == TailRule::kPad ? spec_.batch_size : real;
  batch.padding_from = real;
  batch.after = {.epoch = epoch, .position = step_begin + std::min(step_size, spec_.samples - step_begin)};
  return batch;
}

std::optional<BatchPlan> Plan::Walk::Next() {
  for (; epoch_ < plan_->spec_.epochs; ++epoch_, start_ = 0, step_ = 0) {
    if (auto batch = plan_->BatchAtStep(epoch_, start_, step_)) {
      ++step_;
      return batch;
    }
  }
  return std::nullopt;
}

uint64_t Plan::SpecHash(std::string_view data) const {
  // Only what this mode looks at: a window size left over from another mode changes nothing.
  const ShuffleSpec& shuffle = spec_.shuffle;
  const uint64_t window = shuffle.mode == ShuffleMode::kWindow ? shuffle.window : 0;
  const uint64_t block = shuffle.mode == ShuffleMode::kBlock ? shuffle.block_samples : 0;
  const uint64_t group = shuffle.mode == ShuffleMode::kBlock ? shuffle.group_blocks : 0;
  const uint64_t seed = shuffle.mode == ShuffleMode::kNone ? 0 : spec_.seed;
  uint64_t text = 0xcbf29ce484222325;  // FNV-1a, 64 bits
  for (const char c : data) text = (text ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return PermutationKey({kPlanVersion, static_cast<uint64_t>(shuffle.mode), window, block, group, seed, data.size(), text});
}

}  // namespace devmem
