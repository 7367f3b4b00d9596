// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/handle_connection.h"

#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"

namespace devmem {
namespace {

using devmem_loader::v1::HandlePacket;

constexpr uint32_t kProtocolVersion = 1;
constexpr size_t kMaxPacket = 4096;
constexpr Duration kLongestPoll = std::chrono::hours(1);

struct Packet {
  HandlePacket message;
  UniqueFd fd;
};

std::string GroupName(gid_t gid) {
  std::array<char, 4096> buffer;
  group entry{};
  group* found = nullptr;
  if (::getgrgid_r(gid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) return found->gr_name;
  return std::to_string(gid);
}

std::string UserName(uid_t uid) {
  std::array<char, 4096> buffer;
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) return found->pw_name;
  return std::to_string(uid);
}

absl::Status ConnectError(int error, const std::string& path) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
      return MakeError(absl::StatusCode::kUnavailable, "no daemon at " + path,
                       {.cause = error == ECONNREFUSED ? "its socket is there, but nobody listens" : "no such socket",
                        .action = "start devmem-loaderd, or pass --service"});
    case EACCES:
    case EPERM: {
      struct stat file {};
      if (::stat(path.c_str(), &file) != 0) {
        return MakeError(absl::StatusCode::kPermissionDenied, "may not reach " + path,
                         {.cause = "permission denied", .action = "ask for search permission on its directory"});
      }
      char mode[8];
      std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(file.st_mode & 07777));
      const std::string group = GroupName(file.st_gid);
      return MakeError(absl::StatusCode::kPermissionDenied,
                       "may not open " + path + ": mode " + mode + ", owner " + UserName(file.st_uid) + ", group " + group,
                       {.cause = "permission denied",
                        .action = (file.st_mode & S_IWGRP) != 0 ? "join group " + group
                                                                : "have the daemon started with a wider --socket-mode"});
    }
    case EAGAIN:
      return MakeError(absl::StatusCode::kUnavailable, "the daemon at " + path + " does not accept connections",
                       {.cause = "backlog full", .action = "look at the daemon's log"});
    default:
      return ErrnoError(error, "cannot connect to " + path);
  }
}

// The next packet; nothing once the daemon has closed the connection. Blocks.
absl::StatusOr<std::optional<Packet>> Receive(int socket) {
  std::array<char, kMaxPacket> bytes;
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  iovec iov{bytes.data(), bytes.size()};
  msghdr header{};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t length = 0;
  do {
    length = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length < 0 && errno != ECONNRESET) return ErrnoError(errno, "cannot read the handle socket");
  if (length <= 0) return std::optional<Packet>();
  Packet packet;
  std::vector<UniqueFd> fds;  // one is expected; any others are closed here
  for (const cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, const_cast<cmsghdr*>(part))) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  if ((header.msg_flags & MSG_CTRUNC) != 0 && fds.empty()) {
    return MakeError(absl::StatusCode::kResourceExhausted, "no file descriptor left for a slab",
                     {.cause = "out of file descriptors", .action = "raise this process's limit of open files (ulimit -n)"});
  }
  if (!fds.empty()) packet.fd = std::move(fds.front());
  if ((header.msg_flags & MSG_TRUNC) != 0 || !packet.message.ParseFromArray(bytes.data(), static_cast<int>(length))) {
    return MakeError(absl::StatusCode::kInternal, "unreadable packet on the handle socket",
                     {.action = "use a client and a daemon of the same release"});
  }
  return std::optional<Packet>(std::move(packet));
}

timeval ToTimeval(Duration duration) {
  const auto us = std::max<int64_t>(std::chrono::duration_cast<std::chrono::microseconds>(duration).count(), 1000);
  return {.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000};
}

}  // namespace

absl::StatusOr<std::unique_ptr<HandleConnection>> HandleConnection::Begin(const std::string& service_path, Time deadline) {
  const std::string path = service_path + ".fd";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return MakeError(absl::StatusCode::kInvalidArgument, "socket path too long: " + path,
                     {.action = "give a path of at most " + std::to_string(sizeof address.sun_path - 4) + " bytes"});
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  auto connection = std::unique_ptr<HandleConnection>(new HandleConnection);
  connection->service_path_ = service_path;
  connection->socket_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const int socket = connection->socket_.get();
  if (socket < 0) return ErrnoError(errno, "cannot make a socket");
  // A connect to a unix socket waits only for room in the backlog, and that as long as a send may.
  const timeval patience = ToTimeval(deadline - Clock::now());
  (void)::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  while (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EINTR) continue;
    // What the person gave is the gRPC socket's path, and only that one need be named if neither is there.
    return ConnectError(errno, errno == EACCES ? path : service_path);
  }
  return connection;
}

