// SPDX-License-Identifier: Apache-2.0
// GrpcListener: accepts on the daemon's gRPC unix socket itself and hands each connection to gRPC, because gRPC
// accepting on its own would not say whose process is at the other end. So a call's uid can be compared with that of
// the token it carries, and a token stolen by another user is worth nothing.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto listener, GrpcListener::Create(path, {.mode = 0660}));
//   grpc::ServerBuilder builder;                       // no AddListeningPort
//   builder.RegisterService(&service);                 // holds the listener, asks CredentialsOf(context->peer())
//   auto server = builder.BuildAndStart();
//   listener->Serve(server.get());
//   ...
//   listener->Stop();                                  // before server->Shutdown(); or to Serve() again
//
// Owns the listening socket and one thread; gRPC owns the connections. Threads: CredentialsOf is thread-safe, the
// rest is for one thread. Ask CredentialsOf once, when a call begins.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/unix_socket.h"

namespace grpc {
class Server;
}

namespace devmem {

class GrpcListener {
 public:
  struct Options {
    mode_t mode = 0660;
    std::optional<gid_t> group;
    size_t max_connections_of_user = 1024;  // more are closed, so that no user can take the descriptors of the others
    std::function<absl::Status(const PeerCredentials&)> admit;  // not OK: the connection is closed. Empty: all.
  };

  // Binds and listens; connections wait until Serve. kAlreadyExists if a living daemon serves `path`.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Create(std::string_view path, Options options);
  // On a socket that is there already.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> On(UnixListener listener, Options options);
  virtual ~GrpcListener() = default;  // stops

  // Hands connections to `server` (borrowed until Stop).
  virtual void Serve(grpc::Server* server) = 0;
  // Who connects from here on waits in the socket's backlog.
  virtual void Stop() = 0;

  [[nodiscard]] virtual UnixListener& socket() = 0;  // to pass on while stopped

  // Whose connection a call came on, from its ServerContext's peer() ("fd:N"). kUnauthenticated for any other peer.
  [[nodiscard]] virtual absl::StatusOr<PeerCredentials> CredentialsOf(std::string_view grpc_peer) const = 0;
};

}  // namespace devmem
