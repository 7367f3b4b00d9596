// SPDX-License-Identifier: Apache-2.0
// ReadPlanner: the samples of a wave of batches become few large ranged reads. Wants of one object whose gap is small
// merge; the gap's bytes are read and discarded.
//
//   ReadPlanner planner({.max_gap = 64 << 10, .max_range = 8 << 20});
//   const ReadPlan& plan = planner.Plan(wants);        // valid until the next Plan()
//   for (const PlannedRange& range : plan.ranges) {    // the earliest batch's ranges first
//     for (const ReadPiece& piece : plan.PiecesOf(range)) ...   // back to back, they fill the range exactly
//     for (const ReadCopy& copy : plan.CopiesOf(range)) ...    // to be made when the range is there, in any order
//     for (uint32_t want : plan.WantsOf(range)) ++parts_outstanding[want];
//   }
//
// Every byte of every want is in exactly one piece or one copy. Wants of the same bytes (padding) share a range: the first is
// read, the others are copies of it. What only overlaps is read again by a range of its own. A want is complete when all ranges
// that name it are, and their copies made.
//
// A planner keeps its buffers between calls; it belongs to one thread. No allocation once they have grown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "service/plan.h"

namespace devmem {

// Bytes of an object that must come to a place in device memory.
struct Want {
  uint32_t object = 0;
  uint32_t ordinal = 0;  // of the batch it belongs to: smaller is needed earlier
  uint64_t offset = 0;
  uint64_t bytes = 0;        // a want of 0 bytes is in no range
  uint64_t destination = 0;  // address in a space of the caller's; pieces adjacent there and in the object become one
};

// A run of a range's bytes with one destination.
struct ReadPiece {
  static constexpr uint64_t kDiscard = ~uint64_t{0};
  uint64_t destination = kDiscard;
  uint64_t bytes = 0;
  bool operator==(const ReadPiece&) const = default;
};

// Bytes that lie at `source` once the range is there, and are wanted at `destination` too. No copy's source is another's
// destination.
struct ReadCopy {
  uint64_t source = 0;
  uint64_t destination = 0;
  uint64_t bytes = 0;
  bool operator==(const ReadCopy&) const = default;
};

struct PlannedRange {
  uint32_t object = 0;
  uint32_t ordinal = 0;  // the smallest of its wants
  uint64_t offset = 0;
  uint64_t length = 0;
  uint32_t first_piece = 0, pieces = 0;  // in ReadPlan::pieces
  uint32_t first_copy = 0, copies = 0;   // in ReadPlan::copies
  uint32_t first_want = 0, wants = 0;    // in ReadPlan::wants
};

struct ReadPlan {
  std::vector<PlannedRange> ranges;  // in the order to issue
  std::vector<ReadPiece> pieces;
  std::vector<ReadCopy> copies;
  std::vector<uint32_t> wants;   // indices into the span given to Plan(); one want may be in several ranges
  uint64_t bytes_wanted = 0;     // sum over the wants, each repeat counted
  uint64_t bytes_requested = 0;  // sum over the ranges: gaps are in it, copies are not

  [[nodiscard]] std::span<const ReadPiece> PiecesOf(const PlannedRange& range) const {
    return {pieces.data() + range.first_piece, range.pieces};
  }
  [[nodiscard]] std::span<const uint32_t> WantsOf(const PlannedRange& range) const {
    return {wants.data() + range.first_want, range.wants};
  }
  [[nodiscard]] std::span<const ReadCopy> CopiesOf(const PlannedRange& range) const {
    return {copies.data() + range.first_copy, range.copies};
  }
  // Bytes requested per byte wanted, below 1 where repeats share; 1 where nothing is wanted.
  [[nodiscard]] double Amplification() const {
    return bytes_wanted == 0 ? 1.0 : static_cast<double>(bytes_requested) / static_cast<double>(bytes_wanted);
  }
};

struct ReadOptions {
  uint64_t max_gap = 64 << 10;   // largest gap that is read and discarded rather than split at
  uint64_t max_range = 8 << 20;  // no range is longer, so a larger want becomes several; at least 1
};

class ReadPlanner {
 public:
  explicit ReadPlanner(const ReadOptions& options);

  // Ranges for `wants`, fewer than 2^32 of them; offset + bytes of each must not overflow. The answer is the planner's,
  // valid until the next call.
  const ReadPlan& Plan(std::span<const Want> wants);

 private:
  struct Key {
    uint64_t offset;
    uint32_t object;
    uint32_t want;
    uint32_t first_repeat, repeats;  // in repeats_
  };

  void SortKeys(std::span<const Want> wants);
  void FoldRepeats(std::span<const Want> wants);
  void PlanLayer(std::span<const Want> wants);
  void Open(const Want& want, uint64_t offset);
  void Append(std::span<const Want> wants, const Key& key, uint64_t offset, uint64_t bytes);
  void Copy(uint64_t source, uint64_t destination, uint64_t bytes);
  void OrderRanges();

  ReadOptions options_;
  ReadPlan plan_;
  std::vector<Key> keys_;
  std::vector<uint32_t> repeats_;  // wants of the same bytes as another one
  std::vector<Key> overlapping_;   // wants that begin before the one ahead of them ends: the next layer
};

// How many ranged reads this rank will issue in an epoch if it plans `wave_samples` of its samples at a time: an
// estimate from the chance that two neighbours' gap is small, for warnings and logs. `row_bytes` is per tensor.
[[nodiscard]] uint64_t PredictRequestsPerEpoch(const Plan& plan, std::span<const uint64_t> row_bytes, uint64_t wave_samples,
                                               const ReadOptions& options);

// A sentence for the log where `global` shuffle of samples below 64 KiB will drown in requests; else empty.
[[nodiscard]] std::string SmallReadWarning(const Plan& plan, std::span<const uint64_t> row_bytes, uint64_t wave_samples,
                                           const ReadOptions& options);

}  // namespace devmem
