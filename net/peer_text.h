// SPDX-License-Identifier: Apache-2.0
// "10.0.0.5:8080", "[::1]:80": the address of a connection, for errors: a host's name may mean several. Pure function.
#pragma once

#include <sys/socket.h>

#include <string>

namespace devmem {

[[nodiscard]] std::string PeerText(const sockaddr* address, socklen_t length);

}  // namespace devmem
