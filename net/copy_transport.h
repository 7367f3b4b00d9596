// SPDX-License-Identifier: Apache-2.0
// The copy transport: sockets and files of this host, received by the CPU into host-visible device memory. Works on
// any machine; what a machine without a devmem NIC, kernel or GPU serves with.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "net/transport.h"

namespace devmem {

struct CopyTransportOptions {
  size_t workers = 1;
  size_t connections = 16;  // to one origin, a worker
  Reactor::Backend backend = Reactor::Backend::kAuto;
  ReadPolicy policy;
};

// Starts the workers. Destroying the transport closes all connections and joins them; every read must be done by then.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Transport>> MakeCopyTransport(const CopyTransportOptions& options);

}  // namespace devmem
