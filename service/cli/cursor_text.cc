// SPDX-License-Identifier: Apache-2.0
#include "service/cli/cursor_text.h"

#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem::cli {

std::string CursorText(const devmem_loader::v1::Cursor& cursor) {
  return absl::WebSafeBase64Escape(cursor.SerializeAsString());
}

absl::StatusOr<devmem_loader::v1::Cursor> ReadCursor(const std::string& text) {
  std::string encoded = text;
  if (!text.empty() && text[0] == '@') {
    std::ifstream file(text.substr(1));
    if (!file)
      return ErrnoError(errno, absl::StrCat("--resume: ", text.substr(1)), {.action = "name a file that holds a cursor"});
    constexpr size_t kLongest = 4096;  // a cursor is about 60 characters; FILE may be anything
    encoded.clear();
    for (std::istreambuf_iterator<char> it(file), end; it != end && encoded.size() <= kLongest; ++it) encoded.push_back(*it);
  }
  const char* blanks = " \t\r\n";
  encoded.erase(0, encoded.find_first_not_of(blanks));
  encoded.erase(encoded.find_last_not_of(blanks) + 1);
  std::string bytes;
  devmem_loader::v1::Cursor cursor;
  // A cursor always says under which plan it was made: without that it is some other text that happens to parse.
  if (encoded.empty() || !absl::WebSafeBase64Unescape(encoded, &bytes) || !cursor.ParseFromString(bytes) ||
      cursor.plan_version() == 0 || cursor.SerializeAsString() != bytes) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, absl::StrCat("--resume: '", text, "' is not a cursor"),
        {.cause = "bad cursor", .action = "take the whole \"cursor\" of an earlier summary, or @FILE that holds it"});
  }
  return cursor;
}

std::string FingerprintText(uint64_t fingerprint) { return absl::StrCat(absl::Hex(fingerprint, absl::kZeroPad16)); }

absl::StatusOr<uint64_t> ReadFingerprint(const std::string& text) {
  uint64_t fingerprint = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fingerprint, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) {
    return absl::InvalidArgumentError("expected the 16 hexadecimal digits that rank 0 gives as its fingerprint");
  }
  return fingerprint;
}

}  // namespace devmem::cli
