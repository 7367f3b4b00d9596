// SPDX-License-Identifier: Apache-2.0
// HandleConnection: the trainer's end of the handle socket (handle_socket.proto). While it lives the daemon keeps this
// process's streams; it gives the token and the slabs' file descriptors.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto handles, HandleConnection::Begin("/run/devmem-loader/loader.sock", deadline));
//   DEVMEM_ASSIGN_OR_RETURN(bool open, handles->AwaitHello(deadline));  // false: not yet, ask again
//   context.AddMetadata("devmem-token", handles->token());
//   DEVMEM_ASSIGN_OR_RETURN(auto slab, handles->TakeSlab(opened.stream_id(), 0, deadline));
//
// Owns the connection and a thread that empties it: the daemon sends slabs before it answers OpenStream, and must not
// wait for us. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "devmem_loader/v1/handle_socket.pb.h"

namespace devmem {

class HandleConnection {
 public:
  struct Slab {
    devmem_loader::v1::SlabHandle handle;
    UniqueFd fd;
  };

  // Connects. `service_path` is the gRPC socket's. kUnavailable if no daemon listens, kPermissionDenied if this user may not
  // connect.
  static absl::StatusOr<std::unique_ptr<HandleConnection>> Begin(const std::string& service_path, Time deadline);
  // Waits for the daemon's hello, before which nothing else may be called: true when it is there, false at the deadline (it
  // may be asked again). kPermissionDenied if the daemon refuses this process, kUnavailable if it goes away.
  [[nodiscard]] absl::StatusOr<bool> AwaitHello(Time deadline);
  ~HandleConnection();

  [[nodiscard]] const std::string& token() const { return token_; }
  // False once the daemon is gone.
  [[nodiscard]] bool alive() const;

  // Slabs that come while no OpenStream is under way belong to nobody: between these two they are kept, and what
  // nobody has taken at the last EndOpen is closed.
  void BeginOpen();
  void EndOpen();
  [[nodiscard]] absl::StatusOr<Slab> TakeSlab(const std::string& stream_id, uint32_t slab, Time deadline);

 private:
  HandleConnection() = default;
  void ReadSlabs();

  std::string service_path_;
  std::string token_;
  UniqueFd socket_;
  std::thread thread_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  int opening_ = 0;
  std::map<std::pair<std::string, uint32_t>, Slab> slabs_;
};

}  // namespace devmem
