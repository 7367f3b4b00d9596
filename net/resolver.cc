// SPDX-License-Identifier: Apache-2.0
// A look-up's life:
//   1. Resolve: an address or a fresh answer is told at once. Otherwise the caller waits at the name, which is queued if nobody
//      waited there yet: a name is looked up once, however many ask.
//   2. The dispatcher gives the name a thread as soon as fewer than kParallel look-ups are under way that are not slow.
//   3. The thread asks the C library, remembers the answer and tells all who wait.
#include "net/resolver.h"

#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

constexpr size_t kMostRemembered = 1024;  // hosts; and addresses that did not answer
constexpr size_t kMostAddresses = 256;    // of one host
constexpr size_t kMostWaiters = 4096;     // at one name

absl::StatusOr<std::vector<SocketAddress>> AskTheSystem(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, [](addrinfo* all) {
    if (all != nullptr) freeaddrinfo(all);
  });
  if (error != 0) {
    const bool absent = error == EAI_NONAME || error == EAI_NODATA;
    return MakeError(absent ? absl::StatusCode::kNotFound : absl::StatusCode::kUnavailable,
                     absl::StrCat("no address for host '", host, "': ", gai_strerror(error)),
                     {.fault = absent ? Fault::kNoSuchHost : Fault::kNoNameServer,
                      .cause = absent ? "no such host" : "name resolution failed",
                      .action = "check the host in the URI and the machine's resolver"});
  }
  std::vector<SocketAddress> addresses;
  for (const addrinfo* entry = list; entry != nullptr && addresses.size() < kMostAddresses; entry = entry->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.length = entry->ai_addrlen;
    addresses.push_back(address);
  }
  return addresses;
}

void SetPort(SocketAddress& address, uint16_t port) {
  if (address.storage.ss_family == AF_INET) reinterpret_cast<sockaddr_in&>(address.storage).sin_port = htons(port);
  if (address.storage.ss_family == AF_INET6) reinterpret_cast<sockaddr_in6&>(address.storage).sin6_port = htons(port);
}

Resolver::Answer WithPort(Resolver::Answer answer, uint16_t port) {
  for (SocketAddress& address : answer.addresses) SetPort(address, port);
  return answer;
}

bool SameAddresses(const std::vector<SocketAddress>& a, const std::vector<SocketAddress>& b) {
  // Name servers rotate their answers: the order means nothing.
  return a.size() == b.size() && std::is_permutation(a.begin(), a.end(), b.begin());
}

absl::Status TooMany(const std::string& host) {
  return MakeError(absl::StatusCode::kUnavailable, absl::StrCat("no address for host '", host, "': too many names wait"),
                   {.fault = Fault::kNoNameServer,
                    .cause = "too many look-ups",
                    .action = "check the machine's resolver: the name server seems not to answer"});
}

}  // namespace

Resolver::Resolver() : Resolver(AskTheSystem) {}

Resolver::Resolver(LookUp look_up, Duration slow) : state_(std::make_shared<State>()) {
  state_->look_up = std::move(look_up);
  state_->slow = slow;
  dispatcher_ = std::thread([state = state_] { Dispatch(*state, state); });
}

Resolver::~Resolver() {
  {
    std::unique_lock lock(state_->mutex);
    state_->stopping = true;
    state_->names.clear();
    state_->queue.clear();
    state_->wake.notify_all();
    state_->wake.wait(lock, [this] { return state_->telling == 0; });
  }
  dispatcher_.join();
}

void Resolver::Resolve(const std::string& host, uint16_t port, Time no_older_than, Done done) {
  const Time now = Clock::now();
  if (const std::optional<SocketAddress> literal = ParseAddress(host, port)) {
    return done(Answer{.addresses = {*literal}, .at = now});
  }
  Answer remembered;
  {
    std::lock_guard lock(state_->mutex);
    const auto entry = state_->cache.find(host);
    if (entry == state_->cache.end() || entry->second.at + kRemember < now || entry->second.at < no_older_than) {
      const auto name = state_->names.find(host);
      const bool new_name = name == state_->names.end();
      if (new_name ? state_->names.size() < kMostNames : name->second.waiters.size() < kMostWaiters) {
        state_->names[host].waiters.push_back({port, std::move(done)});
        if (new_name) {
          state_->queue.push_back(host);
          state_->wake.notify_all();
        }
        return;
      }
    } else {
      remembered = entry->second;
    }
  }
  if (remembered.addresses.empty()) return done(TooMany(host));
  done(WithPort(std::move(remembered), port));
}

void Resolver::Dispatch(State& state, const std::shared_ptr<State>& shared) {
  std::unique_lock lock(state.mutex);
  while (!state.stopping) {
    // Which look-ups have become slow, and when the next one will.
    const Time now = Clock::now();
    Time next = Time::max();
    for (auto& [host, name] : state.names) {
      if (!name.running || name.slow) continue;
      if (name.began + state.slow <= now) {
        name.slow = true;
        ++state.slow_threads;
      } else {
        next = std::min(next, name.began + state.slow);
      }
    }
    while (!state.queue.empty() && state.threads - state.slow_threads < kParallel && state.threads < kMostThreads) {
      const std::string host = std::move(state.queue.front());
      state.queue.erase(state.queue.begin());
      LookingUp& name = state.names[host];
      name.running = true;
      name.began = now;
      next = std::min(next, name.began + state.slow);
      ++state.threads;
      try {
        std::thread([shared, host] { Run(shared, host); }).detach();
      } catch (const std::system_error&) {  // no thread is left
        --state.threads;
        std::vector<Waiter> waiters = std::move(name.waiters);
        state.names.erase(host);
        Tell(state, lock, std::move(waiters), TooMany(host));
        if (state.stopping) return;
      }
    }
    // A look-up that ends wakes this one too.
    if (next == Time::max()) {
      state.wake.wait(lock);
    } else {
      state.wake.wait_until(lock, next);
    }
  }
}

