// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/flow_spec.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

constexpr uint32_t kFlags = FLOW_EXT | FLOW_MAC_EXT | FLOW_RSS;

// An address and port of either family, in network order.
struct End {
  std::array<uint8_t, 16> address{};
  uint16_t port = 0;
  bool operator==(const End&) const = default;
  [[nodiscard]] bool empty() const { return *this == End(); }
};

End EndOf(const sockaddr_storage& storage) {
  End end;
  if (storage.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &storage, sizeof(v4));
    std::memcpy(end.address.data(), &v4.sin_addr, sizeof(v4.sin_addr));
    end.port = v4.sin_port;
  } else if (storage.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &storage, sizeof(v6));
    std::memcpy(end.address.data(), &v6.sin6_addr, sizeof(v6.sin6_addr));
    end.port = v6.sin6_port;
  }
  return end;
}

sockaddr_storage StorageOf(sa_family_t family, const void* address, uint16_t port) {
  sockaddr_storage storage{};
  if (family == AF_INET) {
    sockaddr_in v4{};
    v4.sin_family = family;
    v4.sin_port = port;
    std::memcpy(&v4.sin_addr, address, sizeof(v4.sin_addr));
    std::memcpy(&storage, &v4, sizeof(v4));
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = family;
    v6.sin6_port = port;
    std::memcpy(&v6.sin6_addr, address, sizeof(v6.sin6_addr));
    std::memcpy(&storage, &v6, sizeof(v6));
  }
  return storage;
}

template <typename T>
bool AllZero(const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  return std::all_of(bytes, bytes + sizeof(value), [](uint8_t byte) { return byte == 0; });
}

template <typename T>
bool AllOnes(const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  return std::all_of(bytes, bytes + sizeof(value), [](uint8_t byte) { return byte == 0xff; });
}

// Puts a field in where it is not zero, mask and all.
template <typename T>
void Give(const void* from, T& value, T& mask) {
  std::memcpy(&value, from, sizeof(value));
  if (!AllZero(value)) std::memset(&mask, 0xff, sizeof(mask));
}

// A field of a rule that is matched whole, and not against zero, or not at all: in `value`, zero then. False for others.
template <typename T>
bool Take(T& value, const T& mask) {
  if (AllZero(mask)) {
    std::memset(&value, 0, sizeof(value));
    return true;
  }
  return AllOnes(mask) && !AllZero(value);
}

std::string Text(const sockaddr_storage& storage) {
  const End end = EndOf(storage);
  const bool any = std::all_of(end.address.begin(), end.address.end(), [](uint8_t byte) { return byte == 0; });
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(storage.ss_family, end.address.data(), text.data(), text.size());
  std::string address = any ? "*" : text.data();
  if (!any && storage.ss_family == AF_INET6) address = absl::StrCat("[", address, "]");
  return absl::StrCat(address, ":", end.port == 0 ? "*" : absl::StrCat(ntohs(end.port)));
}

}  // namespace

bool FlowMatch::operator==(const FlowMatch& other) const {
  return source.ss_family == other.source.ss_family && destination.ss_family == other.destination.ss_family &&
         EndOf(source) == EndOf(other.source) && EndOf(destination) == EndOf(other.destination);
}

std::string FlowMatch::ToString() const { return absl::StrCat("tcp ", Text(source), " > ", Text(destination)); }

absl::Status CheckMatch(const FlowMatch& match) {
  const sa_family_t family = match.source.ss_family;
  std::string wrong;
  if (family != AF_INET && family != AF_INET6) wrong = "the source is neither an IPv4 nor an IPv6 address";
  if (wrong.empty() && match.destination.ss_family != family) wrong = "source and destination are of different families";
  if (wrong.empty() && EndOf(match.source).empty() && EndOf(match.destination).empty()) wrong = "it would match every flow";
  if (wrong.empty()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("no rule can be made for ", match.ToString(), ": ", wrong),
                   {});
}

ethtool_rx_flow_spec ToSpec(const FlowMatch& match) {
  ethtool_rx_flow_spec spec{};
  const End source = EndOf(match.source), destination = EndOf(match.destination);
  if (match.source.ss_family == AF_INET) {
    spec.flow_type = TCP_V4_FLOW;
    ethtool_tcpip4_spec &value = spec.h_u.tcp_ip4_spec, &mask = spec.m_u.tcp_ip4_spec;
    Give(source.address.data(), value.ip4src, mask.ip4src);
    Give(destination.address.data(), value.ip4dst, mask.ip4dst);
    Give(&source.port, value.psrc, mask.psrc);
    Give(&destination.port, value.pdst, mask.pdst);
  } else {
    spec.flow_type = TCP_V6_FLOW;
    ethtool_tcpip6_spec &value = spec.h_u.tcp_ip6_spec, &mask = spec.m_u.tcp_ip6_spec;
    Give(source.address.data(), value.ip6src, mask.ip6src);
    Give(destination.address.data(), value.ip6dst, mask.ip6dst);
    Give(&source.port, value.psrc, mask.psrc);
    Give(&destination.port, value.pdst, mask.pdst);
  }
  return spec;
}

FlowRule FromSpec(const ethtool_rx_flow_spec& spec) {
  FlowRule rule{.location = spec.location,
                .ring_cookie = spec.ring_cookie,
                .has_context = (spec.flow_type & FLOW_RSS) != 0,
                .discards = spec.ring_cookie == RX_CLS_FLOW_DISC};
  if ((spec.flow_type & (FLOW_EXT | FLOW_MAC_EXT)) != 0) return rule;
  const uint32_t type = spec.flow_type & ~kFlags;
  if (type == TCP_V4_FLOW) {
    ethtool_tcpip4_spec value = spec.h_u.tcp_ip4_spec;
    const ethtool_tcpip4_spec& mask = spec.m_u.tcp_ip4_spec;
    rule.exact = mask.tos == 0 && Take(value.ip4src, mask.ip4src) && Take(value.ip4dst, mask.ip4dst) &&
                 Take(value.psrc, mask.psrc) && Take(value.pdst, mask.pdst);
    rule.match = {.source = StorageOf(AF_INET, &value.ip4src, value.psrc),
                  .destination = StorageOf(AF_INET, &value.ip4dst, value.pdst)};
  } else if (type == TCP_V6_FLOW) {
    ethtool_tcpip6_spec value = spec.h_u.tcp_ip6_spec;
    const ethtool_tcpip6_spec& mask = spec.m_u.tcp_ip6_spec;
    rule.exact = mask.tclass == 0 && Take(value.ip6src, mask.ip6src) && Take(value.ip6dst, mask.ip6dst) &&
                 Take(value.psrc, mask.psrc) && Take(value.pdst, mask.pdst);
    rule.match = {.source = StorageOf(AF_INET6, &value.ip6src, value.psrc),
                  .destination = StorageOf(AF_INET6, &value.ip6dst, value.pdst)};
  }
  return rule;
}

bool Resembles(const ethtool_rx_flow_spec& spec, const ethtool_rx_flow_spec& ours) {
  if ((spec.flow_type & ~kFlags) != (ours.flow_type & ~kFlags)) return false;
  for (size_t i = 0; i < sizeof(ours.m_u.hdata); ++i) {
    if ((spec.h_u.hdata[i] & ours.m_u.hdata[i]) != (ours.h_u.hdata[i] & ours.m_u.hdata[i])) return false;
  }
  return true;
}

}  // namespace devmem
