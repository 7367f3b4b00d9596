// SPDX-License-Identifier: Apache-2.0
// Flows as the kernel's specs, and back. Real tables are tested in the guest (tests/guest/netlink).
#include "net/netlink/flow_rules.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>

#include "base/error.h"
#include "net/netlink/flow_spec.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

sockaddr_storage Address(const char* text, uint16_t port) {
  sockaddr_storage storage{};
  sockaddr_in v4{.sin_family = AF_INET, .sin_port = htons(port)};
  sockaddr_in6 v6{.sin6_family = AF_INET6, .sin6_port = htons(port)};
  if (::inet_pton(AF_INET, text, &v4.sin_addr) == 1) std::memcpy(&storage, &v4, sizeof(v4));
  if (::inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) std::memcpy(&storage, &v6, sizeof(v6));
  return storage;
}

FlowMatch Flow(const char* source, uint16_t source_port, const char* destination, uint16_t port) {
  return {.source = Address(source, source_port), .destination = Address(destination, port)};
}

TEST(FlowSpec, ThereAndBack) {
  const struct {
    FlowMatch match;
    const char* text;
  } kRows[] = {
      {Flow("192.0.2.2", 80, "192.0.2.1", 40112), "tcp 192.0.2.2:80 > 192.0.2.1:40112"},
      {Flow("0.0.0.0", 0, "192.0.2.1", 0), "tcp *:* > 192.0.2.1:*"},
      {Flow("0.0.0.0", 443, "0.0.0.0", 0), "tcp *:443 > *:*"},
      {Flow("2001:db8::2", 80, "2001:db8::1", 40112), "tcp [2001:db8::2]:80 > [2001:db8::1]:40112"},
      {Flow("::", 0, "2001:db8::1", 0), "tcp *:* > [2001:db8::1]:*"},
  };
  for (const auto& row : kRows) {
    EXPECT_TRUE(CheckMatch(row.match).ok()) << row.text;
    EXPECT_EQ(row.match.ToString(), row.text);
    ethtool_rx_flow_spec spec = ToSpec(row.match);
    spec.location = 9;
    spec.ring_cookie = 3;
    const FlowRule rule = FromSpec(spec);
    EXPECT_TRUE(rule.exact) << row.text;
    EXPECT_EQ(rule.match, row.match) << rule.match.ToString();
    EXPECT_EQ(rule.location, 9U);
    EXPECT_EQ(rule.ring_cookie, 3U);
    EXPECT_FALSE(rule.discards || rule.has_context);
  }
}

TEST(FlowSpec, MasksAreWhole) {
  const ethtool_rx_flow_spec spec = ToSpec(Flow("192.0.2.2", 80, "0.0.0.0", 0));
  EXPECT_EQ(spec.flow_type, static_cast<uint32_t>(TCP_V4_FLOW));
  EXPECT_EQ(spec.h_u.tcp_ip4_spec.ip4src, ::inet_addr("192.0.2.2"));
  EXPECT_EQ(spec.m_u.tcp_ip4_spec.ip4src, 0xffffffffU);
  EXPECT_EQ(spec.h_u.tcp_ip4_spec.psrc, htons(80));
  EXPECT_EQ(spec.m_u.tcp_ip4_spec.psrc, 0xffff);
  EXPECT_EQ(spec.m_u.tcp_ip4_spec.ip4dst, 0U);
  EXPECT_EQ(spec.m_u.tcp_ip4_spec.pdst, 0);
  EXPECT_EQ(spec.m_u.tcp_ip4_spec.tos, 0);
}

