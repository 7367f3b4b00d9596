// SPDX-License-Identifier: Apache-2.0
#include "service/cli/successor_starter.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "service/cli/notify.h"
#include "service/cli/successor.h"

namespace devmem::cli {
namespace {

// One that has not taken over by then never will; with many NICs one takes seconds.
constexpr unsigned kSuccessorSeconds = 120;

}  // namespace

void SuccessorStarter::Serving(std::string status) {
  std::lock_guard lock(mutex_);
  status_ = std::move(status);
  NotifyReady(*status_);
}

void SuccessorStarter::OnSignal(int signal) {
  std::lock_guard lock(mutex_);
  if (signal == SIGUSR2) return Start();
  if (!pid_.has_value()) return;
  if (signal == SIGCHLD) return MaybeEnded();
  if (signal == SIGALRM) {
    spdlog::error("the successor (pid {}) has not taken over in {} s and is ended", *pid_, kSuccessorSeconds);
    (void)::kill(*pid_, SIGKILL);  // SIGCHLD does the rest
  }
}

void SuccessorStarter::Start() {
  if (pid_.has_value()) return spdlog::warn("SIGUSR2: a successor (pid {}) is under way already", *pid_);
  if (!status_.has_value()) return spdlog::warn("SIGUSR2: this daemon does not serve, there is nothing to take over");
  const absl::StatusOr<pid_t> started = StartSuccessor(command_);
  if (!started.ok()) return spdlog::error("no successor, this daemon serves on: {}", Text(started.status()));
  pid_ = *started;
  (void)::alarm(kSuccessorSeconds);
  spdlog::info("SIGUSR2: started a successor (pid {})", *pid_);
  NotifyReloading("a successor takes over");
}

void SuccessorStarter::MaybeEnded() {
  const std::optional<std::string> ended = EndedSuccessor(*pid_);
  if (!ended.has_value()) return;
  (void)::alarm(0);
  pid_.reset();
  spdlog::error("the successor ended ({}) without having taken over; this daemon serves on", *ended);
  if (status_.has_value()) NotifyReady(*status_);
}

void SuccessorStarter::Ending() {
  std::lock_guard lock(mutex_);
  status_.reset();
  if (pid_.has_value()) (void)::alarm(0);
  NotifyStopping("draining");
}

void SuccessorStarter::Succeeded() {
  std::lock_guard lock(mutex_);
  if (pid_.has_value()) {
    (void)::alarm(0);
    NotifySuccessor(*pid_);
  }
  status_.reset();
  pid_.reset();
}

}  // namespace devmem::cli
