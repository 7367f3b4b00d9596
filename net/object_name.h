// SPDX-License-Identifier: Apache-2.0
// Which objects of a listing can be asked for, and how many a listing may hold. Listings come from other machines: they hold
// whatever names these give, and one that cannot be asked for spoils nothing but itself. So a name is checked here when its
// object is chosen (service/dataset_builder.h), and by every store before it asks for it. Thread-safe: functions.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"

namespace devmem {

// 1024 bytes are S3's limit on a key; folders on a file system may add up to PATH_MAX.
inline constexpr size_t kMaxObjectName = 4096;
// An object costs its name, its validator and 24 bytes: 16 Mi objects of 100 bytes are 2.4 GiB, beyond which a
// listing is a mistake or an attack.
inline constexpr size_t kMaxObjects = size_t{16} << 20;
inline constexpr int kMaxFolderDepth = 64;

// OK if `name` is relative, not empty, without "." or ".." segments, without NUL and not a folder ("x/"). The error
// (kInvalidArgument) names it, with what does not print escaped, and `where` it came from.
[[nodiscard]] absl::Status CheckObjectName(std::string_view name, std::string_view where);

// kResourceExhausted: more than kMaxObjects, or folders nested deeper than kMaxFolderDepth.
[[nodiscard]] absl::Status TooManyObjects(std::string_view where);
[[nodiscard]] absl::Status TooDeep(std::string_view where);

}  // namespace devmem
