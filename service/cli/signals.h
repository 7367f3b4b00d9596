// SPDX-License-Identifier: Apache-2.0
// SignalWatcher: signals as calls on a thread of its own, where anything may be done; handlers do no work because there
// are none.
//
//   EndRequests requests;
//   SignalWatcher signals({SIGINT, SIGTERM}, [&](int signal, Time at) {
//     if (requests.Again(at)) ::_exit(130);
//     ...
//   });
//
// Must be made before the process starts any other thread: the signals are blocked here and the mask is inherited. The
// destructor stops the watching and leaves the signals blocked. SIGPIPE is ignored from here on: writes fail with EPIPE.
#pragma once

#include <functional>
#include <initializer_list>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace devmem::cli {

class SignalWatcher {
 public:
  // `at` is when the watcher woke up for it: the same for all that were pending then.
  using Callback = std::function<void(int signal, Time at)>;

  SignalWatcher(std::initializer_list<int> signals, Callback callback);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Watch();

  Callback callback_;
  UniqueFd signals_;
  UniqueFd stop_;
  std::thread thread_;
};

// Tells a second request to end, of who has lost patience, from the first one's echo: timeout(1), a shell that kills a job and
// a service manager signal the process and then its group, within microseconds. One thread.
class EndRequests {
 public:
  static constexpr Duration kOneRequest = std::chrono::milliseconds(500);

  // A signal came. Whether it is one too many: later than kOneRequest after the first.
  [[nodiscard]] bool Again(Time at) {
    if (!first_.has_value()) first_ = at;
    return at - *first_ > kOneRequest;
  }

 private:
  std::optional<Time> first_;
};

}  // namespace devmem::cli