absl::StatusOr<bool> HandleConnection::AwaitHello(Time deadline) {
  const Time now = Clock::now();
  const int64_t left =
      deadline <= now ? 0
                      : std::chrono::ceil<std::chrono::milliseconds>(std::min<Duration>(deadline - now, kLongestPoll)).count();
  pollfd readable{socket_.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&readable, 1, static_cast<int>(left));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) return false;
  DEVMEM_ASSIGN_OR_RETURN(std::optional<Packet> packet, Receive(socket_.get()));
  if (!packet.has_value()) {
    return MakeError(absl::StatusCode::kUnavailable, "the daemon at " + service_path_ + " went away",
                     {.cause = "connection closed"});
  }
  if (packet->message.has_refused()) {
    const auto& refused = packet->message.refused();
    const auto code = static_cast<absl::StatusCode>(refused.code());
    return MakeErrorVerbatim(
        code == absl::StatusCode::kOk ? absl::StatusCode::kPermissionDenied : code,
        "the daemon at " + service_path_ + " refuses this process: " + refused.message(),
        {.object = refused.detail().object(), .cause = refused.detail().cause(), .action = refused.detail().action()});
  }
  const auto& hello = packet->message.hello();
  if (!packet->message.has_hello() || hello.version() != kProtocolVersion) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     "the daemon at " + service_path_ + " speaks version " + std::to_string(hello.version()) +
                         " of the handle protocol, this client version " + std::to_string(kProtocolVersion),
                     {.cause = "version mismatch", .action = "use a client and a daemon of the same release"});
  }
  token_ = hello.token();
  thread_ = std::thread([this] { ReadSlabs(); });
  return true;
}

HandleConnection::~HandleConnection() {
  if (!thread_.joinable()) return;
  (void)::shutdown(socket_.get(), SHUT_RDWR);  // ends the thread's recvmsg
  thread_.join();
}

bool HandleConnection::alive() const {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
  }
  pollfd state{socket_.get(), POLLRDHUP, 0};
  return ::poll(&state, 1, 0) == 0;
}

void HandleConnection::ReadSlabs() {
  while (true) {
    auto packet = Receive(socket_.get());
    std::lock_guard lock(mutex_);
    if (!packet.ok() && packet.status().code() == absl::StatusCode::kResourceExhausted) continue;  // its taker times out
    if (!packet.ok() || !packet->has_value()) {
      closed_ = true;
      changed_.notify_all();
      return;
    }
    Packet& received = **packet;
    if (!received.message.has_slab() || opening_ == 0) continue;
    auto& slab = *received.message.mutable_slab();
    slabs_.insert_or_assign(std::pair(slab.stream_id(), slab.slab()), Slab{slab, std::move(received.fd)});
    changed_.notify_all();
  }
}

void HandleConnection::BeginOpen() {
  std::lock_guard lock(mutex_);
  ++opening_;
}

void HandleConnection::EndOpen() {
  std::lock_guard lock(mutex_);
  if (--opening_ == 0) slabs_.clear();
}

absl::StatusOr<HandleConnection::Slab> HandleConnection::TakeSlab(const std::string& stream_id, uint32_t slab, Time deadline) {
  std::unique_lock lock(mutex_);
  auto found = slabs_.end();
  changed_.wait_until(lock, deadline, [&] {
    found = slabs_.find({stream_id, slab});
    return found != slabs_.end() || closed_;
  });
  if (found != slabs_.end()) {
    Slab taken = std::move(found->second);
    slabs_.erase(found);
    return taken;
  }
  if (closed_) {
    return MakeError(absl::StatusCode::kUnavailable, "the daemon at " + service_path_ + " went away",
                     {.cause = "connection closed"});
  }
  return MakeError(absl::StatusCode::kInternal, "slab " + std::to_string(slab) + " of the stream did not arrive",
                   {.cause = "slab missing", .action = "raise this process's limit of open files (ulimit -n) if it is near"});
}

}  // namespace devmem
