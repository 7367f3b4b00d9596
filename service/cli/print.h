// SPDX-License-Identifier: Apache-2.0
// Standard output, of which the end may have gone away or be full. Nothing printed moves a terminal's cursor: all but the ends
// of lines is made Printable(), which leaves JSON as it is.
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace devmem::cli {

// Writes all of `text` to stdout. A reader that went away (EPIPE) has had what it wanted and is no error.
[[nodiscard]] absl::Status PrintOut(std::string_view text);

// To stderr, best effort.
void PrintError(std::string_view text);

// Exit codes of every command.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitNoZeroCopy = 3,
  kExitInterrupted = 130,
  kExitConfiguration = 253,
};

// For what FlagTable::Parse failed with.
[[nodiscard]] int UsageExitCode(const absl::Status& status);

}  // namespace devmem::cli
