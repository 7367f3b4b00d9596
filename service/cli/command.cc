// SPDX-License-Identifier: Apache-2.0
#include "service/cli/command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "service/cli/print.h"
#include "service/memory_limit.h"

namespace devmem::cli {

int UsageError(const std::string& program, const absl::Status& status) {
  PrintError(absl::StrCat(program, ": ", status.message(), "\n"));
  return UsageExitCode(status);
}

void WarnOfVariables(const std::string& program) {
  for (const std::string& warning : UnknownVariables(::environ))
    PrintError(absl::StrCat(program, ": warning: ", warning, "\n"));
}

std::optional<int> Begin(const std::string& program, const FlagTable& table, const CommonOptions& common,
                         const std::vector<std::string>& arguments, std::vector<FlagValue>* values) {
  auto print = [&](const std::string& text) -> int {
    const absl::Status status = PrintOut(text);
    if (!status.ok()) PrintError(absl::StrCat(program, ": ", status.message(), "\n"));
    return status.ok() ? kExitOk : kExitFailed;
  };
  // Help is for those whose command line is wrong, too.
  for (const char* const help : {"--help", "-h"}) {
    if (std::find(arguments.begin(), arguments.end(), help) != arguments.end()) return print(table.Help());
  }
  auto parsed = table.Parse(arguments, [](const char* name) -> const char* { return std::getenv(name); });
  if (!parsed.ok()) return UsageError(program, parsed.status());
  *values = *std::move(parsed);
  if (common.help) return print(table.Help());  // --help=1
  if (common.version) return print(absl::StrCat(program, " ", DEVMEM_VERSION, "\n"));
  if (common.print_config) {
    WarnOfVariables(program);
    for (FlagValue& value : *values) {
      if (value.name != "--memory-limit" || value.value != "0") continue;
      const MemoryLimit limit = DefaultMemoryLimit({});
      value.comes_to = absl::StrCat(limit.bytes, " bytes, ", limit.source);
    }
    return print(PrintConfig(*values, common.json));
  }
  return std::nullopt;
}

}  // namespace devmem::cli
