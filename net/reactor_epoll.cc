// SPDX-License-Identifier: Apache-2.0
// The reactor on epoll: the same operations, each tried when the kernel says it can go on. For sandboxes that
// refuse io_uring (a pod's RuntimeDefault seccomp profile does).
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <unordered_map>

#include "base/error.h"
#include "net/reactor_base.h"

namespace devmem {
namespace {

class EpollReactor final : public ReactorBase {
 public:
  EpollReactor(std::string_view name, std::string reason, UniqueFd wake, UniqueFd epoll)
      : ReactorBase(name, std::move(reason), std::move(wake)), epoll_(std::move(epoll)) {}

  absl::Status Init() {
    epoll_event event{.events = EPOLLIN, .data = {.fd = wake_fd()}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_fd(), &event) != 0) return ErrnoError(errno, "epoll_ctl(eventfd)");
    return absl::OkStatus();
  }

  [[nodiscard]] std::string_view backend() const override { return "epoll"; }

  void Run() override {
    EnterLoop();
    std::array<epoll_event, 256> events;
    while (true) {
      RunPosted();
      FireTimers();
      CompleteFinished();
      if (stopped()) return;
      const int ready = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), WaitMilliseconds());
      Woke();
      for (int i = 0; i < ready; ++i) {
        const int fd = events[static_cast<size_t>(i)].data.fd;
        if (fd == wake_fd()) {
          DrainWake();
        } else {
          Continue(fd, events[static_cast<size_t>(i)].events);
        }
      }
    }
  }

  void Connect(int fd, const sockaddr* address, socklen_t length, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kConnect};
    if (::connect(fd, address, length) == 0) return Finish(operation, 0);
    if (errno != EINPROGRESS) return Finish(operation, -errno);
    WaitFor(fd, EPOLLOUT, operation);
  }

  void Send(int fd, const void* data, size_t bytes, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kSend, .data = data, .bytes = bytes};
    const int result = Try(fd, operation);
    if (result == -EAGAIN) return WaitFor(fd, EPOLLOUT, operation);
    Finish(operation, result);
  }

  void Receive(int fd, iovec* pieces, size_t count, size_t wait_bytes, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kReceive};
    operation->pending.message.msg_iov = pieces;
    operation->pending.message.msg_iovlen = count;
    if (wait_bytes <= 1) {
      const int result = Try(fd, operation);
      if (result != -EAGAIN) return Finish(operation, result);
    }
    WaitFor(fd, EPOLLIN, operation);
  }

  void WaitReadable(int fd, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kReadable};
    WaitFor(fd, EPOLLIN, operation);
  }

  void ReadFile(int fd, iovec* pieces, size_t count, uint64_t offset, Operation* operation) override {
    const ssize_t got = ::preadv(fd, pieces, static_cast<int>(count), static_cast<off_t>(offset));
    Finish(operation, got < 0 ? -errno : static_cast<int>(got));
  }

  void Cancel(int fd) override {
    const auto entry = waiters_.find(fd);
    if (entry == waiters_.end()) return;
    for (Operation** slot : {&entry->second.in, &entry->second.out}) {
      if (*slot != nullptr) Finish(std::exchange(*slot, nullptr), -ECANCELED);
    }
  }

  void Forget(int fd) override {
    const auto entry = waiters_.find(fd);
    if (entry == waiters_.end()) return;
    // Closing it would do as much, if nobody else had the socket.
    if (entry->second.told != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    waiters_.erase(entry);
  }

 private:
  // What waits on a descriptor, and what the kernel was told to look for: which may be more, see WaitFor().
  struct Waiters {
    Operation* in = nullptr;
    Operation* out = nullptr;
    uint32_t told = 0;

    [[nodiscard]] uint32_t wanted() const {
      return (in != nullptr ? static_cast<uint32_t>(EPOLLIN) : 0) | (out != nullptr ? static_cast<uint32_t>(EPOLLOUT) : 0);
    }
  };

  static int Try(int fd, Operation* operation) {
    Operation::Pending& pending = operation->pending;
    ssize_t result = 0;
    switch (pending.kind) {
      case Operation::Pending::Kind::kConnect: {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        return -error;
      }
      case Operation::Pending::Kind::kSend:
        result = ::send(fd, pending.data, pending.bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        break;
      case Operation::Pending::Kind::kReceive:
        result = ::recvmsg(fd, &pending.message, MSG_DONTWAIT);
        break;
      case Operation::Pending::Kind::kReadable:
        return 0;
    }
    return result < 0 ? -errno : static_cast<int>(result);
  }

  // Completions never run inside the call that started the operation: the caller need not be reentrant.
  void Finish(Operation* operation, int result) {
    operation->pending.result = result;
    finished_.push_back(operation);
  }

  void CompleteFinished() {
    while (!finished_.empty()) {
      completing_.swap(finished_);
      for (Operation* operation : completing_) operation->Complete(operation->pending.result);
      completing_.clear();
    }
  }

  // The kernel goes on looking for what it was once told to, so that a body's waits cost no call each. Data that nobody waits
  // for (yet) wakes the loop once, in vain: then the kernel is told. A socket that could be written to would wake it at once.
  void WaitFor(int fd, uint32_t direction, Operation* operation) {
    Waiters& waiting = waiters_[fd];
    (direction == EPOLLIN ? waiting.in : waiting.out) = operation;
    const uint32_t wanted = waiting.wanted();
    if ((wanted & ~waiting.told) != 0 || (waiting.told & ~wanted & EPOLLOUT) != 0) Tell(fd, waiting);
  }

  void Tell(int fd, Waiters& waiting) {
    const uint32_t wanted = waiting.wanted();
    epoll_event event{.events = wanted, .data = {.fd = fd}};
    // Out of it rather than with nothing to look for: errors would still be told, without end.
    const int how = wanted == 0 ? EPOLL_CTL_DEL : waiting.told == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    const int error = epoll_ctl(epoll_.get(), how, fd, &event) == 0 ? 0 : errno;
    waiting.told = error == 0 ? wanted : 0;
    if (error == 0) return;
    for (Operation** slot : {&waiting.in, &waiting.out}) {
      if (*slot != nullptr) Finish(std::exchange(*slot, nullptr), -error);
    }
  }

  void Continue(int fd, uint32_t events) {
    const auto entry = waiters_.find(fd);
    if (entry == waiters_.end()) return;
    Waiters& waiting = entry->second;
    const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
    bool awaited = false;
    for (Operation** slot : {&waiting.in, &waiting.out}) {
      const uint32_t direction = slot == &waiting.in ? static_cast<uint32_t>(EPOLLIN) : static_cast<uint32_t>(EPOLLOUT);
      if (*slot == nullptr || (!broken && (events & direction) == 0)) continue;
      awaited = true;
      const int result = Try(fd, *slot);
      if (result == -EAGAIN) continue;
      Finish(std::exchange(*slot, nullptr), result);
    }
    if (!awaited) Tell(fd, waiting);
  }

  int WaitMilliseconds() {
    if (!finished_.empty() || HasPosted()) return 0;
    const std::optional<Time> next = NextTimer();
    if (!next.has_value()) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }

  UniqueFd epoll_;
  std::unordered_map<int, Waiters> waiters_;
  std::vector<Operation*> finished_;
  std::vector<Operation*> completing_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reactor>> CreateEpollReactor(std::string_view name, std::string reason) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!wake.valid() || !epoll.valid()) return ErrnoError(errno, "eventfd, epoll_create1");
  auto reactor = std::make_unique<EpollReactor>(name, std::move(reason), std::move(wake), std::move(epoll));
  DEVMEM_RETURN_IF_ERROR(reactor->Init());
  return std::unique_ptr<Reactor>(std::move(reactor));
}

}  // namespace devmem
