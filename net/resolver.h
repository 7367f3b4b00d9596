// SPDX-License-Identifier: Apache-2.0
// Resolver: names to addresses off the loop. One a transport, for all its workers; thread-safe.
//
// getaddrinfo has no deadline and cannot be cancelled. So every look-up has a thread of its own, kParallel at a time, and one
// that takes longer than kSlow does not count among these any more: a name server that is silent about one name holds up no
// other. Who asks keeps the deadline. An address that is written in numbers is answered at once.
//
// It also remembers which addresses did not answer, so that one dead address delays each connection at most once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "net/socket_address.h"

namespace devmem {

class Resolver {
 public:
  static constexpr size_t kParallel = 4;
  static constexpr Duration kSlow = std::chrono::milliseconds(250);
  static constexpr size_t kMostThreads = 64;  // slow look-ups included: glibc ends each in half a minute or so
  static constexpr size_t kMostNames = 1024;  // waiting or being looked up; more are refused
  static constexpr Duration kRemember = std::chrono::seconds(30);
  // An address that did not answer, if there is another; doubled each time that it still does not.
  static constexpr Duration kAvoid = std::chrono::seconds(30);
  static constexpr Duration kAvoidMost = std::chrono::minutes(10);

  struct Answer {
    std::vector<SocketAddress> addresses;  // in the name server's order, each once
    Time at{};                             // when they were looked up
  };
  using Result = absl::StatusOr<Answer>;
  using Done = std::function<void(Result)>;
  // The addresses of a host, each with port 0; getaddrinfo, but for tests.
  using LookUp = std::function<absl::StatusOr<std::vector<SocketAddress>>(const std::string& host)>;

  Resolver();
  explicit Resolver(LookUp look_up, Duration slow = kSlow);
  // Pending look-ups are dropped; those in the C library are left to their threads and not waited for.
  ~Resolver();

  // Calls `done` once: from here where the host is an address, or its addresses were looked up after `no_older_than` and within
  // kRemember; else from a thread of the resolver's. kNotFound for a name that does not exist, kUnavailable when the name
  // server did not answer or too many names wait.
  void Resolve(const std::string& host, uint16_t port, Time no_older_than, Done done);

  // Grows whenever a look-up brought other addresses than the one before it. Costs no lock.
  [[nodiscard]] uint64_t changes() const { return state_->changes.load(std::memory_order_relaxed); }

  // A number that is given to nobody else: workers begin at different ones of a host's addresses.
  [[nodiscard]] size_t NextTurn() { return turn_.fetch_add(1, std::memory_order_relaxed); }

  // An address did not answer, or did after all.
  void DidNotAnswer(const SocketAddress& address);
  void Answered(const SocketAddress& address);
  // Which of `addresses` to connect to: `turn` says where to begin. One that did not answer lately is taken only if there is no
  // other, and so is `last`, where this connection's request failed before. Once kAvoid is over one caller tries it for all.
  [[nodiscard]] size_t Choose(std::span<const SocketAddress> addresses, size_t turn, const SocketAddress* last);

 private:
  struct Waiter {
    uint16_t port;
    Done done;
  };
  struct LookingUp {
    std::vector<Waiter> waiters;
    bool running = false;
    bool slow = false;
    Time began{};
  };
  struct Dead {
    SocketAddress address;
    Duration avoid;  // for how long
    Time until{};
    bool tried = false;  // since that time was over, or about to be
  };
  // Of the resolver and the threads that look up, whichever lives longer.
  struct State {
    LookUp look_up;
    Duration slow;
    std::atomic<uint64_t> changes{0};
    std::mutex mutex;  // guards what follows
    std::condition_variable wake;
    std::map<std::string, LookingUp> names;
    std::vector<std::string> queue;  // of names, in order
    std::map<std::string, Answer> cache;
    std::vector<Dead> dead;
    size_t threads = 0;
    size_t slow_threads = 0;
    bool stopping = false;
    size_t telling = 0;  // threads in a caller's `done`
  };
  static void Dispatch(State& state, const std::shared_ptr<State>& shared);
  static void Run(const std::shared_ptr<State>& state, const std::string& host);
  static void Tell(State& state, std::unique_lock<std::mutex>& lock, std::vector<Waiter> waiters,
                   const absl::StatusOr<Answer>& result);

  const std::shared_ptr<State> state_;
  std::atomic<size_t> turn_{0};
  std::thread dispatcher_;  // begins look-ups; never in the C library's resolver itself
};

}  // namespace devmem
