// SPDX-License-Identifier: Apache-2.0
// What all commands do before their own work: parse, --help, --version, --print-config, errors of usage.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "service/cli/options.h"

namespace devmem::cli {

// nullopt: go on, the options are set. Otherwise everything has been said and this is the exit code.
[[nodiscard]] std::optional<int> Begin(const std::string& program, const FlagTable& table, const CommonOptions& common,
                                       const std::vector<std::string>& arguments, std::vector<FlagValue>* values);

// Prints the error of a command line and returns its exit code.
[[nodiscard]] int UsageError(const std::string& program, const absl::Status& status);

}  // namespace devmem::cli
