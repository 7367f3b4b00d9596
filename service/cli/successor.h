// SPDX-License-Identifier: Apache-2.0
// Starting a successor of this process: the program that lies at its path by now, maybe a newer version, told to take over from
// us.
//
//   auto pid = StartSuccessor({"/usr/bin/devmem-loaderd", "--socket", "/run/x.sock"});   // with --take-over
//   ... it takes over and we end; or it fails, and EndedSuccessor(*pid) says how ...
//
// It is a child of ours, in our control group: a service manager takes it for the same service (MAINPID). Threads: any.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace devmem::cli {

// `command`: program and arguments as we were started. A program without a '/' is looked for in $PATH. Environment and log are
// ours; signals are as a new process has them, and a watchdog that watches this process watches that one too.
[[nodiscard]] absl::StatusOr<pid_t> StartSuccessor(std::vector<std::string> command);

// How it ended ("exit status 1", "Killed"), once it has; nullopt while it runs.
[[nodiscard]] std::optional<std::string> EndedSuccessor(pid_t pid);

}  // namespace devmem::cli
