// SPDX-License-Identifier: Apache-2.0
// Which objects of a bucket are data, and which of those a glob means. Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "net/object_table.h"

namespace devmem {

// Whether `name` can be data at all: see dataset_builder.h for what cannot.
[[nodiscard]] bool IsDataObject(std::string_view name);

// fnmatch(3) without flags: '*' and '?' match '/' too.
[[nodiscard]] bool MatchesGlob(const std::string& glob, std::string_view name);

// The members of `candidates` (indices into `listing`) that `glob` matches, in their order.
[[nodiscard]] std::vector<uint32_t> Match(const ObjectTable& listing, std::span<const uint32_t> candidates,
                                          const std::string& glob);

// "12 objects (a.npy, b.npy, c.npy, …)", for messages.
[[nodiscard]] std::string Describe(const ObjectTable& listing, std::span<const uint32_t> candidates);

}  // namespace devmem
