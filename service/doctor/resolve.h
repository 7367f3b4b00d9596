// SPDX-License-Identifier: Apache-2.0
// A host's address, waited for.
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/error.h"
#include "net/resolver.h"

namespace devmem::doctor {

// The first address; kDeadlineExceeded if none came until then.
[[nodiscard]] inline absl::StatusOr<SocketAddress> ResolveFirst(const std::string& host, uint16_t port, Time deadline) {
  auto answer = std::make_shared<std::promise<Resolver::Result>>();
  std::future<Resolver::Result> answered = answer->get_future();
  Resolver resolver;
  resolver.Resolve(host, port, Time{}, [answer](Resolver::Result result) { answer->set_value(std::move(result)); });
  if (answered.wait_until(deadline) != std::future_status::ready) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "the name server did not answer",
                     {.object = host, .cause = "no answer", .action = "see /etc/resolv.conf"});
  }
  DEVMEM_ASSIGN_OR_RETURN(const Resolver::Answer found, answered.get());
  return found.addresses.front();
}

}  // namespace devmem::doctor
