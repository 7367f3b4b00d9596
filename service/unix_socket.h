// SPDX-License-Identifier: Apache-2.0
// UnixListener: a listening unix socket that one daemon owns.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto listener, UnixListener::Listen(path, SOCK_STREAM, {.mode = 0660}));
//   while (true) { auto accepted = listener.Accept(); ... }   // non-blocking; poll listener.fd() for POLLIN
//
// Owns the socket, its file and the lock file beside it (PATH.lock, held by flock while the listener lives); both
// files go away with it. A file that a dead daemon left is replaced; a living one's is kAlreadyExists. Two that start
// at once cannot both win: what is done to the file is done under the lock.
//
// It can pass to another process, with whoever waits in its backlog and without a moment in which nobody listens:
//   old   parts = listener.Share();   ... send their descriptors ...   listener.Leave();
//   new   listener = UnixListener::Adopt(path, std::move(parts));      listener.Own(0660);
// Until Own() the other process may go on as if nothing had happened.
//
// A socket may also be lent by a service manager (systemd's LISTEN_FDS), which made its file and keeps both:
//   listener = UnixListener::Inherit(path, SOCK_STREAM, UniqueFd(3));
//
// Threads: Accept from one thread at a time.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace devmem {

// Who is at the other end of a unix socket, as the kernel says. The pid is 0 across pid namespaces.
struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  bool operator==(const PeerCredentials&) const = default;
};

[[nodiscard]] absl::StatusOr<PeerCredentials> CredentialsOfSocket(int fd);
// Its supplementary groups when it connected.
[[nodiscard]] absl::StatusOr<std::vector<gid_t>> GroupsOfSocket(int fd);

class UnixListener {
 public:
  struct Options {
    mode_t mode = 0660;          // who may connect: it takes the write bit
    std::optional<gid_t> group;  // of the file; the process's own otherwise
    int backlog = 512;
  };
  struct Accepted {
    UniqueFd fd;  // non-blocking, CLOEXEC; not valid when nobody waits
    // The process is out of descriptors and this connection took the one held back for that case: say so to
    // the peer, close it, and call Recover.
    bool last_resort = false;
    // Nothing could be accepted for want of descriptors: wait for some to be closed before polling again.
    bool starved = false;
  };

  // What another process needs to listen in our place; both are duplicates. The lock goes with the last of them.
  struct Parts {
    UniqueFd socket;
    UniqueFd lock;
    bool lent = false;  // the socket's file is the service manager's: never removed, its mode never changed
  };

  static absl::StatusOr<UnixListener> Listen(std::string_view path, int type, const Options& options);
  // Goes on with the parts of a listener of another process. Its files are at `path` here; until Own() they are not ours.
  // kInvalidArgument where a part is no such thing.
  static absl::StatusOr<UnixListener> Adopt(std::string_view path, int type, Parts parts);
  // Listens on what a service manager opened at `path` and listens on too: who connects while no daemon runs waits there.
  // kInvalidArgument where it is no such socket, kAlreadyExists if a living daemon serves `path`.
  static absl::StatusOr<UnixListener> Inherit(std::string_view path, int type, UniqueFd socket);
  [[nodiscard]] absl::StatusOr<Parts> Share() const;
  // The files are ours from here on: to remove at the end, and in our name and with our mode until then. (Of a lent socket
  // the lock alone.)
  void Own(mode_t mode);
  // They are another's: nothing is removed at the end.
  void Leave();
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool lent() const { return lent_; }  // Parts::lent
  [[nodiscard]] Accepted Accept();
  void Recover();

 private:
  UnixListener() = default;

  std::string path_;
  UniqueFd lock_;
  UniqueFd socket_;
  UniqueFd reserve_;
  bool ours_ = false;  // to remove the files at the end
  bool lent_ = false;  // but not the socket's
  dev_t device_ = 0;   // of the socket's file, so that another's is not removed at the end
  ino_t inode_ = 0;
};

}  // namespace devmem
