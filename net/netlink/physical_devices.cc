// SPDX-License-Identifier: Apache-2.0
// What stands below an interface, by one RTM_GETLINK dump: unlike sysfs, which shows the network namespace of whoever mounted
// it, this is the calling thread's.
//  1. A link with a parent device (PCI, platform ...) is physical.
//  2. One of a kind that sends through another link (VLAN, macvlan, ipvlan) stands on IFLA_LINK.
//  3. One that has members (bond, team) stands on those links whose IFLA_MASTER it is.
//  4. Others carry nothing to a NIC that we could steer: loopback, veth (whose IFLA_LINK is its peer), bridges, tunnels.
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/netlink/netlink_socket.h"
#include "net/netlink/route.h"

namespace devmem {
namespace {

struct Link {
  std::string name;
  std::string kind;
  bool has_parent_device = false;
  uint32_t below = 0;   // IFLA_LINK, in this namespace
  uint32_t master = 0;  // IFLA_MASTER
};

bool StandsOnALink(std::string_view kind) {
  return kind == "vlan" || kind == "macvlan" || kind == "macvtap" || kind == "ipvlan" || kind == "ipvtap";
}
bool StandsOnMembers(std::string_view kind) { return kind == "bond" || kind == "team"; }

absl::StatusOr<std::map<uint32_t, Link>> Links(const std::string& interface) {
  DEVMEM_ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_ROUTE));
  NetlinkRequest request(RTM_GETLINK, NLM_F_DUMP, sizeof(ifinfomsg));
  request.PutU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
  DEVMEM_ASSIGN_OR_RETURN(const auto answers, socket.Exchange(request, {interface, "cannot list network interfaces"}));
  std::map<uint32_t, Link> links;
  for (const NetlinkAnswer& answer : answers) {
    const auto* header = answer.Header<ifinfomsg>();
    if (header == nullptr) continue;
    const NetlinkAttributes told = answer.Attributes(sizeof(ifinfomsg));
    const bool elsewhere = told.Has(IFLA_LINK_NETNSID);
    links[static_cast<uint32_t>(header->ifi_index)] = {
        .name = std::string(told.String(IFLA_IFNAME).value_or("")),
        .kind = std::string(told.Nest(IFLA_LINKINFO).String(IFLA_INFO_KIND).value_or("")),
        .has_parent_device = told.Has(IFLA_PARENT_DEV_NAME),
        .below = elsewhere ? 0 : told.U32(IFLA_LINK).value_or(0),
        .master = told.U32(IFLA_MASTER).value_or(0)};
  }
  return links;
}

// Adds the physical devices under a link; `seen` ends loops.
void Descend(const std::map<uint32_t, Link>& links, uint32_t at, std::set<uint32_t>& seen, std::set<std::string>& physical) {
  const auto found = links.find(at);
  if (found == links.end() || !seen.insert(at).second) return;
  const Link& link = found->second;
  if (link.has_parent_device) {
    physical.insert(link.name);
  } else if (StandsOnALink(link.kind)) {
    Descend(links, link.below, seen, physical);
  } else if (StandsOnMembers(link.kind)) {
    for (const auto& [index, each] : links) {
      if (each.master == at) Descend(links, index, seen, physical);
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<std::string>> PhysicalDevices(const std::string& interface) {
  DEVMEM_ASSIGN_OR_RETURN(const auto links, Links(interface));
  for (const auto& [index, link] : links) {
    if (link.name != interface) continue;
    std::set<uint32_t> seen;
    std::set<std::string> physical;
    Descend(links, index, seen, physical);
    if (!physical.empty()) return std::vector<std::string>(physical.begin(), physical.end());
    return MakeError(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("there is no physical device under it", link.kind.empty() ? "" : absl::StrCat(": it is a ", link.kind)),
        {.object = interface, .cause = "no physical device", .action = "name an interface that stands on a NIC (ip -d link)"});
  }
  return MakeError(absl::StatusCode::kNotFound, "there is no such interface in this network namespace",
                   {.object = interface, .cause = "no such interface", .action = "ip link lists them"});
}

}  // namespace devmem
