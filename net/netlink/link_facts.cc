// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/link_facts.h"

#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <cstring>

#include "base/error.h"
#include "net/netlink/ethtool_ioctl.h"
#include "net/netlink/netlink_socket.h"

namespace devmem {
namespace {

// Of a fixed field that may be full to its end. Drivers without firmware write "N/A", or leave it out.
template <size_t N>
std::string FieldText(const char (&field)[N]) {
  std::string text(field, ::strnlen(field, N));
  return text == "N/A" ? "" : text;
}

}  // namespace

absl::StatusOr<LinkFacts> LookAtLink(const std::string& interface) {
  DEVMEM_ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_ROUTE));
  NetlinkRequest request(RTM_GETLINK, 0, sizeof(ifinfomsg));
  request.PutString(IFLA_IFNAME, interface);
  request.PutU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
  DEVMEM_ASSIGN_OR_RETURN(const auto answers, socket.Exchange(request, {interface, "cannot look at the interface"}));
  if (answers.empty()) {
    return MakeError(absl::StatusCode::kNotFound, "the kernel tells nothing of it", {.object = interface});
  }
  const NetlinkAttributes told = answers.front().Attributes(sizeof(ifinfomsg));
  LinkFacts facts{.mtu = told.U32(IFLA_MTU).value_or(0),
                  .xdp = told.Nest(IFLA_XDP).U8(IFLA_XDP_ATTACHED).value_or(XDP_ATTACHED_NONE) != XDP_ATTACHED_NONE};
  DEVMEM_ASSIGN_OR_RETURN(const EthtoolIoctl ioctl, EthtoolIoctl::Open());
  ethtool_drvinfo info{};
  info.cmd = ETHTOOL_GDRVINFO;
  if (ioctl.Call(interface, &info) == 0) {  // a link without a driver has no answer: that is one, too
    facts.driver = FieldText(info.driver);
    facts.firmware = FieldText(info.fw_version);
    facts.bus = FieldText(info.bus_info);
  }
  return facts;
}

}  // namespace devmem
