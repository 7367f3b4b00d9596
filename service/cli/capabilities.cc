// SPDX-License-Identifier: Apache-2.0
#include "service/cli/capabilities.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/error.h"

namespace devmem::cli {

absl::Status UsePermittedCapabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return ErrnoError(errno, "reading this process's capabilities");
  for (__user_cap_data_struct& set : sets) set.effective = set.permitted;
  if (::syscall(SYS_capset, &header, sets.data()) != 0) return ErrnoError(errno, "making permitted capabilities effective");
  return absl::OkStatus();
}

}  // namespace devmem::cli
