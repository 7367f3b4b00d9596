// SPDX-License-Identifier: Apache-2.0
#include "net/peer_text.h"

#include <netdb.h>

#include <array>

namespace devmem {

std::string PeerText(const sockaddr* address, socklen_t length) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getnameinfo(address, length, host.data(), host.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) !=
      0) {
    return "an address of family " + std::to_string(address->sa_family);
  }
  const std::string text = host.data();
  return (address->sa_family == AF_INET6 ? "[" + text + "]" : text) + ":" + port.data();
}

}  // namespace devmem
