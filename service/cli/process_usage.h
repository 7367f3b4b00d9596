// SPDX-License-Identifier: Apache-2.0
// What a process has used, from /proc: CPU time and the highest memory. Pure reads; thread-safe.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace devmem::cli {

struct ProcessUsage {
  double cpu_seconds = 0;    // user + system, all threads
  double peak_rss_mib = 0;   // VmHWM
  std::string command;       // the kernel's 15 characters of its name
  uint64_t start_ticks = 0;  // since boot: tells a process from another with its pid
};

// nullopt if there is no such process, or it is hidden from us.
[[nodiscard]] std::optional<ProcessUsage> ReadProcessUsage(pid_t pid);

// This process.
[[nodiscard]] ProcessUsage OwnUsage();

}  // namespace devmem::cli
