// SPDX-License-Identifier: Apache-2.0
#include "net/resolver.h"

#include <netdb.h>

#include <cstring>
#include <memory>

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
                     {.cause = absent ? "no such host" : "name resolution failed",
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

Resolver::Resolver() : thread_([this] { Run(); }) {}

Resolver::~Resolver() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Resolver::Resolve(const std::string& host, uint16_t port, std::function<void(Result)> done) {
  std::vector<SocketAddress> remembered;
  {
    std::lock_guard lock(mutex_);
    const auto entry = cache_.find({host, port});
    if (entry == cache_.end() || entry->second.first < Clock::now()) {
      queue_.push_back({host, port, std::move(done)});
      wake_.notify_one();
      return;
    }
    remembered = entry->second.second;
  }
  done(std::move(remembered));
}

void Resolver::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Request request = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    Result result = LookUp(request.host, request.port);
    lock.lock();
    if (result.ok()) cache_[{request.host, request.port}] = {Clock::now() + kRemember, *result};
    lock.unlock();
    request.done(std::move(result));
    lock.lock();
  }
}

}  // namespace devmem
