// SPDX-License-Identifier: Apache-2.0
#include "net/rx/deferred_skbs.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include "base/unique_fd.h"

namespace devmem {

void FreeDeferredSkbs() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in self{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof self;
  if (!socket.valid() || bind(socket.get(), reinterpret_cast<sockaddr*>(&self), sizeof self) != 0) return;
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&self), &length) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) continue;
    // The loopback device receives on the CPU that sends. Nobody reads: the socket goes before its buffer fills.
    if (sendto(socket.get(), "", 0, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&self), length) != 0) continue;
  }
  (void)sched_setaffinity(0, sizeof allowed, &allowed);
}

}  // namespace devmem
