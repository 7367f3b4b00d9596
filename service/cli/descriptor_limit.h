// SPDX-License-Identifier: Apache-2.0
// A connection is a descriptor, and so is a slab: a process with a daemon in it takes all that it may have.
#pragma once

#include "absl/status/status.h"

namespace devmem::cli {

// Raises RLIMIT_NOFILE's soft limit to the hard one. An error is worth a warning, no more: there are some descriptors.
[[nodiscard]] absl::Status RaiseDescriptorLimit();

}  // namespace devmem::cli
