// SPDX-License-Identifier: Apache-2.0
// PrivateDaemon: a daemon in this process, on a socket in a folder that only this user can enter. What the CLI reads
// through when it is given no --service; everything else is as with a daemon of its own.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto daemon, PrivateDaemon::Start(options));
//   Client::Connect(daemon->socket(), {});
//
// Owns the folder and removes it with itself; RemoveFolder() does that alone, for an exit that skips destructors.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/daemon.h"

namespace devmem::cli {

class PrivateFolder {
 public:
  // Below $XDG_RUNTIME_DIR, else $TMPDIR, else /tmp: the first that may be written and where a socket's path is not too
  // long; mode 0700.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<PrivateFolder>> Make();
  ~PrivateFolder() { Remove(); }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string socket() const { return path_ + kSocket; }
  void Remove();

 private:
  static constexpr const char* kSocket = "/loader.sock";
  explicit PrivateFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

class PrivateDaemon {
 public:
  // options.socket and socket_mode are ours to choose.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<PrivateDaemon>> Start(DaemonOptions options);

  [[nodiscard]] std::string socket() const { return folder_->socket(); }
  [[nodiscard]] Daemon& daemon() { return *daemon_; }
  void RemoveFolder() { folder_->Remove(); }

 private:
  PrivateDaemon() = default;
  std::unique_ptr<PrivateFolder> folder_;  // goes after the daemon
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace devmem::cli
