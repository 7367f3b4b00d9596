// SPDX-License-Identifier: Apache-2.0
// Reads the headers of many objects with few requests in flight and little memory: waves of small reads, each parsed
// and forgotten before the next wave. Blocks; `parse` and `progress` are called from the calling thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "net/object_store.h"
#include "net/object_table.h"

namespace devmem {

// Given the first bytes of object objects[position] and its size. Returns 0 when done with it, or how many bytes from
// its start it needs, which is more than it was given. An error ends ReadHeaders with that error.
using ParseHeaderFn =
    std::function<absl::StatusOr<uint64_t>(size_t position, std::string_view first_bytes, uint64_t object_size)>;

// Told of an object that cannot be read, where that is the object's own fault: objects[position] is gone, has changed, or is
// kept back (403) by a store that gives out others since. OK: it is left out; an error ends ReadHeaders with that error.
using UnreadableFn = std::function<absl::Status(size_t position, const absl::Status& why)>;

// Reads the first `first_read` bytes of every listing[objects[i]] (indices ascending), and more where `parse` wants more.
// Returns those objects, in their order, with the validators learnt on the way: a strong ETag is preferred to a date, and
// an answer's to the listing's, so that every open of an unchanged bucket learns the same. Every request is pinned to what
// the first one saw of an object. kAborted if an object's size is not the listing's, kNotFound if it has vanished: where
// `unreadable` is given it decides on those.
[[nodiscard]] absl::StatusOr<ObjectTable> ReadHeaders(const ObjectStore& store, const ObjectTable& listing,
                                                      std::span<const uint32_t> objects, uint64_t first_read, Time deadline,
                                                      const ProgressFn& progress, const ParseHeaderFn& parse,
                                                      const UnreadableFn& unreadable = nullptr);

}  // namespace devmem
