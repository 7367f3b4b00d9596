// SPDX-License-Identifier: Apache-2.0
// The capabilities that a program's file gives it, made effective.
//
//   if (absl::Status status = UsePermittedCapabilities(); !status.ok()) ...    // before any thread
#pragma once

#include "absl/status/status.h"

namespace devmem::cli {

// Makes effective what is permitted to this thread, and so to those it starts: with `setcap cap_net_admin+p` on the program, a
// user without rights has CAP_NET_ADMIN where its container may have it, and the program starts all the same where it may not
// (with +ep, the kernel would refuse to). Nothing is gained that was not permitted.
[[nodiscard]] absl::Status UsePermittedCapabilities();

}  // namespace devmem::cli
