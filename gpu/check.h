// SPDX-License-Identifier: Apache-2.0
// The checks that every device makes of what it is asked for, before anything is touched. Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "gpu/device.h"

namespace devmem {

[[nodiscard]] constexpr bool Inside(uint64_t offset, uint64_t length, uint64_t bytes) {
  return offset <= bytes && length <= bytes - offset;
}

// kOutOfRange: `what` ("a fragment's source") leaves its memory of `bytes`.
[[nodiscard]] absl::Status RangeError(std::string_view what, uint64_t offset, uint64_t length, uint64_t bytes);

// kOutOfRange if a fragment leaves its memory.
[[nodiscard]] absl::Status CheckFragments(const DeviceMemory& destination, const DeviceMemory& source,
                                          std::span<const Fragment> fragments);

// kInvalidArgument without memory, kOutOfRange outside of it.
[[nodiscard]] absl::Status CheckSpan(const DeviceSpan& span, std::string_view what);

// kInvalidArgument if two sides of a copy differ, or there are not as many sums as fragments.
[[nodiscard]] absl::Status CheckSameSize(uint64_t host, uint64_t device);
[[nodiscard]] absl::Status CheckSums(std::span<const Fragment> fragments, std::span<const uint64_t> sums);

}  // namespace devmem
