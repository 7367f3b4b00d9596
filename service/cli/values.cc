// SPDX-License-Identifier: Apache-2.0
#include "service/cli/values.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "absl/strings/str_cat.h"

namespace devmem::cli {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// The number `text` starts with and what follows it. from_chars, because strtod obeys the locale and takes "0x" and "nan".
bool SplitNumber(std::string_view text, double& number, std::string_view& unit) {
  if (text.empty() || text[0] == '-') return false;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number)) return false;
  unit = text.substr(static_cast<size_t>(end - text.data()));
  return true;
}

}  // namespace

absl::StatusOr<uint64_t> ParseWhole(std::string_view text, uint64_t lowest, uint64_t highest) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < lowest || value > highest) {
    if (highest == std::numeric_limits<uint64_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat("expected a whole number of at least ", lowest));
    }
    return absl::InvalidArgumentError(absl::StrCat("expected a whole number from ", lowest, " to ", highest));
  }
  return value;
}

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  struct Unit {
    const char* name;
    double bytes;
  };
  constexpr double k = 1024;
  static constexpr std::array<Unit, 14> kUnits = {{{"", 1},
                                                   {"b", 1},
                                                   {"k", k},
                                                   {"kib", k},
                                                   {"kb", 1e3},
                                                   {"m", k * k},
                                                   {"mib", k * k},
                                                   {"mb", 1e6},
                                                   {"g", k * k * k},
                                                   {"gib", k * k * k},
                                                   {"gb", 1e9},
                                                   {"t", k * k * k * k},
                                                   {"tib", k * k * k * k},
                                                   {"tb", 1e12}}};
  const absl::Status bad = absl::InvalidArgumentError("expected a size such as 4096, 64KiB, 256MiB or 1G");
  uint64_t whole = 0;  // exact above 2^53, where a double is not
  if (auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), whole);
      error == std::errc() && end == text.data() + text.size()) {
    return whole;
  }
  double number = 0;
  std::string_view unit;
  if (!SplitNumber(text, number, unit)) return bad;
  const std::string lower = Lower(unit);
  for (const Unit& candidate : kUnits) {
    if (lower != candidate.name) continue;
    const double bytes = std::round(number * candidate.bytes);
    if (bytes >= 18446744073709551616.0) return bad;  // 2^64
    return static_cast<uint64_t>(bytes);
  }
  return bad;
}

absl::StatusOr<Duration> ParseDuration(std::string_view text) {
  const absl::Status bad = absl::InvalidArgumentError("expected a time such as 250ms, 5s, 2m or 1h");
  double number = 0;
  std::string_view unit;
  if (!SplitNumber(text, number, unit)) return bad;
  double seconds = 0;
  if (unit.empty() || unit == "s") {
    seconds = number;
  } else if (unit == "ms") {
    seconds = number / 1000;
  } else if (unit == "m" || unit == "min") {
    seconds = number * 60;
  } else if (unit == "h") {
    seconds = number * 3600;
  } else {
    return bad;
  }
  constexpr double kLongest = 10.0 * 365 * 24 * 3600;  // a deadline further away would overflow the clock's arithmetic
  if (seconds > kLongest) return bad;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

absl::StatusOr<bool> ParseSwitch(std::string_view text) {
  const std::string lower = Lower(text);
  if (lower == "1" || lower == "true" || lower == "yes" || lower == "on") return true;
  if (lower == "0" || lower == "false" || lower == "no" || lower == "off") return false;
  return absl::InvalidArgumentError("expected 1 or 0 (or true, false, yes, no, on, off)");
}

absl::StatusOr<double> ParseNumber(std::string_view text) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return absl::InvalidArgumentError("expected a number such as 0.0039 or 1e-3");
  }
  return value;
}

absl::StatusOr<std::vector<int64_t>> ParseShape(std::string_view text) {
  std::vector<int64_t> shape;
  size_t from = 0;
  while (from <= text.size()) {
    size_t to = text.find_first_of("x,", from);
    if (to == std::string_view::npos) to = text.size();
    auto dimension = ParseWhole(text.substr(from, to - from), 1, std::numeric_limits<int64_t>::max());
    if (!dimension.ok())
      return absl::InvalidArgumentError("expected a shape such as 32x32x3 (of one sample, every dimension at least 1)");
    shape.push_back(static_cast<int64_t>(*dimension));
    from = to + 1;
  }
  return shape;
}

absl::StatusOr<uint32_t> ParseMode(std::string_view text) {
  uint32_t mode = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
  if (error != std::errc() || end != text.data() + text.size() || mode > 0777) {
    return absl::InvalidArgumentError("expected an octal file mode such as 0660");
  }
  return mode;
}

std::pair<std::string, std::string> SplitNamed(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return {"", std::string(text)};
  return {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
}

std::string FormatSeconds(double seconds) {
  std::array<char, 48> text;
  if (seconds < 0.0995) {
    std::snprintf(text.data(), text.size(), "%.1f ms", seconds * 1000);
  } else if (seconds < 120) {
    std::snprintf(text.data(), text.size(), "%.1f s", seconds);
  } else if (seconds < 3600) {
    std::snprintf(text.data(), text.size(), "%dm%02ds", static_cast<int>(seconds) / 60, static_cast<int>(seconds) % 60);
  } else {
    const auto minutes = static_cast<int64_t>(seconds / 60);
    std::snprintf(text.data(), text.size(), "%lldh%02dm", static_cast<long long>(minutes / 60), static_cast<int>(minutes % 60));
  }
  return text.data();
}

}  // namespace devmem::cli
