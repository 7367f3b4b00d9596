// SPDX-License-Identifier: Apache-2.0
// A network namespace for one test, with links made by rtnetlink (a machine need not have `ip`).
//
//   InOwnNamespace([] {
//     const absl::Status made = MakeLink("veth0", "veth");
//   });                                         // skips the test where a namespace cannot be had
#pragma once

#include <gtest/gtest.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include "net/netlink/netlink_socket.h"

namespace devmem {

// Runs `test` in a thread that has a network namespace of its own, which goes with the thread.
inline void InOwnNamespace(const std::function<void()>& test) {
  std::string refused;
  std::thread thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      refused = std::strerror(errno);
    } else {
      test();
    }
  });
  thread.join();
  if (!refused.empty()) GTEST_SKIP() << "no network namespace: unshare: " << refused << " (run as root)";
}

// Makes a link of a kind; `on` is the link it stands on (IFLA_LINK), `master` whose member it is. `more` puts what the kind
// wants.
inline absl::Status MakeLink(const std::string& name, const std::string& kind, const std::string& on = "",
                             const std::string& master = "", const std::function<void(NetlinkRequest&)>& more = nullptr) {
  auto socket = NetlinkSocket::Open(NETLINK_ROUTE);
  if (!socket.ok()) return socket.status();
  NetlinkRequest request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(ifinfomsg));
  request.PutString(IFLA_IFNAME, name);
  if (!on.empty()) request.PutU32(IFLA_LINK, ::if_nametoindex(on.c_str()));
  if (!master.empty()) request.PutU32(IFLA_MASTER, ::if_nametoindex(master.c_str()));
  request.PutNest(IFLA_LINKINFO, [&] {
    request.PutString(IFLA_INFO_KIND, kind);
    if (more) request.PutNest(IFLA_INFO_DATA, [&] { more(request); });
  });
  return socket->Exchange(request, {.object = name, .what = "cannot make the link"}).status();
}

}  // namespace devmem
