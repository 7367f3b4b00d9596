// SPDX-License-Identifier: Apache-2.0
// Plan: which sample comes when. A pure function of (number of samples, spec, seed, epoch, rank, world size, cursor):
// resuming and changing the world size are arithmetic, not state.
//
// Every epoch puts all samples into one global order, the same for every rank, world size and batch size:
// SampleAt(epoch, position). Rank r of W takes at step s the positions start + [(s*W + r)*B, +B), where start is the
// cursor's position (0 unless resumed within the epoch). Batches never straddle epochs.
//
//   DEVMEM_ASSIGN_OR_RETURN(Plan plan, Plan::Create({.samples = n, .sample_bytes = 4096, .batch_size = 32, .epochs = 2}));
//   Plan::Hint hint;                                 // one per thread: makes neighbouring positions cheap
//   Plan::Walk walk(plan, resume);                   // resume = {} at the beginning
//   while (std::optional<BatchPlan> batch = walk.Next()) {
//     for (uint64_t row = 0; row < batch->count; ++row) Read(plan.SampleOf(*batch, row, hint));
//     save(batch->after);                            // continues exactly here, under any world size
//   }
//
// Immutable and thread-safe; a Hint or a Walk belongs to one thread. Memory: a few hundred bytes whatever samples is.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/permutation.h"

namespace devmem {

// The order's version, part of every cursor. Anything that changes what SampleAt() answers must raise it.
inline constexpr uint32_t kPlanVersion = 1;

enum class ShuffleMode : uint8_t { kNone, kBlock, kWindow, kGlobal };
enum class TailRule : uint8_t { kDrop, kPad, kUneven };

struct ShuffleSpec {
  ShuffleMode mode = ShuffleMode::kBlock;
  uint64_t window = 0;         // kWindow: samples; 0 is refused there
  uint64_t block_samples = 0;  // kBlock: 0 means the largest power of two whose bytes fit in 4 MiB, from 1 to 2^14
  uint64_t group_blocks = 0;   // kBlock: 0 means 8
};

struct PlanSpec {
  uint64_t samples = 0;
  uint64_t sample_bytes =
      0;  // the row bytes of all tensors together: sizes what is read together (auto blocks, groups of none)
  uint32_t batch_size = 1;
  TailRule tail = TailRule::kDrop;
  ShuffleSpec shuffle;
  uint64_t seed = 0;
  uint32_t rank = 0;
  uint32_t world_size = 1;
  uint64_t epochs = 1;
};

// A place in the stream: everything before `position` of `epoch` (counted over all ranks) is done.
struct Position {
  uint64_t epoch = 0;
  uint64_t position = 0;
  bool operator==(const Position&) const = default;
};

// One batch of this rank. Row i holds the sample at global position first_position + i, modulo samples.
struct BatchPlan {
  uint64_t epoch = 0;
  uint64_t step = 0;            // since the epoch's start, or since the cursor it was resumed at
  uint64_t first_position = 0;  // may lie at or past `samples` when all of the batch is padding
  uint32_t count = 0;           // rows, padding included; at least 1
  uint32_t padding_from = 0;    // rows >= this are padding; == count where there is none
  Position after;               // the cursor "after this batch", of all ranks together
  bool operator==(const BatchPlan&) const = default;
};

class Plan {
 public:
  // What the last look-up found. Caller-owned, so that the Plan stays const; good for one Plan only.
  struct Hint {
    uint64_t epoch = ~uint64_t{0};
    uint64_t begin = 1, end = 0;  // positions of the group in `within`; empty at first
    uint64_t turn = 0;            // kBlock: the sample that block 0 begins with
    Permutation blocks;           // kBlock: of this epoch
    Permutation within;           // of the group
  };

  // Walks the batches of this rank over all epochs, from `from` on.
  class Walk {
   public:
    explicit Walk(const Plan& plan, Position from = {}) : plan_(&plan), epoch_(from.epoch), start_(from.position) {}
    // The next batch; nullopt when all epochs are done.
    [[nodiscard]] std::optional<BatchPlan> Next();

   private:
    const Plan* plan_;
    uint64_t epoch_;
    uint64_t start_;
    uint64_t step_ = 0;
  };

  // kInvalidArgument, naming the field, for what makes no sense: rank >= world_size, batch_size 0, window 0, ...
  [[nodiscard]] static absl::StatusOr<Plan> Create(const PlanSpec& spec);

  // As created, with block_samples and group_blocks resolved.
  [[nodiscard]] const PlanSpec& spec() const { return spec_; }

  // The sample at `position` (< samples) of the global order of `epoch`. Tens of nanoseconds with a hint whose
  // group it is in, about twice that without.
  [[nodiscard]] uint64_t SampleAt(uint64_t epoch, uint64_t position, Hint& hint) const;
  [[nodiscard]] uint64_t SampleAt(uint64_t epoch, uint64_t position) const;
  [[nodiscard]] uint64_t SampleOf(const BatchPlan& batch, uint64_t row, Hint& hint) const {
    return SampleAt(batch.epoch, (batch.first_position + row) % spec_.samples, hint);
  }

  // Batches of this rank in an epoch that starts at position `start`; with drop and pad the same for every rank.
  [[nodiscard]] uint64_t Steps(uint64_t start) const;
  // Batch `step` of an epoch that starts at position `start`; nullopt if step >= Steps(start).
  [[nodiscard]] std::optional<BatchPlan> BatchAtStep(uint64_t epoch, uint64_t start, uint64_t step) const;

  // One past the last position of the group that `position` (< samples) is in: positions of one group draw from
  // samples that lie together, so planning their reads at once merges best. none: about 8 MiB of samples; block:
  // group_blocks blocks; window: the window; global: the epoch.
  [[nodiscard]] uint64_t GroupEnd(uint64_t epoch, uint64_t position, Hint& hint) const;
  [[nodiscard]] uint64_t GroupEnd(uint64_t epoch, uint64_t position) const;

  // Of all that decides the order except the samples themselves (the listing's fingerprint covers those): shuffle as
  // resolved, seed, and `data`, the caller's text for format and tensors. Same on every machine and in every build.
  [[nodiscard]] uint64_t SpecHash(std::string_view data) const;

 private:
  explicit Plan(const PlanSpec& spec) : spec_(spec) {}

  void FindGroup(uint64_t epoch, uint64_t position, Hint& hint) const;

  PlanSpec spec_;
  uint64_t whole_blocks_ = 0;  // kBlock
  uint64_t group_size_ = 0;    // positions of a group; the last may be short
};

}  // namespace devmem
