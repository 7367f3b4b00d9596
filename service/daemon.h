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
// Threads: Start and the destructor belong to one thread; Drain may be called from any, once; Reconfigure from any.
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
#include "service/access.h"

namespace devmem {

enum class TransportChoice : uint8_t {
  kAuto,    // devmem where this machine can, otherwise copy, with the reason
  kDevmem,  // devmem, or no start
  kCopy,
};

struct DaemonOptions {
  std::string socket;           // path of the gRPC socket; the handle socket is this + ".fd"
  uint32_t socket_mode = 0660;  // of both sockets
  // Sockets that a service manager listens on already (LISTEN_FDS), ours from here on. Those of the two paths are served in
  // place of new ones, which takes both; the upgrade socket is never one. Mode and end of their files are the manager's affair.
  std::vector<int> inherited;
  uint64_t memory_limit = 0;                        // bytes of all streams together; 0: see service/memory_limit.h
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
  AccessRules access;                                // who may open what; none: whoever may connect, everything
  Duration open_timeout = std::chrono::minutes(10);  // listing and headers of one OpenStream

  std::string metrics_listen;   // "HOST:PORT" or "unix:PATH" of GET /metrics and /healthz; empty: none
  size_t metrics_streams = 64;  // streams with series of their own, at most

  bool take_over = false;  // from the daemon that serves `socket`, if one does
  // A successor has taken over, and the daemon is to be destroyed: it has nothing any more. Not OK: there was none in the end,
  // and it could not go on. On a thread of the daemon's, maybe before Start() returned. Empty: no successor can come.
  std::function<void(const absl::Status&)> succeeded;
};

// What of the options can change while a daemon runs; as there.
struct LiveOptions {
  uint64_t memory_limit = 0;      // streams keep what they have: below that, new ones are refused until there is room
  uint64_t default_prefetch = 0;  // of streams opened from now on
  ReadPolicy policy;              // of every wait and every retry that begins from now on
  AccessRules access;             // of streams opened and trainers connecting from now on
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

  // Thread-safe. A successor that takes over knows nothing of it: it has options of its own.
  virtual void Reconfigure(const LiveOptions& options) = 0;

  [[nodiscard]] virtual PathInfo path() = 0;  // as Transport::path()
  // Whether the files of both sockets are a service manager's, also where they came from a predecessor: nobody's to remove.
  [[nodiscard]] virtual bool sockets_lent() const = 0;
};

}  // namespace devmem
