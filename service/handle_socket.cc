// SPDX-License-Identifier: Apache-2.0
// One thread, one epoll set: the listener, an eventfd that ends it, and per peer its connection and, where the kernel
// has one, a pidfd. The pidfd matters when a trainer forked: its children hold the connection open after its death.
//
// Accepting never spins when descriptors run out: the connection accepted on the reserve is told so and closed; when even
// the reserve is gone the listener leaves the epoll set until a peer goes, or for kStarvedPause.
//
// A slab that its trainer has no room for waits in the trainer's queue until its connection can be written to, its deadline
// comes, it is cancelled, or the trainer goes. The connection's send buffer is small: what lies in it are descriptors that the
// kernel counts against the daemon's user, so that one trainer that reads nothing must not use up everybody's.
#include "service/handle_socket.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "client/cpp/rpc_error.h"
#include "devmem_loader/v1/handle_socket.pb.h"

namespace devmem {
namespace {

using devmem_loader::v1::HandlePacket;

constexpr uint32_t kProtocolVersion = 1;
constexpr size_t kMaxPacket = 4096;
constexpr size_t kTokenDigits = 32;
constexpr int kStarvedPauseMs = 200;
constexpr int kSendBuffer = 16 << 10;  // some dozens of packets
constexpr uint64_t kListenerKey = 0;
constexpr uint64_t kStopKey = 1;
constexpr uint64_t kWakeKey = 2;
constexpr uint64_t kFirstPeerKey = 3;

absl::StatusOr<std::string> NewToken() {
  std::array<unsigned char, kTokenDigits / 2> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return ErrnoError(errno, "getrandom");
  std::string token;
  for (unsigned char byte : bytes) {
    token += "0123456789abcdef"[byte >> 4];
    token += "0123456789abcdef"[byte & 15];
  }
  return token;
}

bool EqualInConstantTime(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

absl::Status NotConnected() {
  return MakeError(absl::StatusCode::kUnauthenticated, "no trainer with this token is connected to the handle socket",
                   {.cause = "unknown token", .action = "connect to the handle socket first and keep the connection open"});
}

// One packet, with `fd` riding on it unless negative. Returns errno, or 0.
int SendPacket(int socket, const std::string& packet, int fd) {
  iovec iov{const_cast<char*>(packet.data()), packet.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  while (::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

class HandleSocketImpl final : public HandleSocket {
 public:
  HandleSocketImpl(UnixListener listener, Options options, UniqueFd epoll, UniqueFd stop, UniqueFd wake)
      : listener_(std::move(listener)),
        options_(std::move(options)),
        epoll_(std::move(epoll)),
        stop_(std::move(stop)),
        wake_(std::move(wake)) {}

  absl::Status Start() {
    if (!Watch(stop_.get(), EPOLLIN, kStopKey) || !Watch(wake_.get(), EPOLLIN, kWakeKey))
      return ErrnoError(errno, "epoll_ctl", {.object = listener_.path()});
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  ~HandleSocketImpl() override {
    if (!thread_.joinable()) return;
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
    while (!by_key_.empty()) Remove(by_key_.begin()->first);
  }

  void Pause() override {
    std::lock_guard lock(accepting_mutex_);
    open_ = false;
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_.fd(), nullptr);
  }

  void Resume() override {
    std::lock_guard lock(accepting_mutex_);
    if (std::exchange(open_, true)) return;
    starved_ = !Watch(listener_.fd(), EPOLLIN, kListenerKey);
  }

  UnixListener& socket() override { return listener_; }

  absl::StatusOr<Peer> FindPeer(std::string_view token) const override {
    auto connection = Find(token);
    if (connection == nullptr) return NotConnected();
    return connection->peer;
  }

  void PassSlab(std::string_view token, const devmem_loader::v1::SlabHandle& slab, UniqueFd fd, Time deadline,
                Passed passed) override {
    HandlePacket packet;
    *packet.mutable_slab() = slab;
    std::string bytes = packet.SerializeAsString();
    if (bytes.size() > kMaxPacket) return passed(MakeError(absl::StatusCode::kInternal, "handle packet too long", {}));
    const std::shared_ptr<Connection> connection = Find(token);
    if (connection == nullptr) return passed(NotConnected());
    absl::Status status;
    {
      std::lock_guard lock(sending_mutex_);
      if (connection->gone) {
        status = NotConnected();
      } else if (const int error = connection->unsent.empty() ? SendPacket(connection->socket.get(), bytes, fd.get()) : EAGAIN;
                 error != EAGAIN) {
        status = StatusOfSend(error);
      } else {
        connection->unsent.push_back({slab.stream_id(), std::move(bytes), std::move(fd), deadline, std::move(passed)});
        if (waiting_.insert(connection).second) AskForRoom(*connection, true);
        const uint64_t one = 1;
        (void)!::write(wake_.get(), &one, sizeof one);  // its deadline may be the next
        return;
      }
    }
    passed(std::move(status));
  }

  void CancelSlabs(std::string_view token, std::string_view stream_id) override {
    if (const std::shared_ptr<Connection> connection = Find(token); connection != nullptr) {
      Drop(
          connection, [&](const Unsent& unsent) { return unsent.stream_id == stream_id; },
          absl::CancelledError("the stream ended before its slab was passed to the trainer"));
    }
  }

  size_t peers() const override {
    std::lock_guard lock(mutex_);
    return by_token_.size();
  }

 private:
  struct Unsent {
    std::string stream_id;
    std::string bytes;
    UniqueFd fd;
    Time deadline;
    Passed passed;
  };
  struct Connection {
    Peer peer;
    uint64_t key = 0;
    UniqueFd socket;  // closed by the last user, so that its number is not another's while PassSlab uses it
    UniqueFd pidfd;
    std::deque<Unsent> unsent;  // guarded by sending_mutex_
    bool gone = false;          // guarded by sending_mutex_
  };

  static absl::Status StatusOfSend(int error) {
    switch (error) {
      case 0:
        return absl::OkStatus();
      case EPIPE:
      case ECONNRESET:
      case ENOTCONN:
        return NotConnected();
      case ETOOMANYREFS:
        return MakeError(absl::StatusCode::kResourceExhausted, "too many descriptors on their way to trainers",
                         {.cause = "ETOOMANYREFS", .action = "raise the daemon's limit of open files (LimitNOFILE)"});
      default:
        return ErrnoError(error, "cannot pass a slab to the trainer");
    }
  }

  static absl::Status DoesNotRead() {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "the trainer does not read its handle socket",
                     {.cause = "handle socket full", .action = "read slab packets while OpenStream is under way"});
  }

  // Whether to hear when its socket can be written to. sending_mutex_ held.
  void AskForRoom(const Connection& connection, bool ask) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLRDHUP | (ask ? EPOLLOUT : 0U);
    event.data.u64 = connection.key;
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.socket.get(), &event);
  }

  // Takes those that `which` says out of its queue, and tells who waits for them.
  template <typename Which>
  void Drop(const std::shared_ptr<Connection>& connection, const Which& which, const absl::Status& why) {
    std::vector<Unsent> dropped;
    {
      std::lock_guard lock(sending_mutex_);
      std::deque<Unsent> kept;
      for (Unsent& unsent : connection->unsent) {
        if (which(unsent)) {
          dropped.push_back(std::move(unsent));
        } else {
          kept.push_back(std::move(unsent));
        }
      }
      connection->unsent = std::move(kept);
      if (connection->unsent.empty() && waiting_.erase(connection) > 0) AskForRoom(*connection, false);
    }
    for (const Unsent& unsent : dropped) unsent.passed(why);
  }

  // It can be written to.
  void SendMore(uint64_t key) {
    std::shared_ptr<Connection> connection;
    {
      std::lock_guard lock(mutex_);
      const auto found = by_key_.find(key);
      if (found == by_key_.end()) return;
      connection = found->second;
    }
    std::vector<std::pair<Passed, absl::Status>> ended;
    {
      std::lock_guard lock(sending_mutex_);
      while (!connection->unsent.empty()) {
        Unsent& next = connection->unsent.front();
        const int error = SendPacket(connection->socket.get(), next.bytes, next.fd.get());
        if (error == EAGAIN) break;
        ended.emplace_back(std::move(next.passed), StatusOfSend(error));
        connection->unsent.pop_front();
      }
      if (connection->unsent.empty() && waiting_.erase(connection) > 0) AskForRoom(*connection, false);
    }
    for (const auto& [passed, status] : ended) passed(status);
  }

  // Gives up what is late. How long until the next deadline, as for epoll_wait; -1: there is none.
  int DropLate() {
    const Time now = Clock::now();
    Time next = Time::max();
    std::vector<std::shared_ptr<Connection>> late;
    {
      std::lock_guard lock(sending_mutex_);
      for (const auto& connection : waiting_) {
        Time first = Time::max();
        for (const Unsent& unsent : connection->unsent) first = std::min(first, unsent.deadline);
        if (first <= now) late.push_back(connection);
        next = std::min(next, first);
      }
    }
    for (const auto& connection : late) {
      Drop(
          connection, [now](const Unsent& unsent) { return unsent.deadline <= now; }, DoesNotRead());
    }
    if (!late.empty()) return 0;  // look again
    if (next == Time::max()) return -1;
    return static_cast<int>(std::clamp<int64_t>(std::chrono::ceil<std::chrono::milliseconds>(next - now).count(), 0, 60'000));
  }

  // Hash of a token: it is random already. What an attacker could learn from the time of a lookup ends with these 64 bits.
  struct TokenHash {
    size_t operator()(const std::string& token) const {
      uint64_t prefix = 0;
      std::memcpy(&prefix, token.data(), std::min(token.size(), sizeof prefix));
      return prefix;
    }
  };
  struct TokenEqual {
    bool operator()(const std::string& a, const std::string& b) const { return EqualInConstantTime(a, b); }
  };

  bool Watch(int fd, uint32_t events, uint64_t key) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = key;
    return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
  }

  std::shared_ptr<Connection> Find(std::string_view token) const {
    if (token.size() != kTokenDigits) return nullptr;
    std::lock_guard lock(mutex_);
    auto found = by_token_.find(std::string(token));
    return found == by_token_.end() ? nullptr : found->second;
  }

  void Run() {
    std::array<epoll_event, 64> events;
    while (true) {
      int patience = DropLate();
      if (starved_) patience = patience < 0 ? kStarvedPauseMs : std::min(patience, kStarvedPauseMs);
      const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), patience);
      if (count < 0 && errno != EINTR) return;
      bool resume = count == 0;
      for (int i = 0; i < count; ++i) {
        const uint64_t key = events[static_cast<size_t>(i)].data.u64;
        if (key == kStopKey) return;
        if (key == kListenerKey) {
          AcceptAll();
        } else if (key == kWakeKey) {
          uint64_t count_of_wakes = 0;
          (void)!::read(wake_.get(), &count_of_wakes, sizeof count_of_wakes);
        } else if (events[static_cast<size_t>(i)].events == EPOLLOUT) {
          SendMore(key);
        } else {
          // A trainer has nothing to say on this socket: bytes from it end the connection just as its closing does.
          Remove(key);
          resume = true;
        }
      }
      if (starved_ && resume) {
        std::lock_guard lock(accepting_mutex_);
        if (open_) starved_ = !Watch(listener_.fd(), EPOLLIN, kListenerKey);
        listener_.Recover();
      }
    }
  }

  void AcceptAll() {
    std::lock_guard lock(accepting_mutex_);
    while (open_) {
      UnixListener::Accepted accepted = listener_.Accept();
      if (accepted.starved) {
        (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_.fd(), nullptr);
        starved_ = true;
        return;
      }
      if (!accepted.fd.valid()) return;
      if (accepted.last_resort) {
        Refuse(accepted.fd,
               MakeError(absl::StatusCode::kResourceExhausted, "the daemon is out of file descriptors",
                         {.cause = "file descriptors", .action = "raise its limit (LimitNOFILE), or open fewer streams"}));
        accepted.fd.Reset();
        listener_.Recover();
        continue;
      }
      absl::Status welcome = Welcome(accepted.fd);
      if (!welcome.ok()) Refuse(accepted.fd, welcome);
    }
  }

  // Takes the socket only if the peer is admitted.
  absl::Status Welcome(UniqueFd& socket) {
    auto connection = std::make_shared<Connection>();
    DEVMEM_ASSIGN_OR_RETURN(connection->peer.credentials, CredentialsOfSocket(socket.get()));
    if (options_.admit) DEVMEM_RETURN_IF_ERROR(options_.admit(connection->peer.credentials));
    if (peers() >= options_.max_peers) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       "the daemon serves " + std::to_string(options_.max_peers) + " trainers already",
                       {.cause = "trainers", .action = "end one that is not needed, or try again later"});
    }
    const uid_t uid = connection->peer.credentials.uid;
    if (of_user_[uid] >= options_.max_peers_of_user) {
      return MakeError(
          absl::StatusCode::kResourceExhausted,
          "the daemon serves " + std::to_string(of_user_[uid]) + " trainers of uid " + std::to_string(uid) + " already",
          {.cause = "trainers of a user", .action = "end one that is not needed, or try again later"});
    }
    DEVMEM_ASSIGN_OR_RETURN(connection->peer.groups, GroupsOfSocket(socket.get()));
    DEVMEM_ASSIGN_OR_RETURN(connection->peer.token, NewToken());
    const pid_t pid = connection->peer.credentials.pid;
#ifdef SYS_pidfd_open
    if (pid > 0) connection->pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
#endif
    HandlePacket hello;
    hello.mutable_hello()->set_version(kProtocolVersion);
    hello.mutable_hello()->set_token(connection->peer.token);

