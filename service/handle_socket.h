// SPDX-License-Identifier: Apache-2.0
// HandleSocket: the daemon's side of the handle socket (proto/devmem_loader/v1/handle_socket.proto), a
// SOCK_SEQPACKET socket at the gRPC socket's path + ".fd". It knows who a trainer is, issues its token, passes the
// file descriptors of slabs, and says when the trainer is gone.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto handles, HandleSocket::Create("/run/devmem-loader/loader.sock",
//       {.mode = 0660, .gone = [&](const HandleSocket::Peer& peer) { CancelStreamsOf(peer.token); }}));
//   ... in a call: FindPeer(token from metadata "devmem-token"), then PassSlab(token, handle, fd, deadline, [](absl::Status)
//   {...}).
//
// Owns one thread, on which `admit`, `gone` and what waits for a slab run: they must not block for long, and must not destroy
// the HandleSocket. `gone` runs exactly once for each peer that was admitted, also at destruction. FindPeer stops finding a
// peer before `gone` runs. A trainer that does not read holds up nobody: what it was not passed waits here, and no thread does.
// Threads: all methods are thread-safe; only SendSlab blocks its caller.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "service/unix_socket.h"

namespace devmem_loader::v1 {
class SlabHandle;
}

namespace devmem {

class HandleSocket {
 public:
  struct Peer {
    std::string token;  // 32 hexadecimal digits; a secret: never log it
    PeerCredentials credentials;
    std::vector<gid_t> groups;  // supplementary
  };
  struct Options {
    mode_t mode = 0660;
    std::optional<gid_t> group;
    size_t max_peers = 4096;
    size_t max_peers_of_user = 1024;  // so that no user can keep the others out
    // Whether this user may come in; the status's message is what a refused trainer reads. Empty: whoever may open the file.
    std::function<absl::Status(const PeerCredentials&)> admit;
    // The trainer closed its connection or died.
    std::function<void(const Peer&)> gone;
  };

  // kAlreadyExists if a living daemon serves `service_path`.
  static absl::StatusOr<std::unique_ptr<HandleSocket>> Create(std::string_view service_path, Options options);
  // On a socket that is there already; nobody is let in before Resume().
  static absl::StatusOr<std::unique_ptr<HandleSocket>> On(UnixListener listener, Options options);
  virtual ~HandleSocket() = default;

  // Lets nobody in from here on: who connects waits in the socket's backlog. Who is in stays.
  virtual void Pause() = 0;
  virtual void Resume() = 0;
  [[nodiscard]] virtual UnixListener& socket() = 0;  // to pass on while paused

  // kUnauthenticated if no connected trainer has this token.
  [[nodiscard]] virtual absl::StatusOr<Peer> FindPeer(std::string_view token) const = 0;

  // How passing a slab ended: OK, kUnauthenticated if the trainer is gone, kDeadlineExceeded if it does not read its socket,
  // kCancelled by CancelSlabs.
  using Passed = std::function<void(absl::Status)>;
  // Passes `fd` to the trainer. `passed` is called once: before this returns where the trainer has room for it, or cannot have
  // it; otherwise later, on the socket's thread or that of who cancels.
  virtual void PassSlab(std::string_view token, const devmem_loader::v1::SlabHandle& slab, UniqueFd fd, Time deadline,
                        Passed passed) = 0;
  // What of this stream was not passed to its trainer will not be.
  virtual void CancelSlabs(std::string_view token, std::string_view stream_id) = 0;
  // The same as PassSlab, and waits for it.
  [[nodiscard]] absl::Status SendSlab(std::string_view token, const devmem_loader::v1::SlabHandle& slab, int fd, Time deadline);

  [[nodiscard]] virtual size_t peers() const = 0;
};

}  // namespace devmem
