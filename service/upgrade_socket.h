// SPDX-License-Identifier: Apache-2.0
// Both ends of the upgrade socket (proto/devmem_loader/v1/upgrade.proto), over which a daemon hands all it holds to a
// successor.
//
//   old   auto socket = UpgradeSocket::On(std::move(listener), {...});     // one thread; its callbacks run there, one at a
//   time new   DEVMEM_ASSIGN_OR_RETURN(auto former, Predecessor::Find(path));   // nullptr: none lives
//         ... look whether former->offer() suits; nothing has stopped yet ...
//         DEVMEM_ASSIGN_OR_RETURN(auto handed, former->TakeOver(deadline));
//         ... adopt the parts; nothing is changed yet ...
//         DEVMEM_RETURN_IF_ERROR(former->Adopted());                       // it is ours
//
// Threads: UpgradeSocket is thread-safe; a Predecessor belongs to one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "net/transport.h"
#include "service/unix_socket.h"

namespace devmem {

inline constexpr char kUpgradeSuffix[] = ".upgrade";  // of the socket's path, behind the gRPC socket's

// All that a daemon hands over.
struct HandedOver {
  std::string version;   // of the daemon it comes from
  pid_t pid = 0;         // in that one's pid namespace
  Time stopped{};        // when it let in the last trainer
  uint32_t streams = 0;  // that it ended
  UnixListener::Parts grpc, handles, upgrade;
  TransportParts transport;
};

// A packet and the descriptors that ride on it, which are borrowed from `handed`.
struct UpgradeParcel {
  std::string bytes;
  std::vector<int> fds;
};
[[nodiscard]] UpgradeParcel Pack(const HandedOver& handed);
// kInvalidArgument where the packet is no hand_over or does not fit its descriptors. Those of the transport are not there in
// what is only offered.
[[nodiscard]] absl::StatusOr<HandedOver> Unpack(std::string_view bytes, std::vector<UniqueFd> fds);

class UpgradeSocket {
 public:
  struct Successor {
    std::string version;
    pid_t pid = 0;  // as this pid namespace knows it; 0: it does not
  };
  struct Options {
    std::string path;  // of the payload, by name
    // What hand_over would give of the transport, without descriptors, or why it would not: asked while all is served, so that
    // nobody is interrupted for a hand-over that cannot be. Empty: there is nothing to say.
    std::function<absl::StatusOr<TransportParts>()> offer;
    // It was asked to hand over, and nothing was stopped for it: the reason why it did not come to that. May be empty.
    std::function<void(const absl::Status& why)> declined;
    // Stops serving and gives everything but `version`, `pid` and `upgrade`. On error too `go_on` follows.
    std::function<absl::StatusOr<HandedOver>(const Successor&)> hand_over;
    // Called after hand_over unless the successor adopted: serve on.
    std::function<absl::Status(const absl::Status& why)> go_on;  // its error: it cannot
    // The successor serves. Nobody is answered any more.
    std::function<void(const Successor&)> handed_over;
    Duration hello_timeout = std::chrono::seconds(10);
    Duration ready_timeout = std::chrono::minutes(2);  // a successor of a daemon that copies sets NICs up meanwhile
    Duration adopt_timeout = std::chrono::seconds(10);
  };
  static absl::StatusOr<std::unique_ptr<UpgradeSocket>> On(UnixListener listener, Options options);
  // Ends the thread. A successor that has not adopted yet is told that it will not be one.
  virtual ~UpgradeSocket() = default;
};

class Predecessor {
 public:
  // The daemon that serves `service_path` here and now; nullptr if none does that has an upgrade socket. Its error if it
  // refuses to be succeeded, kDeadlineExceeded if it does not answer.
  static absl::StatusOr<std::unique_ptr<Predecessor>> Find(std::string_view service_path, Time deadline);
  virtual ~Predecessor() = default;  // the predecessor serves on, unless Adopted() was OK

  [[nodiscard]] virtual const std::string& version() const = 0;
  [[nodiscard]] virtual const std::string& path() const = 0;  // of the payload, by name
  // What it would hand over, without descriptors; nullptr if it is of a version that does not say.
  [[nodiscard]] virtual const TransportParts* offer() const = 0;

  // Has it stop and hand over: within milliseconds nobody serves. nullopt if it died before it did: nothing is left of it then.
  [[nodiscard]] virtual absl::StatusOr<std::optional<HandedOver>> TakeOver(Time deadline) = 0;
  // What was handed over is ours from here on, also where the predecessor died meanwhile. On error it serves on, and everything
  // must be dropped.
  [[nodiscard]] virtual absl::Status Adopted() = 0;
  // It is to serve on, for this reason. Before TakeOver() that costs nobody anything.
  virtual void Failed(const absl::Status& why) = 0;
};

}  // namespace devmem
