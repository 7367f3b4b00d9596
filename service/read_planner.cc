// SPDX-License-Identifier: Apache-2.0
// 1. The wants are sorted by object and offset (not, where they come sorted). Those of the same bytes become one with repeats:
// a
//    data set smaller than a padded batch is read once, however often its rows are repeated.
// 2. One pass makes ranges of them, front to back. A want joins the open range if the gap is small and the range does
//    not grow too long; else it opens the next. One that begins before the last one ended cannot join, since a byte
//    of a response goes to one place: it is put aside.
// 3. What was put aside is sorted already; it is passed over again, until nothing is left. After kMaxLayers the rest (many that
//    overlap in part) is read want by want, so that the work stays linear.
// 4. The ranges are ordered by the earliest batch that needs them.
#include "service/read_planner.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace devmem {
namespace {

constexpr int kMaxLayers = 16;
constexpr uint64_t kPage = 4096;

// A want larger than a range is cut into equal parts, on page boundaries where that fits.
uint64_t PartBytes(uint64_t bytes, uint64_t max_range) {
  const uint64_t parts = bytes / max_range + (bytes % max_range != 0 ? 1 : 0);
  const uint64_t even = bytes / parts + (bytes % parts != 0 ? 1 : 0);
  const uint64_t paged = (even + kPage - 1) / kPage * kPage;
  return paged <= max_range ? paged : even;
}

}  // namespace

ReadPlanner::ReadPlanner(const ReadOptions& options) : options_(options) {
  options_.max_range = std::max<uint64_t>(options_.max_range, 1);
}

void ReadPlanner::SortKeys(std::span<const Want> wants) {
  keys_.clear();
  bool sorted = true;
  for (uint32_t i = 0; i < wants.size(); ++i) {
    const Want& want = wants[i];
    if (want.bytes == 0) continue;
    if (!keys_.empty()) {
      const Key& last = keys_.back();
      sorted = sorted && (last.object < want.object || (last.object == want.object && last.offset <= want.offset));
    }
    keys_.push_back({.offset = want.offset, .object = want.object, .want = i, .first_repeat = 0, .repeats = 0});
    plan_.bytes_wanted += want.bytes;
  }
  if (sorted) return;
  std::sort(keys_.begin(), keys_.end(), [](const Key& a, const Key& b) {
    if (a.object != b.object) return a.object < b.object;
    if (a.offset != b.offset) return a.offset < b.offset;
    return a.want < b.want;  // the same answer every time
  });
}

// Of wants of the same bytes the first is read: it is needed first.
void ReadPlanner::FoldRepeats(std::span<const Want> wants) {
  repeats_.clear();
  size_t kept = 0;
  for (const Key& key : keys_) {
    if (kept > 0) {
      Key& last = keys_[kept - 1];
      if (last.object == key.object && last.offset == key.offset && wants[last.want].bytes == wants[key.want].bytes) {
        if (last.repeats++ == 0) last.first_repeat = static_cast<uint32_t>(repeats_.size());
        repeats_.push_back(key.want);
        continue;
      }
    }
    keys_[kept++] = key;
  }
  keys_.resize(kept);
}

void ReadPlanner::Open(const Want& want, uint64_t offset) {
  plan_.ranges.push_back({.object = want.object,
                          .ordinal = want.ordinal,
                          .offset = offset,
                          .length = 0,
                          .first_piece = static_cast<uint32_t>(plan_.pieces.size()),
                          .pieces = 0,
                          .first_copy = static_cast<uint32_t>(plan_.copies.size()),
                          .copies = 0,
                          .first_want = static_cast<uint32_t>(plan_.wants.size()),
                          .wants = 0});
}

// Adds [offset, offset + bytes) of a want, and the gap before it, to the open range; its repeats get copies.
void ReadPlanner::Append(std::span<const Want> wants, const Key& key, uint64_t offset, uint64_t bytes) {
  const Want& want = wants[key.want];
  PlannedRange& range = plan_.ranges.back();
  const uint64_t gap = offset - (range.offset + range.length);
  const uint64_t destination = want.destination + (offset - want.offset);
  if (gap != 0) {
    plan_.pieces.push_back({.destination = ReadPiece::kDiscard, .bytes = gap});
    ++range.pieces;
  }
  ReadPiece* const last = range.pieces == 0 ? nullptr : &plan_.pieces.back();
  if (last != nullptr && last->destination != ReadPiece::kDiscard && last->destination + last->bytes == destination) {
    last->bytes += bytes;
  } else {
    plan_.pieces.push_back({.destination = destination, .bytes = bytes});
    ++range.pieces;
  }
  plan_.wants.push_back(key.want);
  range.ordinal = std::min(range.ordinal, want.ordinal);
  for (uint32_t i = 0; i < key.repeats; ++i) {
    const uint32_t repeat = repeats_[key.first_repeat + i];
    Copy(destination, wants[repeat].destination + (offset - want.offset), bytes);
    plan_.wants.push_back(repeat);
    range.ordinal = std::min(range.ordinal, wants[repeat].ordinal);
  }
  range.wants += 1 + key.repeats;
  range.length += gap + bytes;
  plan_.bytes_requested += gap + bytes;
}

void ReadPlanner::Copy(uint64_t source, uint64_t destination, uint64_t bytes) {
  PlannedRange& range = plan_.ranges.back();
  if (range.copies > 0) {
    ReadCopy& last = plan_.copies.back();
    if (last.source + last.bytes == source && last.destination + last.bytes == destination) {
      last.bytes += bytes;
      return;
    }
  }
  plan_.copies.push_back({.source = source, .destination = destination, .bytes = bytes});
  ++range.copies;
}