// Other people's rules that a FlowMatch cannot say.
TEST(FlowSpec, OtherRulesAreNotExact) {
  const ethtool_rx_flow_spec good = ToSpec(Flow("192.0.2.2", 80, "192.0.2.1", 0));
  const struct {
    const char* what;
    void (*change)(ethtool_rx_flow_spec&);
  } kRows[] = {
      {"UDP", [](ethtool_rx_flow_spec& spec) { spec.flow_type = UDP_V4_FLOW; }},
      {"a VLAN tag too", [](ethtool_rx_flow_spec& spec) { spec.flow_type |= FLOW_EXT; }},
      {"a MAC address too", [](ethtool_rx_flow_spec& spec) { spec.flow_type |= FLOW_MAC_EXT; }},
      {"type of service", [](ethtool_rx_flow_spec& spec) { spec.m_u.tcp_ip4_spec.tos = 0xff; }},
      {"a subnet", [](ethtool_rx_flow_spec& spec) { spec.m_u.tcp_ip4_spec.ip4src = htonl(0xffffff00); }},
      {"port zero itself", [](ethtool_rx_flow_spec& spec) { spec.m_u.tcp_ip4_spec.pdst = 0xffff; }},
  };
  for (const auto& row : kRows) {
    ethtool_rx_flow_spec spec = good;
    row.change(spec);
    EXPECT_FALSE(FromSpec(spec).exact) << row.what;
  }
  ethtool_rx_flow_spec unmasked = good;  // a value that no mask asks for does not count
  unmasked.h_u.tcp_ip4_spec.pdst = htons(7);
  EXPECT_TRUE(FromSpec(unmasked).exact);
  EXPECT_EQ(FromSpec(unmasked).match, Flow("192.0.2.2", 80, "192.0.2.1", 0));
}

TEST(FlowSpec, WhereRulesLead) {
  ethtool_rx_flow_spec spec = ToSpec(Flow("192.0.2.2", 80, "192.0.2.1", 0));
  spec.ring_cookie = RX_CLS_FLOW_DISC;
  EXPECT_TRUE(FromSpec(spec).discards);
  spec.ring_cookie = 0;
  spec.flow_type |= FLOW_RSS;
  EXPECT_TRUE(FromSpec(spec).has_context);
  EXPECT_TRUE(FromSpec(spec).exact);
}

TEST(FlowSpec, ResemblesWhatADriverMadeOfIt) {
  const ethtool_rx_flow_spec ours = ToSpec(Flow("192.0.2.2", 80, "192.0.2.1", 0));
  ethtool_rx_flow_spec widened = ours;
  widened.m_u.tcp_ip4_spec.psrc = 0;
  EXPECT_TRUE(Resembles(widened, ours));
  EXPECT_FALSE(Resembles(ToSpec(Flow("192.0.2.2", 81, "192.0.2.1", 0)), ours));
  ethtool_rx_flow_spec udp = ours;
  udp.flow_type = UDP_V4_FLOW;
  EXPECT_FALSE(Resembles(udp, ours));
}

TEST(FlowMatch, EqualInEveryPart) {
  const FlowMatch match = Flow("192.0.2.2", 80, "192.0.2.1", 40112);
  EXPECT_EQ(match, Flow("192.0.2.2", 80, "192.0.2.1", 40112));
  for (const FlowMatch& other : {Flow("192.0.2.3", 80, "192.0.2.1", 40112), Flow("192.0.2.2", 81, "192.0.2.1", 40112),
                                 Flow("192.0.2.2", 80, "192.0.2.9", 40112), Flow("192.0.2.2", 80, "192.0.2.1", 40113)}) {
    EXPECT_FALSE(match == other) << other.ToString();
  }
  EXPECT_FALSE(Flow("0.0.0.0", 80, "0.0.0.0", 0) == Flow("::", 80, "::", 0));
}

TEST(FlowMatch, ThatNoRuleCanBeMadeFor) {
  EXPECT_THAT(Text(CheckMatch(FlowMatch{})), HasSubstr("neither an IPv4 nor an IPv6 address"));
  EXPECT_THAT(Text(CheckMatch(Flow("192.0.2.2", 80, "2001:db8::1", 0))), HasSubstr("different families"));
  EXPECT_THAT(Text(CheckMatch(Flow("0.0.0.0", 0, "0.0.0.0", 0))), HasSubstr("every flow"));
}

TEST(FlowRules, LoopbackTakesNone) {
  auto rules = FlowRules::Open();
  ASSERT_TRUE(rules.ok()) << rules.status();
  const FlowMatch match = Flow("192.0.2.2", 80, "192.0.2.1", 0);
  EXPECT_EQ((*rules)->Budget("lo").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ((*rules)->List("lo").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ((*rules)->Insert("lo", match, 0).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE((*rules)->Delete("lo", 0, match, 0).ok());
  EXPECT_EQ((*rules)->List("no-such-nic").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GetErrorInfo((*rules)->Insert("lo", FlowMatch{}, 0).status()).object, "lo");
}

}  // namespace
}  // namespace devmem
