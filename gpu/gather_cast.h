// SPDX-License-Identifier: Apache-2.0
// What Device::GatherCast means: its checks, its constants, and the reference that every kernel is compared with, bit by bit.
//
//   DEVMEM_RETURN_IF_ERROR(CheckGatherCast(spec, fragments, source_bytes, destination_bytes));
//   GatherCastElements(spec, fragments, source, destination);
//
// Pure functions; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "gpu/device.h"

namespace devmem {

inline constexpr uint32_t kMostChannels = 64;

// y = x * factor + offset of a channel, as doubles; without mean and deviation every factor is the scale, and no offset is
// added.
struct ChannelConstants {
  bool add = false;
  std::vector<double> factor, offset;  // `channels` of each
};
[[nodiscard]] ChannelConstants ConstantsOf(const GatherCastSpec& spec);

// kInvalidArgument for a spec that makes no sense or fragments that are not [0, count * size) in order; kOutOfRange for a
// fragment outside the source, or a result that does not fit into the destination.
[[nodiscard]] absl::Status CheckGatherCast(const GatherCastSpec& spec, std::span<const Fragment> fragments,
                                           uint64_t source_bytes, uint64_t destination_bytes);

// `source` is where the fragments' sources count from. Checked before.
void GatherCastElements(const GatherCastSpec& spec, std::span<const Fragment> fragments, const std::byte* source,
                        std::byte* destination);

}  // namespace devmem
