// SPDX-License-Identifier: Apache-2.0
#include "service/cli/successor.h"

#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, for sigset_t
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem::cli {
namespace {

constexpr char kTakeOver[] = "--take-over";
constexpr std::string_view kWatchdogPid = "WATCHDOG_PID=";  // names us; without it the watchdog is whoever's it is told by

}  // namespace

absl::StatusOr<pid_t> StartSuccessor(std::vector<std::string> command) {
  if (std::find(command.begin(), command.end(), kTakeOver) == command.end()) command.emplace_back(kTakeOver);
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::vector<char*> environment;
  for (char** each = environ; *each != nullptr; ++each) {
    if (std::string_view(*each).substr(0, kWatchdogPid.size()) != kWatchdogPid) environment.push_back(*each);
  }
  environment.push_back(nullptr);

  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, arguments[0], nullptr, &attributes, arguments.data(), environment.data());
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return ErrnoError(error, "starting a successor",
                      {.object = command[0], .cause = "no program", .action = "start this daemon by its whole path"});
  }
  return pid;
}

std::optional<std::string> EndedSuccessor(pid_t pid) {
  int status = 0;
  pid_t ended = 0;
  while ((ended = ::waitpid(pid, &status, WNOHANG)) < 0 && errno == EINTR) {
  }
  if (ended == 0) return std::nullopt;
  if (ended > 0 && WIFSIGNALED(status)) return ::strsignal(WTERMSIG(status));
  return absl::StrCat("exit status ", ended > 0 ? WEXITSTATUS(status) : -1);
}

}  // namespace devmem::cli
