// SPDX-License-Identifier: Apache-2.0
// The kernel's routing answer for one peer, and the interfaces below an interface.
// Threads: functions open their own socket; the calling thread's network namespace counts.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace devmem {

struct Route {
  uint32_t ifindex = 0;
  std::string interface;      // as the route names it: may be a bond or a VLAN
  sockaddr_storage source{};  // preferred local address, port 0
  bool local = false;         // to this very host
};

// rtnetlink RTM_GETROUTE. kUnavailable if there is none.
[[nodiscard]] absl::StatusOr<Route> RouteTo(const sockaddr* peer, socklen_t length);

// Physical devices under `interface`, itself if it is one: bond members, a VLAN's parent, and so on down. Sorted by name.
// kNotFound if there is no such interface; kFailedPrecondition if it has nothing physical under it (lo, a bridge, veth).
[[nodiscard]] absl::StatusOr<std::vector<std::string>> PhysicalDevices(const std::string& interface);

}  // namespace devmem
