// SPDX-License-Identifier: Apache-2.0
// nginx's `autoindex_format json`: one folder's entries. A pure function; what it is given comes from another machine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace devmem {

struct AutoindexEntry {
  std::string name;  // decoded, one segment: neither "." nor "..", without '/'; of a file, it may yet fail CheckObjectName()
  bool folder = false;
  uint64_t size = 0;      // of a file
  std::string validator;  // mtime if it is an HTTP date, else empty
  bool operator==(const AutoindexEntry&) const = default;
};

// Takes one entry; an error ends the listing with it.
using TakeEntry = std::function<absl::Status(AutoindexEntry entry)>;

// Gives every file and folder to `take`, one at a time, so that a listing of a million is never there but as `json`. What is
// neither is left out, and "." and ".." are. nginx writes names as the bytes they are in the file system, so a listing need not
// be UTF-8. `where` is the folder's URL, for errors: kFailedPrecondition if `json` is not such a listing, kInvalidArgument for
// a name that could lead elsewhere.
[[nodiscard]] absl::Status ParseAutoindex(std::string_view json, std::string_view where, const TakeEntry& take);

}  // namespace devmem