void Resolver::Run(const std::shared_ptr<State>& shared, const std::string& host) {
  State& state = *shared;
  absl::StatusOr<std::vector<SocketAddress>> found = state.look_up(host);
  std::unique_lock lock(state.mutex);
  --state.threads;
  if (state.stopping) return;  // who asked may be gone
  const auto name = state.names.find(host);
  if (name->second.slow) --state.slow_threads;
  std::vector<Waiter> waiters = std::move(name->second.waiters);
  state.names.erase(name);
  absl::StatusOr<Answer> result = Answer{};
  if (!found.ok()) {
    result = found.status();
  } else if (found->empty()) {
    result = MakeError(absl::StatusCode::kNotFound, absl::StrCat("host '", host, "' has no address"),
                       {.fault = Fault::kNoSuchHost, .cause = "no such host", .action = "check the host in the URI"});
  } else {
    std::vector<SocketAddress> addresses;
    for (const SocketAddress& address : *found) {
      if (std::find(addresses.begin(), addresses.end(), address) == addresses.end()) addresses.push_back(address);
    }
    result = Answer{.addresses = std::move(addresses), .at = Clock::now()};
    if (state.cache.size() >= kMostRemembered && !state.cache.contains(host)) {
      std::erase_if(state.cache, [&](const auto& entry) { return entry.second.at + kRemember < result->at; });
      if (state.cache.size() >= kMostRemembered) state.cache.erase(state.cache.begin());
    }
    Answer& entry = state.cache[host];
    if (entry.at != Time{} && !SameAddresses(entry.addresses, result->addresses)) ++state.changes;
    entry = *result;
  }
  state.wake.notify_all();  // a place is free
  Tell(state, lock, std::move(waiters), result);
}

// The lock is held before and after, not while a caller's `done` runs; ~Resolver waits for these.
void Resolver::Tell(State& state, std::unique_lock<std::mutex>& lock, std::vector<Waiter> waiters,
                    const absl::StatusOr<Answer>& result) {
  for (Waiter& waiter : waiters) {
    if (state.stopping) break;
    ++state.telling;
    lock.unlock();
    waiter.done(result.ok() ? Result(WithPort(*result, waiter.port)) : Result(result.status()));
    waiter.done = nullptr;
    lock.lock();
    --state.telling;
  }
  state.wake.notify_all();
}

void Resolver::DidNotAnswer(const SocketAddress& address) {
  const Time now = Clock::now();
  std::lock_guard lock(state_->mutex);
  std::erase_if(state_->dead, [&](const Dead& dead) { return dead.until + kAvoidMost < now; });
  const auto known =
      std::find_if(state_->dead.begin(), state_->dead.end(), [&](const Dead& dead) { return dead.address == address; });
  if (known == state_->dead.end()) {
    if (state_->dead.size() >= kMostRemembered) state_->dead.erase(state_->dead.begin());
    state_->dead.push_back({.address = address, .avoid = kAvoid, .until = now + kAvoid});
  } else if (std::exchange(known->tried, false)) {  // and not one of many connections that failed at the same time
    known->avoid = std::min(2 * known->avoid, kAvoidMost);
    known->until = now + known->avoid;
  }
}

void Resolver::Answered(const SocketAddress& address) {
  std::lock_guard lock(state_->mutex);
  std::erase_if(state_->dead, [&](const Dead& dead) { return dead.address == address; });
}

size_t Resolver::Choose(std::span<const SocketAddress> addresses, size_t turn, const SocketAddress* last) {
  const size_t count = addresses.size();
  if (count < 2) return 0;
  const Time now = Clock::now();
  std::lock_guard lock(state_->mutex);
  std::optional<size_t> second_best;  // the one that failed this request, but answers others
  std::optional<size_t> oldest;       // of those that did not answer, the next to be tried again
  Time oldest_until{};
  for (size_t i = 0; i < count; ++i) {
    const size_t index = (turn + i) % count;
    const SocketAddress& address = addresses[index];
    const auto dead =
        std::find_if(state_->dead.begin(), state_->dead.end(), [&](const Dead& entry) { return entry.address == address; });
    const bool is_last = last != nullptr && *last == address;
    if (dead == state_->dead.end()) {
      if (!is_last) return index;
      second_best = second_best.value_or(index);
    } else if (dead->until <= now && !is_last) {
      dead->tried = true;
      dead->until = now + dead->avoid;  // this caller tries it; the others wait for what comes of that
      return index;
    } else if (!oldest.has_value() || dead->until < oldest_until) {
      oldest = index;
      oldest_until = dead->until;
    }
  }
  return second_best.value_or(oldest.value_or(turn % count));
}

}  // namespace devmem
