// SPDX-License-Identifier: Apache-2.0
// What systemd gives a service it starts and is told by it: sockets (sd_listen_fds(3)), that it is ready (sd_notify(3)), that
// it lives (sd_watchdog_enabled(3)). Started by anything else, every call here does nothing.
//
//   const std::vector<int> sockets = InheritedSockets();             // before any thread, and before any child
//   ...
//   NotifyReady("path copy");
//   Watchdog watchdog([](Time deadline) { return Answers(deadline); });
//
// Threads: InheritedSockets belongs to main(); the rest is thread-safe. Nothing here blocks: a message that systemd does not
// take is lost, and its own timeouts then say so.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"

namespace devmem::cli {

// Descriptors of sockets that systemd listens on for us, the caller's from here on; CLOEXEC. Empty: none. No child sees them.
[[nodiscard]] std::vector<int> InheritedSockets();

// Serving, from the start or again after NotifyReloading(). `status` is one line for `systemctl status`.
void NotifyReady(std::string_view status);
// Something is being changed that NotifyReady() ends.
void NotifyReloading(std::string_view status);
// Ends by itself from here on.
void NotifyStopping(std::string_view status);
// The service is this process now: we are about to end. It must have been started by us.
void NotifySuccessor(pid_t pid);

// Tells systemd that we live, but only when that was seen: four times an interval of WatchdogSec=, `alive` is asked; its error
// is logged, and nothing is told. systemd ends a service (SIGABRT) of which it heard nothing for a whole interval.
class Watchdog {
 public:
  // `alive` runs on the watchdog's thread, and must return by the deadline it is given. OK: the daemon answers.
  using Alive = std::function<absl::Status(Time deadline)>;

  explicit Watchdog(Alive alive);
  ~Watchdog();  // waits for an `alive` under way
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void Run(Duration interval);

  const Alive alive_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;  // not running where nobody watches
};

}  // namespace devmem::cli
