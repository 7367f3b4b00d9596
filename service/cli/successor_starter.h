// SPDX-License-Identifier: Apache-2.0
// SIGUSR2, and how the successor that it starts fares: one at a time, with a deadline, and the service manager told of each
// step.
//
//   SuccessorStarter successors({"/usr/bin/devmem-loaderd", "--socket", "/run/x.sock"});
//   successors.Serving("serving; path copy (...)");   // from here on there is something to take over
//   successors.OnSignal(SIGUSR2);                     // and SIGCHLD, SIGALRM
//
// Uses the process's alarm(), while a successor is under way only. Thread-safe.
#pragma once

#include <sys/types.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace devmem::cli {

class SuccessorStarter {
 public:
  // `command`: as for StartSuccessor().
  explicit SuccessorStarter(std::vector<std::string> command) : command_(std::move(command)) {}

  // The daemon serves; `status` is for the service manager, while there is no successor under way.
  void Serving(std::string status);

  void OnSignal(int signal);

  // This daemon ends: no successor from here on.
  void Ending();

  // Someone has taken over: if it is ours, the service's main process is that one.
  void Succeeded();

 private:
  void Start();
  void MaybeEnded();

  std::mutex mutex_;
  const std::vector<std::string> command_;
  std::optional<std::string> status_;  // since it serves
  std::optional<pid_t> pid_;
};

}  // namespace devmem::cli