    // The peer can be found before it can know its token.
    const uint64_t key = connection->key = next_key_++;
    const int fd = socket.get();
    (void)::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
    connection->socket = std::move(socket);
    {
      std::lock_guard lock(mutex_);
      by_token_.emplace(connection->peer.token, connection);
      by_key_.emplace(key, connection);
    }
    ++of_user_[uid];
    const bool watched =
        Watch(fd, EPOLLIN | EPOLLRDHUP, key) && (!connection->pidfd.valid() || Watch(connection->pidfd.get(), EPOLLIN, key));
    if (!watched || SendPacket(fd, hello.SerializeAsString(), -1) != 0) Remove(key);
    return absl::OkStatus();
  }

  static void Refuse(const UniqueFd& socket, const absl::Status& why) {
    HandlePacket packet;
    auto& refused = *packet.mutable_refused();
    refused.set_code(static_cast<int>(why.code()));
    refused.set_message(ToUtf8(Text(why).substr(0, kMaxPacket / 4)));
    *refused.mutable_detail() = DetailOf(why);
    if (socket.valid()) (void)SendPacket(socket.get(), packet.SerializeAsString(), -1);
  }

  void Remove(uint64_t key) {
    std::shared_ptr<Connection> connection;
    {
      std::lock_guard lock(mutex_);
      auto found = by_key_.find(key);
      if (found == by_key_.end()) return;  // its socket and its pidfd spoke in one round
      connection = std::move(found->second);
      by_key_.erase(found);
      by_token_.erase(connection->peer.token);
    }
    if (const auto user = of_user_.find(connection->peer.credentials.uid); --user->second == 0) of_user_.erase(user);
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection->socket.get(), nullptr);
    if (connection->pidfd.valid()) (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection->pidfd.get(), nullptr);
    (void)::shutdown(connection->socket.get(), SHUT_RDWR);
    {
      std::lock_guard lock(sending_mutex_);
      connection->gone = true;
    }
    Drop(
        connection, [](const Unsent&) { return true; }, NotConnected());
    if (options_.gone) options_.gone(connection->peer);
  }

  UnixListener listener_;
  const Options options_;
  const UniqueFd epoll_;
  const UniqueFd stop_;
  const UniqueFd wake_;
  std::thread thread_;

  std::mutex accepting_mutex_;                 // held by the thread while it accepts
  bool open_ = false;                          // guarded by accepting_mutex_
  std::atomic<bool> starved_ = false;          // the listener is not watched for want of descriptors
  uint64_t next_key_ = kFirstPeerKey;          // the thread's own
  std::unordered_map<uid_t, size_t> of_user_;  // peers; the thread's own

  mutable std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<Connection>, TokenHash, TokenEqual> by_token_;
  std::unordered_map<uint64_t, std::shared_ptr<Connection>> by_key_;

  std::mutex sending_mutex_;                       // never taken with another
  std::set<std::shared_ptr<Connection>> waiting_;  // those with something unsent; guarded by sending_mutex_
};

}  // namespace

