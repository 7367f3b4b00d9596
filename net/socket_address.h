// SPDX-License-Identifier: Apache-2.0
// SocketAddress: where a connection goes, and how far it leads: out to the network, or no further than this machine or its
// link. Values; thread-safe.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace devmem {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  bool operator==(const SocketAddress& other) const;  // family, address, zone and port
};

// "127.0.0.1:80", "[fe80::1%eth0]:80".
[[nodiscard]] std::string AddressText(const SocketAddress& address);
[[nodiscard]] std::string AddressText(const sockaddr* address);

// The address that `host` spells ("10.0.0.1", "::1", "fe80::1%eth0"); nothing where it is a name, which must be looked up.
[[nodiscard]] std::optional<SocketAddress> ParseAddress(const std::string& host, uint16_t port);

enum class Reach : uint8_t {
  kNetwork,
  kLink,     // 169.254.0.0/16, fe80::/10: what clouds serve credentials from
  kMachine,  // 127.0.0.0/8, ::1, and 0.0.0.0/8 and ::, by which Linux reaches the machine itself
};
// An IPv4 address inside an IPv6 one (::ffff:a.b.c.d, ::a.b.c.d, 64:ff9b::a.b.c.d) reaches as far as it does on its own.
[[nodiscard]] Reach ReachOf(const sockaddr* address);
[[nodiscard]] std::string_view Name(Reach reach);  // "the network", "a link-local address", "the machine itself"

}  // namespace devmem
