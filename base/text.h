// SPDX-License-Identifier: Apache-2.0
// Text for people and for protocols, out of bytes that others chose: names of objects, answers of servers, arguments.
// Pure functions.
//
//   MakeError(..., "key " + Printable(key) + " is refused", ...);
//   absl::StrCat(Counted(objects, "object"), ", ", FormatSize(bytes));   // "1 object, 1.50 GiB"
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace devmem {

// The character at the head of `text` if that is well-formed UTF-8 (RFC 3629: no overlong form, no surrogate, nothing
// above U+10FFFF); a length of 0 where it is not, or `text` is empty.
struct Utf8Character {
  size_t length = 0;
  uint32_t point = 0;
};
[[nodiscard]] Utf8Character DecodeUtf8(std::string_view text);
[[nodiscard]] bool IsUtf8(std::string_view bytes);

// `text` with '?' for each byte that is not part of UTF-8, cut before the character that would pass `limit` bytes.
[[nodiscard]] std::string AsUtf8(std::string_view text, size_t limit = std::string_view::npos);

// The longest head of `text` of at most `limit` bytes that cuts no character in two.
[[nodiscard]] std::string_view Utf8Head(std::string_view text, size_t limit);

// Whether a terminal or an editor might act on `point` rather than show it: C0 and C1 controls, DEL, line and paragraph
// separators, and the marks that change the direction of what follows.
[[nodiscard]] bool IsControl(uint32_t point);

// `text` fit for a terminal, a log or an error: C0 controls and bytes that are not UTF-8 are written \xNN, other controls
// \uNNNN, as in JSON, so that a line of JSON stays one. What is longer than `limit` bytes is cut, and ends with "...".
inline constexpr size_t kShownBytes = 200;
inline constexpr size_t kShowAll = std::string_view::npos;
[[nodiscard]] std::string Printable(std::string_view text, size_t limit = kShownBytes);

// "1 object", "2 objects"; `many` where an s does not make the plural.
[[nodiscard]] std::string Counted(uint64_t count, std::string_view one, std::string_view many = {});

// "512 B", "1.50 GiB".
[[nodiscard]] std::string FormatSize(uint64_t bytes);

}  // namespace devmem
