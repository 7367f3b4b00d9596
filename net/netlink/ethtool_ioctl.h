// SPDX-License-Identifier: Apache-2.0
// SIOCETHTOOL: what ethtool netlink has no message for, or an older kernel none yet.
//
//   ethtool_drvinfo info{.cmd = ETHTOOL_GDRVINFO};
//   if (int error = ioctl.Call("dms0", &info); error != 0) ...
//
// Speaks to the network namespace of the thread that opened it. Thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace devmem {

class EthtoolIoctl {
 public:
  [[nodiscard]] static absl::StatusOr<EthtoolIoctl> Open();

  // `command` opens with its ETHTOOL_ number, and is filled in. Returns 0 or errno; KernelRefusal makes a Status of it.
  [[nodiscard]] int Call(const std::string& interface, void* command) const;

 private:
  explicit EthtoolIoctl(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace devmem
