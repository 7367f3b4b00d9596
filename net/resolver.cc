// SPDX-License-Identifier: Apache-2.0
#include "net/resolver.h"

#include <netdb.h>

#include <cstring>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

// Long enough to spare a look-up a connection, short enough to follow a service that moves.
constexpr Duration kRemember = std::chrono::seconds(30);

Resolver::Result LookUp(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, [](addrinfo* all) {
    if (all != nullptr) freeaddrinfo(all);
  });
  if (error != 0) {
    const bool absent = error == EAI_NONAME || error == EAI_NODATA;
    return MakeError(absent ? absl::StatusCode::kNotFound : absl::StatusCode::kUnavailable,
                     absl::StrCat("no address for host '", host, "': ", gai_strerror(error)),
                     {.fault = Fault::kNoSuchHost,
                      .cause = absent ? "no such host" : "name resolution failed",
                      .action = "check the host in the URI and the machine's resolver"});
  }
  std::vector<SocketAddress> addresses;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    SocketAddress& address = addresses.emplace_back();
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.length = entry->ai_addrlen;
  }
  return addresses;
}

}  // namespace

Resolver::Resolver() : state_(std::make_shared<State>()) {
  std::thread([state = state_] { Run(*state); }).detach();
}

Resolver::~Resolver() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->queue.clear();
  state_->wake.notify_all();
  state_->wake.wait(lock, [this] { return !state_->telling; });
}

void Resolver::Resolve(const std::string& host, uint16_t port, std::function<void(Result)> done) {
  std::vector<SocketAddress> remembered;
  {
    std::lock_guard lock(state_->mutex);
    const auto entry = state_->cache.find({host, port});
    if (entry == state_->cache.end() || entry->second.first < Clock::now()) {
      state_->queue.push_back({host, port, std::move(done)});
      state_->wake.notify_all();
      return;
    }
    remembered = entry->second.second;
  }
  done(std::move(remembered));
}

void Resolver::Run(State& state) {
  std::unique_lock lock(state.mutex);
  while (true) {
    state.wake.wait(lock, [&state] { return state.stopping || !state.queue.empty(); });
    if (state.stopping) return;
    const Request request = std::move(state.queue.front());
    state.queue.pop_front();
    lock.unlock();
    Result result = LookUp(request.host, request.port);
    lock.lock();
    if (state.stopping) return;  // who asked may be gone
    if (result.ok()) state.cache[{request.host, request.port}] = {Clock::now() + kRemember, *result};
    state.telling = true;
    lock.unlock();
    request.done(std::move(result));
    lock.lock();
    state.telling = false;
    state.wake.notify_all();
  }
}

}  // namespace devmem
