// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/ethtool_ioctl.h"

#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/error.h"

namespace devmem {

absl::StatusOr<EthtoolIoctl> EthtoolIoctl::Open() {
  // Any socket does, and this kind there always is.
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoError(errno, "cannot open a socket for ethtool's ioctl");
  return EthtoolIoctl(std::move(fd));
}

int EthtoolIoctl::Call(const std::string& interface, void* command) const {
  ifreq request{};
  if (interface.empty() || interface.size() >= IF_NAMESIZE) return ENODEV;
  interface.copy(request.ifr_name, IF_NAMESIZE - 1);
  request.ifr_data = static_cast<char*>(command);
  int result;
  do {
    result = ::ioctl(fd_.get(), SIOCETHTOOL, &request);
  } while (result < 0 && errno == EINTR);
  return result < 0 ? errno : 0;
}

}  // namespace devmem
