// SPDX-License-Identifier: Apache-2.0
// What a stream's memory lets it read ahead, and what to say where that is less than a shuffle group. Pure functions.
#pragma once

#include <cstdint>
#include <string>

namespace devmem {

struct PrefetchWindow {
  uint64_t slots = 0;       // batches that there is memory for
  uint64_t wave_slots = 0;  // of these, the batches whose reads are planned together
  uint64_t most_slots = 0;  // that any stream may have, whatever its --prefetch
  uint64_t slot_bytes = 0;  // what one takes of --prefetch
  uint64_t batch_size = 0;
  uint64_t prefetch = 0;  // as asked for, or the daemon's default
};

// Empty if a group of `group_samples`, of which each of `world_size` ranks reads a part, fits into what is read at a time. Else
// that it does not, and the --prefetch with which it would, or that none would do.
[[nodiscard]] std::string SplitGroupWarning(const PrefetchWindow& window, uint64_t group_samples, uint32_t world_size);

}  // namespace devmem
