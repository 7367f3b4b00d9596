// SPDX-License-Identifier: Apache-2.0
// Values as people type them on a command line. Every function fails with kInvalidArgument whose message is what is
// accepted ("expected a size such as 256MiB, 1G or 4096"): the flag and the value are named by the caller.
//
//   DEVMEM_ASSIGN_OR_RETURN(uint64_t bytes, ParseSize("256MiB"));
//
// Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace devmem::cli {

[[nodiscard]] absl::StatusOr<uint64_t> ParseWhole(std::string_view text, uint64_t lowest, uint64_t highest);

// "4096", "64k", "256MiB", "1.5G": K, M, G, T and KiB... are powers of 1024; KB, MB, GB, TB powers of 1000.
[[nodiscard]] absl::StatusOr<uint64_t> ParseSize(std::string_view text);

// "250ms", "5s", "2m", "1h", "1.5" (seconds).
[[nodiscard]] absl::StatusOr<Duration> ParseDuration(std::string_view text);

// "1", "true", "yes", "on" and their opposites, as environment variables have them.
[[nodiscard]] absl::StatusOr<bool> ParseSwitch(std::string_view text);

[[nodiscard]] absl::StatusOr<double> ParseNumber(std::string_view text);

// "32x32x3" or "32,32,3"; every dimension at least 1.
[[nodiscard]] absl::StatusOr<std::vector<int64_t>> ParseShape(std::string_view text);

// An octal file mode, "0660".
[[nodiscard]] absl::StatusOr<uint32_t> ParseMode(std::string_view text);

// "name=value" in two; the name is empty where there is no '='.
[[nodiscard]] std::pair<std::string, std::string> SplitNamed(std::string_view text);

// "12.3 s", "1h02m": for people.
[[nodiscard]] std::string FormatSeconds(double seconds);

}  // namespace devmem::cli
