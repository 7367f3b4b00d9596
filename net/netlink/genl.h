// SPDX-License-Identifier: Apache-2.0
// A generic-netlink family: its number, found by name, and a socket to speak to it.
//
//   DEVMEM_ASSIGN_OR_RETURN(GenlFamily netdev, GenlFamily::Open("netdev", "Linux 6.12 or newer"));
//   NetlinkRequest request = netdev.Request(NETDEV_CMD_QUEUE_GET, NLM_F_DUMP);
//   DEVMEM_ASSIGN_OR_RETURN(auto answers, netdev.Exchange(request, {.object = "dms0", .what = "cannot list queues"}));
//   for (const NetlinkAnswer& answer : answers) GenlAttributes(answer).U32(NETDEV_A_QUEUE_ID);
//
// Threads as for NetlinkSocket.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "net/netlink/netlink_socket.h"

namespace devmem {

class GenlFamily {
 public:
  // kUnimplemented if this kernel has no such family; `needs` is what it takes to have one.
  [[nodiscard]] static absl::StatusOr<GenlFamily> Open(const std::string& name, const std::string& needs);

  [[nodiscard]] NetlinkRequest Request(uint8_t command, uint16_t flags = 0) const;
  [[nodiscard]] absl::StatusOr<std::vector<NetlinkAnswer>> Exchange(NetlinkRequest& request, const NetlinkSubject& subject) {
    return socket_.Exchange(request, subject);
  }
  [[nodiscard]] UniqueFd ReleaseSocket() && { return std::move(socket_).Release(); }
  [[nodiscard]] uint16_t id() const { return id_; }

 private:
  GenlFamily(NetlinkSocket socket, uint16_t id) : socket_(std::move(socket)), id_(id) {}
  NetlinkSocket socket_;
  uint16_t id_;
};

[[nodiscard]] NetlinkAttributes GenlAttributes(const NetlinkAnswer& answer);

}  // namespace devmem
