// SPDX-License-Identifier: Apache-2.0
// How one daemon comes to own a path:
//   1. open PATH.lock and flock it; if the file was replaced meanwhile (its owner removed it on exit), start over
//   2. connect to PATH: an answer means a living daemon that lost its lock file, ECONNREFUSED a dead one's remains
//   3. remove the remains, bind, set group and mode, listen — all under the lock, which is kept while we live.
#include "service/unix_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, "not a usable socket path",
        {.object = path, .action = "give a path of 1 to " + std::to_string(sizeof address.sun_path - 1) + " bytes"});
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

absl::Status Occupied(const std::string& path, const std::string& pid) {
  return MakeError(absl::StatusCode::kAlreadyExists,
                   "another daemon serves " + path + (pid.empty() ? "" : " (pid " + pid + ")"),
                   {.object = path, .cause = "socket in use", .action = "stop it, or give this one another --socket"});
}

std::string ReadPid(int fd) {
  char text[24] = {};
  const ssize_t length = ::pread(fd, text, sizeof text - 1, 0);
  std::string pid(text, length > 0 ? static_cast<size_t>(length) : 0);
  return pid.substr(0, pid.find_first_not_of("0123456789"));
}

// Only for another daemon's error message, so a full disk is no reason to fail.
void WritePid(int fd) {
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0) (void)!::ftruncate(fd, 0);
}

absl::StatusOr<UniqueFd> TakeLock(const std::string& path) {
  const std::string lock_path = path + ".lock";
  constexpr int kAttempts = 100;  // each lost to a daemon that ended in just this moment
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!lock.valid()) {
      const int error = errno;
      return ErrnoError(error, "cannot create the lock file",
                        {.object = lock_path,
                         .action = error == ENOENT ? "create the directory" : "make the directory writable for the daemon"});
    }
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return ErrnoError(errno, "cannot lock", {.object = lock_path});
      return Occupied(path, ReadPid(lock.get()));
    }
    struct stat ours {
    }, there{};
    if (::fstat(lock.get(), &ours) == 0 && ::stat(lock_path.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev) {
      WritePid(lock.get());
      return lock;
    }
  }
  return MakeError(absl::StatusCode::kAborted, "the lock file keeps changing", {.object = lock_path});
}

// Removes what a dead daemon left at `path`; anything else there is an error.
absl::Status RemoveRemains(const std::string& path, const sockaddr_un& address, int type) {
  struct stat there {};
  if (::lstat(path.c_str(), &there) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoError(errno, "cannot look at the socket", {.object = path});
  }
  if (!S_ISSOCK(there.st_mode)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "not a socket",
                     {.object = path, .action = "move the file away, or give another --socket"});
  }
  UniqueFd probe(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe.valid()) return ErrnoError(errno, "cannot make a socket", {.object = path});
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    auto peer = CredentialsOfSocket(probe.get());  // of the process that called listen()
    return Occupied(path, peer.ok() && peer->pid != 0 ? std::to_string(peer->pid) : "");
  }
  switch (errno) {
    case ECONNREFUSED:
      break;
    case EAGAIN:      // its backlog is full
    case EPROTOTYPE:  // it is of another type
      return Occupied(path, "");
    default:
      return ErrnoError(errno, "cannot tell whether a daemon serves this socket", {.object = path});
  }
  if (::unlink(path.c_str()) != 0) return ErrnoError(errno, "cannot remove a dead daemon's socket", {.object = path});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PeerCredentials> CredentialsOfSocket(int fd) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return ErrnoError(errno, "SO_PEERCRED");
  return PeerCredentials{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid};
}

absl::StatusOr<std::vector<gid_t>> GroupsOfSocket(int fd) {
  std::vector<gid_t> groups(32);
  while (true) {
    auto length = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    const int result = ::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length);
    const int error = errno;
    groups.resize(length / sizeof(gid_t));  // also on ERANGE: what it takes
    if (result == 0) return groups;
    if (error != ERANGE) return ErrnoError(error, "SO_PEERGROUPS");
  }
}

