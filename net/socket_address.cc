// SPDX-License-Identifier: Apache-2.0
#include "net/socket_address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

namespace devmem {
namespace {

Reach ReachOf4(uint32_t address) {  // in host order
  const uint32_t first = address >> 24;
  if (first == 127 || first == 0) return Reach::kMachine;
  return address >> 16 == (169u << 8 | 254u) ? Reach::kLink : Reach::kNetwork;
}

Reach ReachOf6(const in6_addr& address) {
  const uint8_t* const bytes = address.s6_addr;
  const bool last_four_only = std::all_of(bytes, bytes + 12, [](uint8_t byte) { return byte == 0; });
  constexpr std::array<uint8_t, 12> kTranslated = {0x00, 0x64, 0xff, 0x9b};  // RFC 6052
  if (IN6_IS_ADDR_LOOPBACK(&address) || IN6_IS_ADDR_UNSPECIFIED(&address)) return Reach::kMachine;
  if (IN6_IS_ADDR_LINKLOCAL(&address)) return Reach::kLink;
  if (IN6_IS_ADDR_V4MAPPED(&address) || last_four_only || std::equal(kTranslated.begin(), kTranslated.end(), bytes)) {
    return ReachOf4(uint32_t{bytes[12]} << 24 | uint32_t{bytes[13]} << 16 | uint32_t{bytes[14]} << 8 | bytes[15]);
  }
  return Reach::kNetwork;
}

}  // namespace

bool SocketAddress::operator==(const SocketAddress& other) const {
  if (storage.ss_family != other.storage.ss_family) return false;
  if (storage.ss_family == AF_INET) {
    const auto& a = reinterpret_cast<const sockaddr_in&>(storage);
    const auto& b = reinterpret_cast<const sockaddr_in&>(other.storage);
    return a.sin_addr.s_addr == b.sin_addr.s_addr && a.sin_port == b.sin_port;
  }
  if (storage.ss_family == AF_INET6) {
    const auto& a = reinterpret_cast<const sockaddr_in6&>(storage);
    const auto& b = reinterpret_cast<const sockaddr_in6&>(other.storage);
    return IN6_ARE_ADDR_EQUAL(&a.sin6_addr, &b.sin6_addr) && a.sin6_port == b.sin6_port && a.sin6_scope_id == b.sin6_scope_id;
  }
  return length == other.length && std::memcmp(&storage, &other.storage, length) == 0;
}

std::string AddressText(const sockaddr* address) {
  const socklen_t length = address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(address, length, host.data(), host.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "an address of family " + std::to_string(address->sa_family);
  }
  const std::string text = host.data();
  return (address->sa_family == AF_INET6 ? "[" + text + "]" : text) + ":" + port.data();
}

std::string AddressText(const SocketAddress& address) { return AddressText(address.get()); }

std::optional<SocketAddress> ParseAddress(const std::string& host, uint16_t port) {
  SocketAddress parsed;
  if (auto& v4 = reinterpret_cast<sockaddr_in&>(parsed.storage); inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    parsed.length = sizeof v4;
    return parsed;
  }
  auto& v6 = reinterpret_cast<sockaddr_in6&>(parsed.storage);
  const size_t zone = host.find('%');
  if (inet_pton(AF_INET6, host.substr(0, zone).c_str(), &v6.sin6_addr) != 1) return std::nullopt;
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  if (zone != std::string::npos) v6.sin6_scope_id = if_nametoindex(host.c_str() + zone + 1);
  parsed.length = sizeof v6;
  return parsed;
}

Reach ReachOf(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return ReachOf4(ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6) return ReachOf6(reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  return Reach::kMachine;  // a unix socket
}

std::string_view Name(Reach reach) {
  switch (reach) {
    case Reach::kNetwork:
      return "the network";
    case Reach::kLink:
      return "a link-local address";
    case Reach::kMachine:
      return "the machine itself";
  }
  return "";
}

}  // namespace devmem
