// SPDX-License-Identifier: Apache-2.0
// Reload: the settings once more, with the file as it is now, and what came of it.
//
//   DEVMEM_ASSIGN_OR_RETURN(const Changes changes, Reload(arguments, ::getenv, &options, &values));
//   for (const std::string& line : changes.applied) spdlog::info("{}", line);   // "memory_limit: 1GiB -> 2GiB"
//
// One thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "service/cli/options.h"

namespace devmem::cli {

struct Changes {
  std::vector<std::string> applied;  // KEY: OLD -> NEW
  std::vector<std::string> restart;  // the same, of what a running daemon cannot change
};

// Parses all anew. What differs from `running`, and may change while it runs (the schema says so), is taken into `running` and
// `values`; the rest stays as it is there. On error, as of FlagTable::Parse, everything does.
[[nodiscard]] absl::StatusOr<Changes> Reload(const std::vector<std::string>& arguments,
                                             const FlagTable::GetEnvironment& environment, DaemonCommandOptions* running,
                                             std::vector<FlagValue>* values);

}  // namespace devmem::cli
