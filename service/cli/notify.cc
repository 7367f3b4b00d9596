// SPDX-License-Identifier: Apache-2.0
#include "service/cli/notify.h"

#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem::cli {
namespace {

constexpr int kQuarters = 4;  // of an interval: one passes, one may be spent asking, and there is time for a second question

void Tell(const std::string& message) { (void)::sd_notify(/*unset_environment=*/0, message.c_str()); }

// A message's lines are its fields: a status is one line.
std::string Line(std::string_view status) {
  std::string line(status);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

}  // namespace

std::vector<int> InheritedSockets() {
  const int count = ::sd_listen_fds(/*unset_environment=*/1);
  std::vector<int> sockets(static_cast<size_t>(std::max(count, 0)));
  std::iota(sockets.begin(), sockets.end(), SD_LISTEN_FDS_START);
  return sockets;
}

void NotifyReady(std::string_view status) { Tell(absl::StrCat("READY=1\nSTATUS=", Line(status))); }

void NotifyReloading(std::string_view status) {
  const auto now = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch());
  Tell(absl::StrCat("RELOADING=1\nMONOTONIC_USEC=", now.count(), "\nSTATUS=", Line(status)));
}

void NotifyStopping(std::string_view status) { Tell(absl::StrCat("STOPPING=1\nSTATUS=", Line(status))); }

void NotifySuccessor(pid_t pid) { Tell(absl::StrCat("MAINPID=", pid)); }

Watchdog::Watchdog(Alive alive) : alive_(std::move(alive)) {
  uint64_t microseconds = 0;
  if (::sd_watchdog_enabled(/*unset_environment=*/0, &microseconds) <= 0) return;
  thread_ = std::thread([this, microseconds] { Run(std::chrono::microseconds(microseconds)); });
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::Run(Duration interval) {
  const Duration quarter = interval / kQuarters;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    const absl::Status status = alive_(Clock::now() + quarter);
    if (status.ok()) {
      Tell("WATCHDOG=1");
    } else {
      spdlog::warn("systemd's watchdog is told nothing: {}", Text(status));
    }
    lock.lock();
    changed_.wait_for(lock, quarter, [this] { return stop_; });
  }
}

}  // namespace devmem::cli
