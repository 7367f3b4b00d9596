// SPDX-License-Identifier: Apache-2.0
// Resolver: getaddrinfo off the loop, remembered for a short while. One a transport; thread-safe.
#pragma once

#include <sys/socket.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
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
  ~Resolver();  // pending look-ups are dropped; waits for the one in the C library

  // Calls `done` once: from here if remembered, else from the resolver's thread. kNotFound for a name that does
  // not exist, kUnavailable when the name server did not answer.
  void Resolve(const std::string& host, uint16_t port, std::function<void(Result)> done);

 private:
  struct Request {
    std::string host;
    uint16_t port;
    std::function<void(Result)> done;
  };
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Request> queue_;                                                                      // guarded by mutex_
  std::map<std::pair<std::string, uint16_t>, std::pair<Time, std::vector<SocketAddress>>> cache_;  // guarded by mutex_
  bool stopping_ = false;                                                                          // guarded by mutex_
  std::thread thread_;
};

}  // namespace devmem
