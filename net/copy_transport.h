// SPDX-License-Identifier: Apache-2.0
// The copy transport: sockets and files of this host, received by the CPU straight into memory that it can write, and through
// staging memory, from where the device copies them, into memory that it cannot (WorkerOptions::device). Works on any machine;
// what a machine without a devmem NIC or kernel serves with.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "net/worker_transport.h"

namespace devmem {

// `why` says why this path was taken. Starts the workers. Destroying the transport closes all connections and joins them; every
// read must be done by then.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Transport>> MakeCopyTransport(const WorkerOptions& options,
                                                                           const std::string& why);

}  // namespace devmem
