// SPDX-License-Identifier: Apache-2.0
// Session: one life of a daemon as a client sees it — a handle connection, its token, and a gRPC channel. When the daemon
// dies, the session is over and a new one is made. Thread-safe.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "client/cpp/handle_connection.h"
#include "devmem_loader/v1/loader.grpc.pb.h"

namespace devmem {

class Session {
 public:
  // Takes over a connection that has had its hello.
  static std::shared_ptr<Session> Over(std::unique_ptr<HandleConnection> handles, const std::string& service_path);

  [[nodiscard]] HandleConnection& handles() { return *handles_; }
  [[nodiscard]] devmem_loader::v1::Loader::Stub& stub() { return *stub_; }
  // Puts the token into a call's metadata.
  void Authorize(grpc::ClientContext& context) const;
  // Tells the daemon, if it lives, that this process has nothing of the stream any more, and waits until nothing is left of it
  // there; until `deadline` at most. A daemon that does not know this call keeps the slab of a failed stream while the
  // connection lives.
  void ReleaseStream(const std::string& stream_id, Time deadline);

 private:
  Session() = default;
  std::unique_ptr<HandleConnection> handles_;
  std::unique_ptr<devmem_loader::v1::Loader::Stub> stub_;
};

// `deadline` for gRPC's functions.
[[nodiscard]] gpr_timespec ToGrpcDeadline(Time deadline);

}  // namespace devmem
