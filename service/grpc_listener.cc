// SPDX-License-Identifier: Apache-2.0
// gRPC names a connection it was given "fd:N". The credentials of N are noted here before gRPC gets it, and looked up by
// N when a call begins. What can go wrong is a connection that dies between: gRPC closes N, the next connection gets the
// same number, and a call still on its way from the dead one would be taken for the new one's. That is harmless where
// both are the same user's; so a number passes to another user only after kQuarantine, far longer than gRPC takes to
// begin a call, and until then that user's connections are moved to other numbers.
//
// gRPC does not say when it closes one, so how many a user has is counted when it matters: a number still is the connection it
// was given for if the socket on it has the same inode.
#include "service/grpc_listener.h"

#include <fcntl.h>
#include <grpcpp/server.h>
#include <grpcpp/server_posix.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace devmem {
namespace {

constexpr Duration kQuarantine = std::chrono::seconds(60);
constexpr int kStarvedPauseMs = 200;

class GrpcListenerImpl final : public GrpcListener {
 public:
  GrpcListenerImpl(UnixListener listener, Options options, UniqueFd stop)
      : listener_(std::move(listener)), options_(std::move(options)), stop_(std::move(stop)) {}
  ~GrpcListenerImpl() override { Stop(); }

  void Serve(grpc::Server* server) override {
    thread_ = std::thread([this, server] { Run(server); });
  }

  void Stop() override {
    if (!thread_.joinable()) return;
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
    uint64_t written = 0;
    (void)!::read(stop_.get(), &written, sizeof written);
  }

  UnixListener& socket() override { return listener_; }

  absl::StatusOr<PeerCredentials> CredentialsOf(std::string_view grpc_peer) const override {
    constexpr std::string_view kPrefix = "fd:";
    size_t fd = 0;
    const char* end = grpc_peer.data() + grpc_peer.size();
    if (grpc_peer.substr(0, kPrefix.size()) == kPrefix) {
      auto [rest, error] = std::from_chars(grpc_peer.data() + kPrefix.size(), end, fd);
      std::lock_guard lock(mutex_);
      if (error == std::errc() && rest == end && fd < owners_.size() && owners_[fd].known) return owners_[fd].credentials;
    }
    return MakeError(absl::StatusCode::kUnauthenticated, "the call did not come through the daemon's socket",
                     {.object = listener_.path(), .cause = "unknown connection"});
  }

 private:
  struct Owner {
    bool known = false;
    PeerCredentials credentials;
    ino_t inode = 0;            // of the socket
    std::optional<Time> freed;  // when the number was first seen free for another user
  };

  void Run(grpc::Server* server) {
    bool paused = false;
    while (true) {
      pollfd watched[2] = {{stop_.get(), POLLIN, 0}, {listener_.fd(), POLLIN, 0}};
      const int ready = ::poll(watched, paused ? 1 : 2, paused ? kStarvedPauseMs : -1);
      if (ready < 0 && errno != EINTR) return;
      if (watched[0].revents != 0) return;
      while (true) {
        UnixListener::Accepted accepted = listener_.Accept();
        paused = accepted.starved;
        if (!accepted.fd.valid()) break;
        if (!accepted.last_resort) HandOver(server, std::move(accepted.fd));
        accepted.fd.Reset();
        listener_.Recover();
      }
    }
  }

  void HandOver(grpc::Server* server, UniqueFd socket) {
    auto credentials = CredentialsOfSocket(socket.get());
    if (!credentials.ok()) return;
    if (options_.admit && !options_.admit(*credentials).ok()) return;
    if (TooMany(credentials->uid)) return;
    UniqueFd placed = Place(std::move(socket), *credentials);
    if (placed.valid()) grpc::AddInsecureChannelFromFd(server, placed.Release());
  }

  // At most as many as were handed over since the last count, so it is a look at a map as a rule.
  bool TooMany(uid_t uid) {
    size_t& count = of_user_[uid];
    if (count >= options_.max_connections_of_user) {
      std::lock_guard lock(mutex_);
      count = 0;
      for (size_t fd = 0; fd < owners_.size(); ++fd) {
        const Owner& owner = owners_[fd];
        if (owner.known && owner.credentials.uid == uid && owner.inode == InodeOf(static_cast<int>(fd))) ++count;
      }
      if (count >= options_.max_connections_of_user) return true;
    }
    ++count;
    return false;
  }

  static ino_t InodeOf(int fd) {
    struct stat there {};
    return ::fstat(fd, &there) == 0 ? there.st_ino : 0;
  }

  // `socket`, on a number that no other user's connection had a moment ago.
  UniqueFd Place(UniqueFd socket, const PeerCredentials& credentials) {
    std::lock_guard lock(mutex_);
    const Time now = Clock::now();
    while (socket.valid()) {
      const auto number = static_cast<size_t>(socket.get());
      if (number >= owners_.size()) owners_.resize(number + 1);
      Owner& owner = owners_[number];
      if (!owner.freed.has_value()) owner.freed = now;
      if (!owner.known || owner.credentials.uid == credentials.uid || now - *owner.freed >= kQuarantine) {
        owner = {.known = true, .credentials = credentials, .inode = InodeOf(socket.get()), .freed = std::nullopt};
        return socket;
      }
      UniqueFd moved(::fcntl(socket.get(), F_DUPFD_CLOEXEC, socket.get() + 1));
      socket = std::move(moved);
    }
    return socket;
  }

  UnixListener listener_;
  const Options options_;
  const UniqueFd stop_;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::unordered_map<uid_t, size_t> of_user_;  // connections, at most; the thread's own
  std::vector<Owner> owners_;                  // by number; at most as many as descriptors were ever open at once
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Create(std::string_view path, Options options) {
  DEVMEM_ASSIGN_OR_RETURN(UnixListener listener,
                          UnixListener::Listen(path, SOCK_STREAM, {.mode = options.mode, .group = options.group}));
  return On(std::move(listener), std::move(options));
}

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::On(UnixListener listener, Options options) {
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.valid()) return ErrnoError(errno, "eventfd", {.object = listener.path()});
  return std::make_unique<GrpcListenerImpl>(std::move(listener), std::move(options), std::move(stop));
}

}  // namespace devmem
