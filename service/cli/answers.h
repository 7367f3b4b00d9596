// SPDX-License-Identifier: Apache-2.0
// Whether a daemon answers: what systemd's watchdog is told by.
//
//   if (Answers("/run/devmem-loader/loader.sock", deadline).ok()) ...
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/clock.h"

namespace devmem::cli {

// Asks the daemon that serves `socket` (a path) for its status, as any trainer would: over both sockets, so that its acceptors,
// gRPC's threads and the loops of its streams all had to move. A refusal for want of room is an answer too. Its error
// otherwise: kDeadlineExceeded, kUnavailable. Blocks until the deadline at most; thread-safe.
[[nodiscard]] absl::Status Answers(const std::string& socket, Time deadline);

}  // namespace devmem::cli
