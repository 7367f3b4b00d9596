// SPDX-License-Identifier: Apache-2.0
// What an operator should read, whether to act on it, and that it is not said again for every connection.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace devmem {

enum class Severity : uint8_t { kInfo, kWarning };                          // a warning is to be acted on
using Say = std::function<void(Severity severity, std::string_view line)>;  // from any thread

// What kind of thing went wrong on what, without the particulars of the one time (a port, a number): equal for what need be
// said but once.
[[nodiscard]] std::string OnceKey(const absl::Status& status);

}  // namespace devmem
