// SPDX-License-Identifier: Apache-2.0
// devmem-loader: the command line.
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/cli/bindings_verb.h"
#include "service/cli/command.h"
#include "service/cli/doctor_verb.h"
#include "service/cli/index_verb.h"
#include "service/cli/load.h"
#include "service/cli/print.h"
#include "service/cli/status_verb.h"
#include "service/cli/suggest.h"

namespace devmem::cli {
namespace {

constexpr char kProgram[] = "devmem-loader";

int Stream(const std::vector<std::string>& arguments) {
  LoaderOptions options;
  std::vector<FlagValue> values;
  const FlagTable table = LoaderTable(&options);
  if (auto code = Begin(kProgram, table, options.common, arguments, &values)) return *code;
  if (options.spec.bucket().empty()) {
    PrintError(absl::StrCat(kProgram, ": --bucket is missing\n", table.Help()));
    return kExitUsage;
  }
  if (absl::Status status = CheckService(options, values); !status.ok()) return UsageError(kProgram, status);
  if (absl::Status status = CheckDigest(options, STDOUT_FILENO); !status.ok()) return UsageError(kProgram, status);
  auto spec = MakeSpec(options);
  // An unreadable @FILE may fail with any code, and all of them are the command line's.
  if (!spec.ok()) return UsageError(kProgram, absl::InvalidArgumentError(spec.status().message()));
  return Load(options, *spec);
}

int Status(const std::string& verb, const std::vector<std::string>& arguments) {
  StatusOptions options;
  std::vector<FlagValue> values;
  if (auto code = Begin(kProgram, StatusTable(verb, &options), options.common, arguments, &values)) return *code;
  WarnOfVariables(kProgram);
  return verb == "streams" ? ShowStreams(options) : ShowStatus(options);
}

int Index(const std::vector<std::string>& arguments) {
  IndexOptions options;
  std::vector<FlagValue> values;
  if (auto code = Begin(kProgram, IndexTable(&options), options.common, arguments, &values)) return *code;
  if (options.uri.empty()) {
    return UsageError(kProgram,
                      absl::InvalidArgumentError("index: the bucket's URI is missing, such as file:///data/train; see --help"));
  }
  return WriteIndexOf(options);
}

int Bindings(const std::vector<std::string>& arguments) {
  BindingsOptions options;
  std::vector<FlagValue> values;
  if (auto code = Begin(kProgram, BindingsTable(&options), options.common, arguments, &values)) return *code;
  WarnOfVariables(kProgram);
  return ShowBindings(options);
}

int Doctor(const std::vector<std::string>& arguments) {
  DoctorCommandOptions options;
  std::vector<FlagValue> values;
  if (auto code = Begin(kProgram, DoctorTable(&options), options.common, arguments, &values)) return *code;
  if (absl::Status status = CheckDoctor(options); !status.ok()) return UsageError(kProgram, status);
  WarnOfVariables(kProgram);
  return ShowDoctor(options);
}

int Main(std::vector<std::string> arguments) {
  std::signal(SIGPIPE, SIG_IGN);
  const std::string verb = arguments.empty() || arguments[0].empty() || arguments[0][0] == '-' ? "" : arguments[0];
  if (verb.empty()) return Stream(arguments);
  arguments.erase(arguments.begin());
  if (verb == "streams" || verb == "status") return Status(verb, arguments);
  if (verb == "index") return Index(arguments);
  if (verb == "bindings") return Bindings(arguments);
  if (verb == "doctor") return Doctor(arguments);
  if (verb == "help") return Stream({"--help"});
  const std::string near = Suggest(verb, {"streams", "status", "index", "bindings", "doctor", "help"});
  return UsageError(kProgram,
                    absl::InvalidArgumentError(absl::StrCat(
                        "unknown verb '", verb, "'; ",
                        near.empty() ? "there are streams, status, index, bindings and doctor; to read, give --bucket URI"
                                     : absl::StrCat("did you mean ", near, "?"))));
}

}  // namespace
}  // namespace devmem::cli

int main(int argc, char** argv) { return devmem::cli::Main(std::vector<std::string>(argv + 1, argv + argc)); }
