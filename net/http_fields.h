// SPDX-License-Identifier: Apache-2.0
// The few HTTP header fields small reads depend on, parsed strictly: they come from other machines. Pure functions.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

namespace devmem {

// "bytes 0-99/1234" of a 206, or "bytes */1234" of a 416.
struct ContentRange {
  bool satisfied = false;  // false: "*", `first` and `last` mean nothing
  uint64_t first = 0;
  uint64_t last = 0;   // inclusive, >= first, < total
  uint64_t total = 0;  // at most 2^63 - 1
  bool operator==(const ContentRange&) const = default;
};
// Nothing where it is malformed, contradicts itself or leaves the total open.
[[nodiscard]] std::optional<ContentRange> ParseContentRange(std::string_view value);

// A strong entity tag in its quotes; not W/"...".
[[nodiscard]] bool IsStrongETag(std::string_view value);

// "Sun, 06 Nov 1994 08:49:37 GMT", the form servers must send.
[[nodiscard]] bool IsHttpDate(std::string_view value);

// A time in that form; whatever the locale.
[[nodiscard]] std::string HttpDate(std::time_t time);

// What identifies a content, as ObjectTable holds it: the ETag if it is strong, else the date, else nothing.
[[nodiscard]] std::string_view ChooseValidator(std::string_view etag, std::string_view last_modified);

}  // namespace devmem
