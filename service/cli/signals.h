// SPDX-License-Identifier: Apache-2.0
// SignalWatcher: signals as calls on a thread of its own, where anything may be done; handlers do no work because there
// are none.
//
//   SignalWatcher signals({SIGINT, SIGTERM}, [&](int signal, int count) { ... });
//
// Must be made before the process starts any other thread: the signals are blocked here and the mask is inherited. The
// destructor stops the watching and leaves the signals blocked. SIGPIPE is ignored from here on: writes fail with EPIPE.
#pragma once

#include <functional>
#include <initializer_list>
#include <thread>

#include "base/unique_fd.h"

namespace devmem::cli {

class SignalWatcher {
 public:
  // `count` is 1 for the first of these signals, 2 for the second, ...
  using Callback = std::function<void(int signal, int count)>;

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

}  // namespace devmem::cli
