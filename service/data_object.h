// SPDX-License-Identifier: Apache-2.0
// Which objects of a bucket are data, and which of those a glob means. Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "net/object_table.h"
#include "service/glob.h"

namespace devmem {

// Whether `name` can be data at all: see dataset_builder.h for what cannot.
[[nodiscard]] bool IsDataObject(std::string_view name);

// Asked now and then by what may take long; an error ends it.
using KeepOn = std::function<absl::Status()>;

// The members of `candidates` (indices into `listing`) that `glob` matches, in their order.
[[nodiscard]] absl::StatusOr<std::vector<uint32_t>> Match(const ObjectTable& listing, std::span<const uint32_t> candidates,
                                                          const Glob& glob, const KeepOn& keep_on);

// "12 objects (a.npy, b.npy, c.npy, …)", for messages.
[[nodiscard]] std::string Describe(const ObjectTable& listing, std::span<const uint32_t> candidates);

}  // namespace devmem