absl::Status HandleSocket::SendSlab(std::string_view token, const devmem_loader::v1::SlabHandle& slab, int fd, Time deadline) {
  UniqueFd own(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!own.valid()) return ErrnoError(errno, "duplicating a slab's descriptor");
  const auto promise = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> passed = promise->get_future();
  PassSlab(token, slab, std::move(own), deadline, [promise](absl::Status status) { promise->set_value(std::move(status)); });
  return passed.get();
}

absl::StatusOr<std::unique_ptr<HandleSocket>> HandleSocket::Create(std::string_view service_path, Options options) {
  DEVMEM_ASSIGN_OR_RETURN(UnixListener listener, UnixListener::Listen(std::string(service_path) + ".fd", SOCK_SEQPACKET,
                                                                      {.mode = options.mode, .group = options.group}));
  DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<HandleSocket> socket, On(std::move(listener), std::move(options)));
  socket->Resume();
  return socket;
}

absl::StatusOr<std::unique_ptr<HandleSocket>> HandleSocket::On(UnixListener listener, Options options) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll.valid() || !stop.valid() || !wake.valid())
    return ErrnoError(errno, "cannot watch the handle socket", {.object = listener.path()});
  auto socket = std::make_unique<HandleSocketImpl>(std::move(listener), std::move(options), std::move(epoll), std::move(stop),
                                                   std::move(wake));
  DEVMEM_RETURN_IF_ERROR(socket->Start());
  return socket;
}

}  // namespace devmem
