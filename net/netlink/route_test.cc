// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/route.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_link.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstring>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "net/netlink/testing/own_namespace.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Route> To(const char* text) {
  sockaddr_in v4{.sin_family = AF_INET};
  sockaddr_in6 v6{.sin6_family = AF_INET6};
  if (::inet_pton(AF_INET, text, &v4.sin_addr) == 1) return RouteTo(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
  if (::inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) return RouteTo(reinterpret_cast<const sockaddr*>(&v6), sizeof(v6));
  return absl::InvalidArgumentError("no address");
}

TEST(RouteTo, ThisHostIsLocal) {
  for (const char* address : {"127.0.0.1", "::ffff:127.0.0.1"}) {
    const auto route = To(address);
    ASSERT_TRUE(route.ok()) << address << ": " << route.status();
    EXPECT_TRUE(route->local);
    EXPECT_EQ(route->interface, "lo");
    sockaddr_in source;
    std::memcpy(&source, &route->source, sizeof(source));
    EXPECT_EQ(source.sin_family, AF_INET);
    EXPECT_EQ(source.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    EXPECT_EQ(source.sin_port, 0);
  }
}

TEST(RouteTo, WhatHasNoRouteIsNamed) {
  InOwnNamespace([] {  // with nothing but a loopback interface that is down
    for (const char* address : {"198.51.100.1", "2001:db8:ffff::1"}) {
      const absl::Status status = To(address).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << address;
      EXPECT_THAT(Text(status), HasSubstr(std::string(address) + ": no route: "));
      EXPECT_EQ(CauseText(status), "no route");
    }
  });
}

TEST(RouteTo, OnlyToAddresses) {
  sockaddr_un local{.sun_family = AF_UNIX};
  sockaddr_in v4{.sin_family = AF_INET};
  EXPECT_EQ(RouteTo(reinterpret_cast<const sockaddr*>(&local), sizeof(local)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RouteTo(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4) - 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RouteTo(nullptr, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PhysicalDevices, LoopbackHasNone) {
  const absl::Status status = PhysicalDevices("lo").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), HasSubstr("lo: there is no physical device under it"));
}

TEST(PhysicalDevices, ThatAreNotThere) {
  const absl::Status status = PhysicalDevices("no-such-nic").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(status), HasSubstr("no-such-nic: there is no such interface"));
}

TEST(PhysicalDevices, SoftwareLinksHaveNone) {
  InOwnNamespace([] {
    const auto one = [](NetlinkRequest& request) {  // IFLA_VLAN_ID is 16 bits
      const uint16_t id = 5;
      request.PutBytes(IFLA_VLAN_ID, std::as_bytes(std::span(&id, 1)));
    };
    const struct {
      const char *name, *kind, *on, *master;
      std::function<void(NetlinkRequest&)> more;
    } kRows[] = {{"t-veth", "veth", "", "", nullptr},         {"t-bridge", "bridge", "", "", nullptr},
                 {"t-vlan", "vlan", "t-veth", "", one},       {"t-bond", "bond", "", "", nullptr},
                 {"t-member", "veth", "", "t-bond", nullptr}, {"t-port", "veth", "", "t-bridge", nullptr}};
    for (const auto& row : kRows) {
      if (const absl::Status made = MakeLink(row.name, row.kind, row.on, row.master, row.more); !made.ok()) {
        std::cout << "passed over: " << Text(made) << "\n";  // this kernel has no such links
        continue;
      }
      const absl::Status status = PhysicalDevices(row.name).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << row.name;
      EXPECT_THAT(Text(status), HasSubstr(std::string("it is a ") + row.kind));
    }
  });
}

}  // namespace
}  // namespace devmem
