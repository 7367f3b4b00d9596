// SPDX-License-Identifier: Apache-2.0
// The devmem transport: each NIC writes payload into its landing pool by device-memory TCP, a device gathers it into slabs, and
// the CPU never touches it. One worker a bound Rx queue.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/device.h"
#include "net/rx/flow_steering.h"
#include "net/rx/say.h"
#include "net/worker_transport.h"

namespace devmem {

struct DevmemOptions {
  std::vector<std::string> interfaces;  // empty: choose
  size_t queues = 4;                    // of each NIC, at most
  SteeringOptions steering;
  uint64_t landing_pool = 0;  // bytes of each NIC's; 0: what the connections can pin, or as much as there is
  std::string journal_folder = "/run/devmem-loader";
  std::string near_pci;  // the GPU's PCI address; empty: none
  Say say = [](Severity, std::string_view) {};
};

// Chooses NICs and queues, allocates their landing pools, binds them, starts the workers. `workers.workers` and `.backend` are
// not looked at: there is a worker for every bound queue, on epoll. kFailedPrecondition, kUnimplemented or kPermissionDenied
// with the reason where this machine cannot; then nothing was changed. Destroying it closes all connections, joins the workers
// and puts the NICs back; every read must be done by then.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Transport>> MakeDevmemTransport(const WorkerOptions& workers,
                                                                             const DevmemOptions& options,
                                                                             std::shared_ptr<Device> device);

// Goes on with what another process's devmem transport handed over, from GoOn() on: until then nothing on a NIC is changed, and
// destroying it undoes nothing. What `options` asks for differently (NICs, queues, the pool's size) is said and left to the
// next cold start. kInvalidArgument where the pool is too small for `workers.connections`.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Transport>> AdoptDevmemTransport(const WorkerOptions& workers,
                                                                              const DevmemOptions& options,
                                                                              std::shared_ptr<Device> device,
                                                                              TransportParts parts);

// Whether AdoptDevmemTransport would find fault with what is offered (Transport::OfferHandOver), as far as that can be told
// without its descriptors: its memory is not `device`'s, its pools too small for the connections, the addresses to steer by not
// right.
[[nodiscard]] absl::Status CouldAdopt(const WorkerOptions& workers, const DevmemOptions& options, const Device& device,
                                      const TransportParts& offer);

}  // namespace devmem
