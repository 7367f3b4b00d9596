// SPDX-License-Identifier: Apache-2.0
#include "net/http_fields.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <limits>

namespace devmem {
namespace {

bool TakeNumber(std::string_view& text, uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data() || value > uint64_t{std::numeric_limits<int64_t>::max()}) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool Take(std::string_view& text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// A field's value may hold visible ASCII, and bytes above it; nothing that could end a header line.
bool IsTagByte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte > 0x20 && byte != '"' && byte != 0x7f;
}

}  // namespace

std::optional<ContentRange> ParseContentRange(std::string_view value) {
  ContentRange range;
  if (!Take(value, "bytes ")) return std::nullopt;
  if (!Take(value, "*")) {
    range.satisfied = true;
    if (!TakeNumber(value, range.first) || !Take(value, "-") || !TakeNumber(value, range.last)) return std::nullopt;
  }
  if (!Take(value, "/") || !TakeNumber(value, range.total) || !value.empty()) return std::nullopt;
  if (range.satisfied && (range.last < range.first || range.last >= range.total)) return std::nullopt;
  return range;
}

bool IsStrongETag(std::string_view value) {
  return value.size() >= 2 && value.size() <= 1024 && value.front() == '"' && value.back() == '"' &&
         std::all_of(value.begin() + 1, value.end() - 1, IsTagByte);
}

bool IsHttpDate(std::string_view value) {
  constexpr std::string_view kPattern = "Aaa, 00 Aaa 0000 00:00:00 GMT";
  if (value.size() != kPattern.size()) return false;
  for (size_t i = 0; i < value.size(); ++i) {
    const char want = kPattern[i], c = value[i];
    const bool month_or_day = i < 3 || (i >= 8 && i < 11);
    const bool fits = want == '0'    ? c >= '0' && c <= '9'
                      : month_or_day ? (want == 'A' ? c >= 'A' && c <= 'Z' : c >= 'a' && c <= 'z')
                                     : c == want;
    if (!fits) return false;
  }
  return true;
}

std::string HttpDate(std::time_t time) {
  constexpr std::array<const char*, 7> kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array<const char*, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm utc = {};
  if (::gmtime_r(&time, &utc) == nullptr) return "";  // a year beyond int
  std::array<char, 96> text;
  const int length = std::snprintf(
      text.data(), text.size(), "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[static_cast<size_t>(utc.tm_wday)], utc.tm_mday,
      kMonths[static_cast<size_t>(utc.tm_mon)], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
  return {text.data(), static_cast<size_t>(length)};
}

std::string_view ChooseValidator(std::string_view etag, std::string_view last_modified) {
  if (IsStrongETag(etag)) return etag;
  if (IsHttpDate(last_modified)) return last_modified;
  return {};
}

}  // namespace devmem
