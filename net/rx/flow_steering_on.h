// SPDX-License-Identifier: Apache-2.0
// FlowSteering::Create() with the kernel's routing given: what tests call.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "net/netlink/route.h"
#include "net/rx/flow_steering.h"

namespace devmem {

// The interface that holds the local address, in the calling thread's network namespace; empty: none.
[[nodiscard]] std::string InterfaceOf(const sockaddr_storage& address);

struct Routing {
  std::function<absl::StatusOr<Route>(const sockaddr* peer, socklen_t length)> route_to = RouteTo;
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string& interface)> physical_devices = PhysicalDevices;
  std::function<std::string(const sockaddr_storage& address)> interface_of = InterfaceOf;
};

[[nodiscard]] absl::StatusOr<std::unique_ptr<FlowSteering>> CreateFlowSteering(std::vector<RxBinding*> bindings,
                                                                               const SteeringOptions& options, Routing routing,
                                                                               FlowSteering::Ready ready);

}  // namespace devmem