// Plans keys_, leaving in overlapping_ what cannot share a pass with them.
void ReadPlanner::PlanLayer(std::span<const Want> wants) {
  overlapping_.clear();
  bool open = false;
  for (const Key& key : keys_) {
    const Want& want = wants[key.want];
    if (open) {
      const PlannedRange& range = plan_.ranges.back();
      const uint64_t end = range.offset + range.length;
      if (range.object == want.object && want.offset < end) {
        overlapping_.push_back(key);
        continue;
      }
      open = range.object == want.object && want.offset - end <= options_.max_gap &&
             want.offset - range.offset <= options_.max_range &&
             want.bytes <= options_.max_range - (want.offset - range.offset);
    }
    if (open) {
      Append(wants, key, want.offset, want.bytes);
      continue;
    }
    const uint64_t part = want.bytes <= options_.max_range ? want.bytes : PartBytes(want.bytes, options_.max_range);
    for (uint64_t done = 0; done < want.bytes; done += part) {
      Open(want, want.offset + done);
      Append(wants, key, want.offset + done, std::min(part, want.bytes - done));
    }
    open = true;
  }
}

void ReadPlanner::OrderRanges() {
  const auto earlier = [](const PlannedRange& a, const PlannedRange& b) {
    // The place of the first want settles ties: it grows in the order the ranges were made.
    return std::tie(a.ordinal, a.first_want) < std::tie(b.ordinal, b.first_want);
  };
  if (!std::is_sorted(plan_.ranges.begin(), plan_.ranges.end(), earlier)) {
    std::sort(plan_.ranges.begin(), plan_.ranges.end(), earlier);
  }
}

const ReadPlan& ReadPlanner::Plan(std::span<const Want> wants) {
  plan_.ranges.clear();
  plan_.pieces.clear();
  plan_.copies.clear();
  plan_.wants.clear();
  plan_.bytes_wanted = 0;
  plan_.bytes_requested = 0;
  SortKeys(wants);
  FoldRepeats(wants);
  for (int layer = 0; layer < kMaxLayers && !keys_.empty(); ++layer) {
    PlanLayer(wants);
    keys_.swap(overlapping_);
  }
  overlapping_.clear();
  if (!keys_.empty()) {
    // One key at a time: each opens ranges of its own.
    std::vector<Key> rest;
    rest.swap(keys_);
    for (const Key& key : rest) {
      keys_.assign(1, key);
      PlanLayer(wants);
    }
    keys_.swap(rest);  // keeps the larger buffer
  }
  OrderRanges();
  return plan_;
}

uint64_t PredictRequestsPerEpoch(const Plan& plan, std::span<const uint64_t> row_bytes, uint64_t wave_samples,
                                 const ReadOptions& options) {
  const PlanSpec& spec = plan.spec();
  if (spec.samples == 0) return 0;
  // This rank's samples of one wave lie anywhere in `domain` samples that are read together.
  const double mine = std::ceil(static_cast<double>(spec.samples) / spec.world_size);
  const auto group = static_cast<double>(plan.GroupEnd(0, 0));
  const double in_group = std::max(1.0, group / spec.world_size);
  const bool spread = spec.shuffle.mode != ShuffleMode::kNone;
  const double wave = std::max(1.0, std::min(static_cast<double>(wave_samples), spread ? std::min(in_group, mine) : mine));
  // none: batches of this rank follow one another at a distance of (W - 1) batches.
  const double runs = spec.world_size == 1 ? 1.0 : std::ceil(wave / spec.batch_size);
  double total = 0;
  for (const uint64_t bytes_of_row : row_bytes) {
    const auto row = static_cast<double>(std::max<uint64_t>(bytes_of_row, 1));
    const double gap = std::floor(static_cast<double>(options.max_gap) / row);  // samples that may lie between
    double requests = 0;
    double bytes = 0;
    if (spread) {
      const double density = std::min(1.0, wave / group);
      const double merges = 1.0 - std::pow(1.0 - density, gap + 1);  // the next want lies within the gap
      requests = 1 + ((wave - 1) * (1 - merges));
      bytes = std::max(wave * row, merges * group * row);
    } else {
      const double between = (spec.world_size - 1.0) * spec.batch_size;
      requests = between <= gap ? 1 : runs;
      bytes = wave * row * (between <= gap ? spec.world_size : 1);
    }
    total += std::max(requests, std::ceil(bytes / static_cast<double>(std::max<uint64_t>(options.max_range, 1))));
  }
  return static_cast<uint64_t>(std::ceil(total * std::ceil(mine / wave)));
}

std::string SmallReadWarning(const Plan& plan, std::span<const uint64_t> row_bytes, uint64_t wave_samples,
                             const ReadOptions& options) {
  constexpr uint64_t kSmall = 64 << 10;
  uint64_t smallest = kSmall;
  for (const uint64_t row : row_bytes) smallest = std::min(smallest, row);
  if (plan.spec().shuffle.mode != ShuffleMode::kGlobal || smallest >= kSmall || plan.spec().samples == 0) return {};
  return "shuffle=global reads samples of " + std::to_string(smallest) + " bytes one by one: about " +
         std::to_string(PredictRequestsPerEpoch(plan, row_bytes, wave_samples, options)) +
         " requests an epoch on this rank; shuffle=block reads the same in ranges of megabytes";
}

}  // namespace devmem
