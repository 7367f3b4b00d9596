// SPDX-License-Identifier: Apache-2.0
// What all commands do before their own work: parse, --help, --version, --print-config, errors of usage.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "service/cli/options.h"

namespace devmem::cli {

// nullopt: go on, the options are set. Otherwise everything has been said and this is the exit code. What UnknownVariables()
// finds is for the caller to say.
[[nodiscard]] std::optional<int> Begin(const std::string& program, const FlagTable& table, const CommonOptions& common,
                                       const std::vector<std::string>& arguments, std::vector<FlagValue>* values);

// Prints what UnknownVariables() finds, one line each, to stderr.
void WarnOfVariables(const std::string& program);

// Prints the error of a command line and returns its exit code.
[[nodiscard]] int UsageError(const std::string& program, const absl::Status& status);

}  // namespace devmem::cli
