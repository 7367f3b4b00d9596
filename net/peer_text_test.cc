// SPDX-License-Identifier: Apache-2.0
#include "net/peer_text.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

namespace devmem {
namespace {

TEST(PeerText, AddressAndPort) {
  sockaddr_in v4{.sin_family = AF_INET, .sin_port = htons(8080)};
  ASSERT_EQ(::inet_pton(AF_INET, "10.0.0.5", &v4.sin_addr), 1);
  EXPECT_EQ(PeerText(reinterpret_cast<const sockaddr*>(&v4), sizeof v4), "10.0.0.5:8080");
  sockaddr_in6 v6{.sin6_family = AF_INET6, .sin6_port = htons(80)};
  ASSERT_EQ(::inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr), 1);
  EXPECT_EQ(PeerText(reinterpret_cast<const sockaddr*>(&v6), sizeof v6), "[2001:db8::1]:80");
  sockaddr_storage whole{};  // as it is kept: longer than any family's
  *reinterpret_cast<sockaddr_in*>(&whole) = v4;
  EXPECT_EQ(PeerText(reinterpret_cast<const sockaddr*>(&whole), sizeof whole), "10.0.0.5:8080");
  const sockaddr local{.sa_family = AF_UNSPEC};
  EXPECT_EQ(PeerText(&local, sizeof local), "an address of family 0");
}

}  // namespace
}  // namespace devmem
