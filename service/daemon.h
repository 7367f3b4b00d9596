// SPDX-License-Identifier: Apache-2.0
// Daemon: everything of one node put together — device, transport, handle socket, gRPC server — behind one object,
// so that `devmem-loaderd` and a CLI without --service run the very same thing.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto daemon, Daemon::Start({.socket = "/run/devmem-loader/loader.sock"}));
//   ... wait for SIGTERM ...
//   daemon->Drain(Clock::now() + std::chrono::seconds(30));
//
// A daemon with `succeeded` can pass all it holds to another process that starts with `take_over`: docs/upgrade.md.
//
// Threads: Start and the destructor belong to one thread; Drain may be called from any, once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "net/rx/flow_steering.h"
#include "net/transport.h"

namespace devmem {

enum class TransportChoice : uint8_t {
  kAuto,    // devmem where this machine can, otherwise copy, with the reason
  kDevmem,  // devmem, or no start
  kCopy,
};

struct DaemonOptions {
  std::string socket;                               // path of the gRPC socket; the handle socket is this + ".fd"
  uint32_t socket_mode = 0660;                      // of both sockets
  uint64_t memory_limit = 0;                        // bytes of all slabs together; 0: half of the machine's memory
  uint64_t default_prefetch = uint64_t{128} << 20;  // slab bytes of a stream that names none
  uint64_t max_gap = uint64_t{64} << 10;            // wanted ranges this close are read as one
  uint64_t max_range = uint64_t{8} << 20;           // longest ranged GET
  std::string device = "cpu";                       // where slabs and landing pools lie: "cpu", "cuda:N"
  TransportChoice transport = TransportChoice::kAuto;
  std::vector<std::string> interfaces;                // devmem: NICs, bonds or VLANs; empty: choose
  size_t queues = 4;                                  // devmem: Rx queues of each NIC, at most, and so receive threads
  SteeringOptions steering;                           // devmem
  uint64_t landing_pool = 0;                          // devmem: bytes a NIC; 0: what the connections can pin
  std::string journal_folder = "/run/devmem-loader";  // devmem: what was done to NICs, for the start after a SIGKILL
  size_t workers = 0;                                 // copy: receive threads; 0: half the cores, at least 1, at most 8
  size_t connections = 16;                            // to one origin, a worker
  Reactor::Backend backend = Reactor::Backend::kAuto;
  ReadPolicy policy;
  Duration open_timeout = std::chrono::minutes(10);  // listing and headers of one OpenStream

  bool take_over = false;  // from the daemon that serves `socket`, if one does
  // A successor has taken over, and the daemon is to be destroyed: it has nothing any more. Not OK: there was none in the end,
  // and it could not go on. On a thread of the daemon's, maybe before Start() returned. Empty: no successor can come.
  std::function<void(const absl::Status&)> succeeded;
};

class Daemon {
 public:
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options);
  // On a device that there is already, whatever options.device says.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options, std::shared_ptr<Device> device);
  virtual ~Daemon() = default;  // ends every stream with UNAVAILABLE at once

  // Refuses new streams, lets the present ones end by themselves until `deadline`, then ends the rest with
  // UNAVAILABLE (their trainers resume elsewhere by cursor). Returns how many were cut off.
  virtual size_t Drain(Time deadline) = 0;

  [[nodiscard]] virtual PathInfo path() = 0;  // as Transport::path()
};

}  // namespace devmem
