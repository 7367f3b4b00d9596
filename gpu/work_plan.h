// SPDX-License-Identifier: Apache-2.0
// Cuts device work into tiles, one a warp, by bytes (gpu/kernels/tasks.h). Done by the host: it looks at every fragment anyway,
// to check it.
//
//   WorkPlan plan;                                   // kept from call to call: its vectors stay as large as they became
//   PlanGather(source_base, destination_base, fragments, {.most_tiles = 8192}, &plan);
//
// Pure functions; one thread a plan.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/device.h"
#include "gpu/kernels/tasks.h"

namespace devmem {

struct WorkPlan {
  std::vector<Run> runs;    // addresses
  std::vector<Tile> tiles;  // one more than there are tiles
  uint64_t bytes = 0;       // of all runs

  [[nodiscard]] uint32_t tile_count() const { return static_cast<uint32_t>(tiles.size() - 1); }
};

struct GatherPlanOptions {
  uint32_t most_tiles = 1024;  // a few a warp that the device can hold, so that the last ones end together
  bool merge = true;           // fragments that follow each other on both sides are one run, and empty ones none
};
// The bases are the memories' addresses. Fragments were checked.
void PlanGather(uint64_t source_base, uint64_t destination_base, std::span<const Fragment> fragments,
                const GatherPlanOptions& options, WorkPlan* plan);

// Whether a plan may travel in the launch, and how.
[[nodiscard]] bool FitsInline(const WorkPlan& plan);
void FillInline(const WorkPlan& plan, InlineGatherTask* task);

// Up to 65,536 conversions a channel: to be done once for a spec, not for every batch.
[[nodiscard]] CastPath ChooseCastPath(const GatherCastSpec& spec);

// `destination` is an address; the plan's runs get addresses on the source's side. The task's pointers are left to the caller.
void PlanCast(const GatherCastSpec& spec, const CastPath& path, uint64_t source_base, uint64_t destination,
              std::span<const Fragment> fragments, uint32_t most_tiles, WorkPlan* plan, CastTask* task);

}  // namespace devmem
