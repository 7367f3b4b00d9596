// SPDX-License-Identifier: Apache-2.0
#include "service/prefetch_window.h"

#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace devmem {
namespace {

uint64_t DivideUp(uint64_t a, uint64_t b) { return a / b + (a % b == 0 ? 0 : 1); }

// The least whole number of MiB, of KiB below that: what a person types, and never less than what is needed.
std::string AtLeast(uint64_t bytes) {
  const uint64_t unit = bytes > uint64_t{1} << 20 ? uint64_t{1} << 20 : uint64_t{1} << 10;
  return absl::StrCat(DivideUp(bytes, unit), unit == uint64_t{1} << 20 ? "MiB" : "KiB");
}

}  // namespace

std::string SplitGroupWarning(const PrefetchWindow& window, uint64_t group_samples, uint32_t world_size) {
  const uint64_t part = group_samples / world_size;
  const uint64_t wave = window.wave_slots * window.batch_size;
  if (part <= wave) return {};
  std::string text = absl::StrCat("a shuffle group has ", Counted(part, "sample"), world_size > 1 ? " for this rank" : "",
                                  ", and the prefetch window of ", FormatSize(window.slots * window.slot_bytes), " reads ",
                                  wave, " at a time: groups are read in parts, with more requests and discarded bytes; ");
  // Half of the slots are read while the other half is delivered.
  const uint64_t needed = 2 * DivideUp(part, window.batch_size);
  if (needed <= window.most_slots) {
    absl::StrAppend(&text, "raise --prefetch from ", FormatSize(window.prefetch), " to ", AtLeast(needed * window.slot_bytes));
  } else {
    absl::StrAppend(&text, "no --prefetch would do, as a window holds at most ", Counted(window.most_slots, "batch", "batches"),
                    " of this size: lower --group-blocks or --block-samples");
  }
  return text;
}

}  // namespace devmem