absl::StatusOr<UnixListener> UnixListener::Listen(std::string_view path, int type, const Options& options) {
  UnixListener listener;
  listener.path_ = path;
  const std::string& name = listener.path_;
  DEVMEM_ASSIGN_OR_RETURN(const sockaddr_un address, Address(name));
  DEVMEM_ASSIGN_OR_RETURN(UniqueFd lock, TakeLock(name));
  // Until the socket is ours, a failure must take the lock file away again, and only that.
  auto made = [&]() -> absl::StatusOr<UniqueFd> {
    DEVMEM_RETURN_IF_ERROR(RemoveRemains(name, address, type));
    UniqueFd socket(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.valid()) return ErrnoError(errno, "cannot make a socket", {.object = name});
    // The file is born with the socket's mode: at no moment may more people connect than in the end.
    if (::fchmod(socket.get(), 0600 & options.mode) != 0) return ErrnoError(errno, "fchmod", {.object = name});
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return ErrnoError(errno, "cannot bind", {.object = name});
    }
    absl::Status dressed = [&]() -> absl::Status {
      if (options.group.has_value() && ::lchown(name.c_str(), static_cast<uid_t>(-1), *options.group) != 0) {
        return ErrnoError(errno, "cannot give the socket to group " + std::to_string(*options.group), {.object = name});
      }
      if (::chmod(name.c_str(), options.mode) != 0) return ErrnoError(errno, "cannot set the mode", {.object = name});
      struct stat there {};
      if (::lstat(name.c_str(), &there) != 0) return ErrnoError(errno, "cannot look at the socket", {.object = name});
      listener.device_ = there.st_dev;
      listener.inode_ = there.st_ino;
      if (::listen(socket.get(), options.backlog) != 0) return ErrnoError(errno, "cannot listen", {.object = name});
      return absl::OkStatus();
    }();
    if (!dressed.ok()) {
      ::unlink(name.c_str());
      return dressed;
    }
    return socket;
  }();
  if (!made.ok()) {
    ::unlink((name + ".lock").c_str());
    return made.status();
  }
  listener.lock_ = std::move(lock);
  listener.socket_ = *std::move(made);
  listener.ours_ = true;
  listener.Recover();
  return listener;
}

absl::StatusOr<UnixListener> UnixListener::Adopt(std::string_view path, int type, Parts parts) {
  int is_type = 0, listens = 0;
  sockaddr_un address{};
  socklen_t length = sizeof is_type, length2 = sizeof listens, length3 = sizeof address;
  struct stat lock {};
  if (::getsockopt(parts.socket.get(), SOL_SOCKET, SO_TYPE, &is_type, &length) != 0 || is_type != type ||
      ::getsockopt(parts.socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length2) != 0 || listens == 0 ||
      ::getsockname(parts.socket.get(), reinterpret_cast<sockaddr*>(&address), &length3) != 0 ||
      address.sun_family != AF_UNIX || ::fstat(parts.lock.get(), &lock) != 0 || !S_ISREG(lock.st_mode)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "what was handed over is no listening socket with its lock",
                     {.object = std::string(path), .cause = "bad listener", .action = "restart without --take-over"});
  }
  UnixListener listener;
  listener.path_ = path;
  struct stat there {};
  if (::lstat(listener.path_.c_str(), &there) == 0) {
    listener.device_ = there.st_dev;
    listener.inode_ = there.st_ino;
  }
  listener.socket_ = std::move(parts.socket);
  listener.lock_ = std::move(parts.lock);
  listener.lent_ = parts.lent;
  listener.Recover();
  return listener;
}

absl::StatusOr<UnixListener> UnixListener::Inherit(std::string_view path, int type, UniqueFd socket) {
  const std::string name(path);
  // The lock all the same: a daemon that somebody starts by hand on this path finds it taken.
  DEVMEM_ASSIGN_OR_RETURN(UniqueFd lock, TakeLock(name));
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags >= 0) (void)::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK);
  (void)::fcntl(socket.get(), F_SETFD, FD_CLOEXEC);
  auto listener = Adopt(path, type, {.socket = std::move(socket), .lock = std::move(lock), .lent = true});
  if (!listener.ok()) {
    ::unlink((name + ".lock").c_str());
    return MakeError(
        absl::StatusCode::kInvalidArgument, "the service manager's socket is none to serve on",
        {.object = name, .cause = "bad listener", .action = "see the unit's ListenStream= and ListenSequentialPacket="});
  }
  listener->Own(0);
  return listener;
}

absl::StatusOr<UnixListener::Parts> UnixListener::Share() const {
  Parts parts{.socket = UniqueFd(::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0)),
              .lock = UniqueFd(::fcntl(lock_.get(), F_DUPFD_CLOEXEC, 0)),
              .lent = lent_};
  if (!parts.socket.valid() || !parts.lock.valid()) return ErrnoError(errno, "duplicating a listener", {.object = path_});
  return parts;
}

void UnixListener::Own(mode_t mode) {
  ours_ = true;
  struct stat there {};
  if (!lent_ && ::lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ && there.st_ino == inode_) {
    ::chmod(path_.c_str(), mode);
  }
  WritePid(lock_.get());
  // Who connects is told who called listen() last. The backlog stays as it was.
  (void)::listen(socket_.get(), Options{}.backlog);
}

void UnixListener::Leave() { ours_ = false; }

UnixListener::~UnixListener() {
  if (!socket_.valid() || !ours_) return;
  struct stat there {};
  if (!lent_ && ::lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ && there.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  socket_.Reset();
  ::unlink((path_ + ".lock").c_str());  // while it is locked: who opened it before sees that it was replaced
}

UnixListener::Accepted UnixListener::Accept() {
  Accepted accepted;
  while (true) {
    accepted.fd = UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted.fd.valid()) return accepted;
    switch (errno) {
      case EINTR:
      case ECONNABORTED:
        continue;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        if (!reserve_.valid()) {
          accepted.starved = true;
          return accepted;
        }
        reserve_.Reset();
        accepted.last_resort = true;
        continue;
      default:
        return accepted;
    }
  }
}

void UnixListener::Recover() {
  if (!reserve_.valid()) reserve_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

}  // namespace devmem
