// SPDX-License-Identifier: Apache-2.0
#include "service/cli/descriptor_limit.h"

#include <sys/resource.h>

#include <cerrno>

#include "base/error.h"

namespace devmem::cli {

absl::Status RaiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoError(errno, "reading RLIMIT_NOFILE");
  if (limit.rlim_cur == limit.rlim_max) return absl::OkStatus();
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0 ? absl::OkStatus() : ErrnoError(errno, "raising RLIMIT_NOFILE");
}

}  // namespace devmem::cli
