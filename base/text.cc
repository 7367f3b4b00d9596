// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace devmem {

Utf8Character DecodeUtf8(std::string_view text) {
  if (text.empty()) return {};
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return {1, lead};
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return {};
  uint32_t point = lead & (0x7FU >> length);
  for (size_t i = 1; i < length; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xC0) != 0x80) return {};
    point = point << 6 | (next & 0x3F);
  }
  if (length == 3 && (point < 0x800 || (point >= 0xD800 && point <= 0xDFFF))) return {};
  if (length == 4 && (point < 0x10000 || point > 0x10FFFF)) return {};
  return {length, point};
}

bool IsUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = DecodeUtf8(bytes).length;
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string AsUtf8(std::string_view text, size_t limit) {
  std::string clean;
  while (!text.empty()) {
    const size_t length = DecodeUtf8(text).length;
    const size_t taken = std::max<size_t>(length, 1);
    if (taken > limit - clean.size()) break;
    clean.append(length == 0 ? std::string_view("?") : text.substr(0, length));
    text.remove_prefix(taken);
  }
  return clean;
}

std::string_view Utf8Head(std::string_view text, size_t limit) {
  size_t end = 0;
  while (end < text.size()) {
    const size_t next = end + std::max<size_t>(DecodeUtf8(text.substr(end)).length, 1);
    if (next > limit) break;
    end = next;
  }
  return text.substr(0, end);
}

bool IsControl(uint32_t point) {
  return point < 0x20 || (point >= 0x7F && point < 0xA0) ||        // C0, DEL, C1
         point == 0x061C || point == 0x200E || point == 0x200F ||  // Arabic letter mark, left-to-right, right-to-left
         (point >= 0x2028 && point <= 0x202E) ||                   // separators; embeddings and overrides
         (point >= 0x2066 && point <= 0x2069);                     // isolates
}

std::string Printable(std::string_view text, size_t limit) {
  std::string shown;
  const std::string_view head = Utf8Head(text, limit);
  const auto escape = [&shown](const char* format, uint32_t value) {
    std::array<char, 8> escaped;
    std::snprintf(escaped.data(), escaped.size(), format, value);
    shown.append(escaped.data());
  };
  for (std::string_view rest = head; !rest.empty();) {
    const Utf8Character character = DecodeUtf8(rest);
    if (character.length == 0) {
      escape("\\x%02x", static_cast<unsigned char>(rest[0]));
    } else if (!IsControl(character.point)) {
      shown.append(rest.substr(0, character.length));
    } else {
      escape(character.point < 0x20 ? "\\x%02x" : "\\u%04x", character.point);
    }
    rest.remove_prefix(std::max<size_t>(character.length, 1));
  }
  if (head.size() < text.size()) shown.append("...");
  return shown;
}

std::string Counted(uint64_t count, std::string_view one, std::string_view many) {
  std::string text = std::to_string(count) + " ";
  if (count == 1 || many.empty()) {
    text.append(one);
    if (count != 1) text.append("s");
  } else {
    text.append(many);
  }
  return text;
}

std::string FormatSize(uint64_t bytes) {
  static constexpr std::array<const char*, 7> kNames = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.2f %s", value, kNames[unit]);
  return text.data();
}

}  // namespace devmem
