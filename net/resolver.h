// SPDX-License-Identifier: Apache-2.0
// Resolver: getaddrinfo off the loop, remembered for a short while. One a transport; thread-safe.
#pragma once

#include <sys/socket.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace devmem {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

class Resolver {
 public:
  using Result = absl::StatusOr<std::vector<SocketAddress>>;
  Resolver();
  // Pending look-ups are dropped. The one in the C library, which has no deadline, is left to its thread and not waited for.
  ~Resolver();

  // Calls `done` once: from here if remembered, else from the resolver's thread. kNotFound for a name that does
  // not exist, kUnavailable when the name server did not answer.
  void Resolve(const std::string& host, uint16_t port, std::function<void(Result)> done);

 private:
  struct Request {
    std::string host;
    uint16_t port;
    std::function<void(Result)> done;
  };
  // Of the resolver and its thread, whichever lives longer. Guarded by its mutex.
  struct State {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Request> queue;
    std::map<std::pair<std::string, uint16_t>, std::pair<Time, std::vector<SocketAddress>>> cache;
    bool stopping = false;
    bool telling = false;  // the thread is in a caller's `done`
  };
  static void Run(State& state);

  const std::shared_ptr<State> state_;
};

}  // namespace devmem
