// SPDX-License-Identifier: Apache-2.0
// For tests only: the words of an error, to hold what people read. Product code cannot compare them (base/error.h).
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {

[[nodiscard]] inline std::string CauseText(const absl::Status& status) {
  std::string text;
  GetErrorInfo(status).cause.AppendTo(text);
  return text;
}

// Every part, to compare two of them.
[[nodiscard]] inline std::string InfoText(const ErrorInfo& info) {
  std::string text =
      absl::StrCat(info.object, " [", info.offset, ", +", info.length, ") ", std::string(Name(info.fault)), "/",
                   std::string(Name(info.scope)), " HTTP ", info.http_status, " errno ", info.error_number, ": ");
  info.cause.AppendTo(text);
  return absl::StrCat(text, "; ", info.action);
}

}  // namespace devmem
