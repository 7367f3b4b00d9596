// SPDX-License-Identifier: Apache-2.0
#include "gpu/check.h"

#include <string>

#include "base/error.h"

namespace devmem {
namespace {

constexpr char kBug[] = "report a bug with this message";

}  // namespace

absl::Status RangeError(std::string_view what, uint64_t offset, uint64_t length, uint64_t bytes) {
  return MakeError(absl::StatusCode::kOutOfRange,
                   std::string(what) + " leaves its memory of " + std::to_string(bytes) + " bytes",
                   {.offset = offset, .length = length, .cause = "range outside memory", .action = kBug});
}

absl::Status CheckFragments(const DeviceMemory& destination, const DeviceMemory& source, std::span<const Fragment> fragments) {
  const uint64_t to = destination.bytes(), from = source.bytes();
  for (const Fragment& fragment : fragments) {
    if (!Inside(fragment.source, fragment.bytes, from)) {
      return RangeError("a fragment's source", fragment.source, fragment.bytes, from);
    }
    if (!Inside(fragment.destination, fragment.bytes, to)) {
      return RangeError("a fragment's destination", fragment.destination, fragment.bytes, to);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSpan(const DeviceSpan& span, std::string_view what) {
  if (span.memory == nullptr) {
    return MakeError(absl::StatusCode::kInvalidArgument, std::string(what) + " has no memory",
                     {.cause = "null memory", .action = kBug});
  }
  if (!Inside(span.offset, span.bytes, span.memory->bytes())) {
    return RangeError(what, span.offset, span.bytes, span.memory->bytes());
  }
  return absl::OkStatus();
}

absl::Status CheckSameSize(uint64_t host, uint64_t device) {
  if (host == device) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument,
                   "a copy of " + std::to_string(host) + " host bytes and " + std::to_string(device) + " device bytes",
                   {.cause = "sizes differ", .action = kBug});
}

absl::Status CheckSums(std::span<const Fragment> fragments, std::span<const uint64_t> sums) {
  if (fragments.size() == sums.size()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument,
                   std::to_string(sums.size()) + " checksums for " + std::to_string(fragments.size()) + " fragments",
                   {.cause = "sizes differ", .action = kBug});
}

}  // namespace devmem
