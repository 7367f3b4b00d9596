// SPDX-License-Identifier: Apache-2.0
#include "gpu/work_plan.h"

#include <algorithm>
#include <cassert>

#include "gpu/gather_cast.h"
#include "gpu/kernels/gather_cast.h"

namespace devmem {
namespace {

constexpr uint64_t kLeastTile = 1024;      // bytes: less is not worth a warp
constexpr uint64_t kRunCost = 64;          // what a run costs besides its bytes, in bytes
constexpr uint64_t kInlineMost = 1 << 20;  // bytes that a plan in a launch may move; offsets there have 32 bits

// --- kernels of casts ----------------------------------------------------------------------------------------------

using lane::Type;

template <Type kFrom, Type kTo>
bool SameInFloat(const ChannelConstants& constants) {
  constexpr uint32_t kValues = lane::SizeOf(kFrom) == 1 ? 1 << 8 : 1 << 16;
  for (size_t c = 0; c < constants.factor.size(); ++c) {
    for (uint32_t bits = 0; bits < kValues; ++bits) {
      if (lane::Convert<kFrom, kTo, true>(bits, constants.factor[c], constants.offset[c], constants.add) !=
          lane::Convert<kFrom, kTo, false>(bits, constants.factor[c], constants.offset[c], constants.add)) {
        return false;
      }
    }
  }
  return true;
}

template <Type kFrom>
bool SameInFloat(DType to, const ChannelConstants& constants) {
  switch (to) {
    case DType::kF16:
      return SameInFloat<kFrom, lane::kF16>(constants);
    case DType::kBF16:
      return SameInFloat<kFrom, lane::kBF16>(constants);
    case DType::kF32:
      return SameInFloat<kFrom, lane::kF32>(constants);
    default:
      return false;
  }
}

bool SameInFloat(DType from, DType to, const ChannelConstants& constants) {
  switch (from) {
    case DType::kU8:
      return SameInFloat<lane::kU8>(to, constants);
    case DType::kU16:
      return SameInFloat<lane::kU16>(to, constants);
    case DType::kF16:
      return SameInFloat<lane::kF16>(to, constants);
    case DType::kBF16:
      return SameInFloat<lane::kBF16>(to, constants);
    default:
      return false;
  }
}

// Pairs that have a kernel of their own; the others are rare in training data, and go an element a lane.
bool HasRowsKernel(DType from, DType to) {
  switch (from) {
    case DType::kU8:
    case DType::kU16:
    case DType::kI32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF32:
    case DType::kF64:
      return to == DType::kF16 || to == DType::kBF16 || to == DType::kF32;
    default:
      return false;
  }
}

bool Transposes(const GatherCastSpec& spec) { return spec.pixels > 1 && spec.channels > 1; }

}  // namespace

void PlanGather(uint64_t source_base, uint64_t destination_base, std::span<const Fragment> fragments,
                const GatherPlanOptions& options, WorkPlan* plan) {
  plan->runs.clear();
  plan->tiles.clear();
  plan->bytes = 0;
  for (const Fragment& fragment : fragments) {
    const Run run{source_base + fragment.source, destination_base + fragment.destination, fragment.bytes};
    plan->bytes += run.bytes;
    if (options.merge) {
      if (run.bytes == 0) continue;
      Run* const last = plan->runs.empty() ? nullptr : &plan->runs.back();
      if (last != nullptr && last->source + last->bytes == run.source && last->destination + last->bytes == run.destination) {
        last->bytes += run.bytes;
        continue;
      }
    }
    plan->runs.push_back(run);
  }
  const uint64_t cost = plan->bytes + plan->runs.size() * kRunCost;
  const uint64_t tile_cost = std::max(kLeastTile, (cost + options.most_tiles - 1) / options.most_tiles);
  uint64_t left = 0;
  for (uint64_t index = 0; index < plan->runs.size(); ++index) {
    const Run& run = plan->runs[index];
    uint64_t offset = 0;
    do {
      if (left == 0) {
        plan->tiles.push_back({.run = index, .offset = offset});
        left = tile_cost;
      }
      // A run is cut where the destination is a multiple of 16, so that no piece but the first begins with odd bytes.
      const uint64_t room = left > kRunCost ? left - kRunCost : 1;
      uint64_t take = std::min(run.bytes - offset, room);
      if (offset + take < run.bytes) {
        take = std::min(run.bytes - offset, take + ((0 - (run.destination + offset + take)) & 15));
      }
      offset += take;
      left -= std::min(left, take + kRunCost);
    } while (offset < run.bytes);
  }
  plan->tiles.push_back({.run = plan->runs.size(), .offset = 0});
}

bool FitsInline(const WorkPlan& plan) {
  return plan.runs.size() <= InlineGatherTask::kMostRuns && plan.tile_count() <= InlineGatherTask::kMostTiles &&
         plan.bytes <= kInlineMost;
}

void FillInline(const WorkPlan& plan, InlineGatherTask* task) {
  task->count = plan.tile_count();
  std::copy(plan.runs.begin(), plan.runs.end(), task->runs);
  std::transform(plan.tiles.begin(), plan.tiles.end(), task->tiles, [](const Tile& tile) {
    return InlineGatherTask::SmallTile{static_cast<uint32_t>(tile.run), static_cast<uint32_t>(tile.offset)};
  });
}

CastPath ChooseCastPath(const GatherCastSpec& spec) {
  CastPath path;
  if (Transposes(spec)) {
    if (spec.cast.from == DType::kU8 && (spec.channels == 3 || spec.channels == 4) && spec.cast.to != DType::kF64) {
      path.kernel = CastPath::Kernel::kPlanes;
    }
  } else if (HasRowsKernel(spec.cast.from, spec.cast.to)) {
    path.kernel = CastPath::Kernel::kRows;
  }
  path.in_float = path.kernel != CastPath::Kernel::kAny && SameInFloat(spec.cast.from, spec.cast.to, ConstantsOf(spec));
  return path;
}

void PlanCast(const GatherCastSpec& spec, const CastPath& path, uint64_t source_base, uint64_t destination,
              std::span<const Fragment> fragments, uint32_t most_tiles, WorkPlan* plan, CastTask* task) {
  plan->runs.clear();
  plan->tiles.clear();
  plan->bytes = 0;
  for (const Fragment& fragment : fragments) {
    if (fragment.bytes == 0) continue;
    Run* const last = plan->runs.empty() ? nullptr : &plan->runs.back();
    const uint64_t source = source_base + fragment.source;
    plan->bytes += fragment.bytes;
    if (last != nullptr && last->source + last->bytes == source) {  // they always follow each other on the other side
      last->bytes += fragment.bytes;
    } else {
      plan->runs.push_back({.source = source, .destination = fragment.destination, .bytes = fragment.bytes});
    }
  }

  const ChannelConstants constants = ConstantsOf(spec);
  // Where every channel is treated alike and stays where it is, there is but one.
  const bool alike = !constants.add && !Transposes(spec);
  *task = CastTask{.run_count = plan->runs.size(),
                   .elements = spec.cast.count,
                   .destination = destination,
                   .pixels = Transposes(spec) ? spec.pixels : 0,
                   .channels = alike ? 1 : spec.channels,
                   .from = static_cast<uint8_t>(spec.cast.from),
                   .to = static_cast<uint8_t>(spec.cast.to),
                   .add = constants.add};
  static_assert(kMostChannels <= kTaskChannels);
  std::copy(constants.factor.begin(), constants.factor.end(), task->factor);
  std::copy(constants.offset.begin(), constants.offset.end(), task->offset);

  const uint64_t unit_elements = path.kernel == CastPath::Kernel::kAny ? 1 : 16 / ItemSize(spec.cast.to);
  const uint64_t from_size = ItemSize(spec.cast.from);
  const uint64_t units_of_sample =
      path.kernel == CastPath::Kernel::kPlanes ? (spec.pixels + unit_elements - 1) / unit_elements : 0;
  if (units_of_sample != 0) {
    task->units = spec.cast.count / (spec.pixels * spec.channels) * units_of_sample;
  } else {
    task->units = (spec.cast.count + unit_elements - 1) / unit_elements;
  }
  const auto first_byte = [&](uint64_t unit) {
    if (units_of_sample == 0) return unit * unit_elements * from_size;
    return ((unit / units_of_sample * spec.pixels) + (unit % units_of_sample * unit_elements)) * spec.channels * from_size;
  };
  constexpr uint64_t kLeastUnits = uint64_t{4} * kWarp;
  const uint64_t even = (task->units + most_tiles - 1) / most_tiles;
  const uint64_t tile_units = std::max(kLeastUnits, (even + kWarp - 1) / kWarp * kWarp);
  assert(tile_units <= UINT32_MAX);
  task->tile_units = static_cast<uint32_t>(tile_units);
  uint64_t run = 0;
  for (uint64_t unit = 0; unit < task->units; unit += tile_units) {
    const uint64_t at = first_byte(unit);
    while (at >= plan->runs[run].destination + plan->runs[run].bytes) ++run;
    plan->tiles.push_back({.run = run, .offset = 0});
  }
  task->count = static_cast<uint32_t>(plan->tiles.size());
  plan->tiles.push_back({.run = plan->runs.size(), .offset = 0});
}

}  // namespace devmem
