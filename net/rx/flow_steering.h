// SPDX-License-Identifier: Apache-2.0
// FlowSteering: gets each connection's payload to the queue of the worker that reads it.
//
//   kConnection  a five-tuple rule per connection, kept as long as it; the local port is chosen by bind() first
//   kAddress     one local address per bound queue and one rule each, made once; a connection binds to its queue's address
//
// Threads: thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "net/rx/rx_binding.h"

namespace devmem {

enum class SteerMode : uint8_t { kConnection, kAddress };

struct SteeringOptions {
  SteerMode mode = SteerMode::kConnection;
  std::vector<std::string> addresses;  // kAddress: local addresses, one for each bound queue in the bindings' order
};

class FlowSteering {
 public:
  // Where a steered connection's payload arrives. Destroying it takes its rules out: do so after the socket was closed.
  class Lease {
   public:
    virtual ~Lease() = default;
    [[nodiscard]] virtual const std::string& interface() const = 0;  // for SO_BINDTODEVICE: the route's, maybe a bond
    [[nodiscard]] virtual size_t queue() const = 0;  // index as in Create()'s bindings, their queues() one after another
    // After connect(): `napi_id` as SO_INCOMING_NAPI_ID tells it. kUnavailable, with what was seen, if that is not the queue.
    [[nodiscard]] virtual absl::Status Check(uint32_t napi_id) const = 0;
  };

  // Whether a binding is bound at this moment, and why not; from any thread.
  using Ready = std::function<absl::Status(size_t binding)>;

  // `bindings` must outlive it. Checks, and changes nothing yet.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<FlowSteering>> Create(
      std::vector<RxBinding*> bindings, const SteeringOptions& options, Ready ready = [](size_t) { return absl::OkStatus(); });
  virtual ~FlowSteering() = default;

  // Whether `options` make sense for so many bound queues: what Create() looks at first.
  [[nodiscard]] static absl::Status Fits(const SteeringOptions& options, size_t queues);

  // Before the first Steer(): in kAddress mode inserts the rules.
  [[nodiscard]] virtual absl::Status Begin() = 0;

  // Binds `socket`, not yet connected, to a local address and port and to the route's interface, and steers what `peer` will
  // send it to the queue (index over all bindings' queues; a route by another NIC takes that NIC's queue of the same rank).
  // kResourceExhausted when no rule is left, kFailedPrecondition when the route leaves by none of the bound NICs, the reason of
  // Ready when by none that is bound at this moment: the socket is then still good for an ordinary connection.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Lease>> Steer(int socket, const sockaddr* peer, socklen_t length,
                                                                     size_t queue) = 0;
};

}  // namespace devmem
