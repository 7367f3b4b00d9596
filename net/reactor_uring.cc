// SPDX-License-Identifier: Apache-2.0
// The reactor on io_uring. One ring, owned by the loop's thread (SINGLE_ISSUER, DEFER_TASKRUN where the kernel has
// them): submissions gather until the loop waits, so that a round costs one system call however much it starts.
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/reactor_base.h"

namespace devmem {
namespace {

constexpr unsigned kEntries = 1024;

class UringReactor final : public ReactorBase {
 public:
  UringReactor(std::string_view name, std::string reason, UniqueFd wake)
      : ReactorBase(name, std::move(reason), std::move(wake)) {}
  ~UringReactor() override {
    if (initialized_) io_uring_queue_exit(&ring_);
  }

  absl::Status Init() {
    // R_DISABLED: the ring is made here but belongs to the thread that enables it, the loop's.
    constexpr unsigned kWanted[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP,
        IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP,
    };
    int error = 0;
    for (const unsigned flags : kWanted) {
      error = -io_uring_queue_init(kEntries, &ring_, flags);
      if (error == 0) break;
      if (error != EINVAL) break;  // EINVAL: a flag is unknown to this kernel
    }
    if (error != 0) return ErrnoError(error, "io_uring_setup", {.action = "the epoll receive loop works without it"});
    initialized_ = true;
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    bool able = probe != nullptr;
    for (const int opcode :
         {IORING_OP_RECVMSG, IORING_OP_SEND, IORING_OP_CONNECT, IORING_OP_READV, IORING_OP_ASYNC_CANCEL, IORING_OP_POLL_ADD,
          IORING_OP_SOCKET /* 5.19: cancel by descriptor and poll-first came with it */}) {
      able = able && io_uring_opcode_supported(probe, opcode) != 0;
    }
    if (probe != nullptr) io_uring_free_probe(probe);
    if (!able) return absl::UnimplementedError("io_uring of this kernel lacks operations (needs Linux 5.19)");
    return absl::OkStatus();
  }

  [[nodiscard]] std::string_view backend() const override { return "io_uring"; }

  void Run() override {
    EnterLoop();
    // By system call: Debian 12's liburing declares io_uring_enable_rings but does not export it. The ring was made a
    // moment ago by us and enabling cannot fail.
    if (::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0) std::abort();
    WatchWake();
    while (true) {
      RunPosted();
      FireTimers();
      if (stopped()) return;
      Wait();
      Woke();
      io_uring_cqe* cqe;
      unsigned head;
      unsigned seen = 0;
      // Completions may start operations; those only append to the submission queue, so walking is safe.
      io_uring_for_each_cqe(&ring_, head, cqe) {
        ++seen;
        const uint64_t data = cqe->user_data;
        const int result = cqe->res;
        if (data == kIgnored) continue;
        if (data == kWake) {
          DrainWake();
          if ((cqe->flags & IORING_CQE_F_MORE) == 0) wake_watched_ = false;
          continue;
        }
        auto* const operation = reinterpret_cast<Operation*>(data);
        const bool polled = operation->pending.kind == Operation::Pending::Kind::kReadable;
        operation->Complete(polled && result > 0 ? 0 : result);
      }
      io_uring_cq_advance(&ring_, seen);
      if (!wake_watched_) WatchWake();
    }
  }

  void Connect(int fd, const sockaddr* address, socklen_t length, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kConnect};
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_connect(sqe, fd, address, length);
    io_uring_sqe_set_data(sqe, operation);
  }

  void Send(int fd, const void* data, size_t bytes, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kSend};
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_send(sqe, fd, data, bytes, MSG_NOSIGNAL);
    io_uring_sqe_set_data(sqe, operation);
  }

  void Receive(int fd, iovec* pieces, size_t count, size_t wait_bytes, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kReceive};
    operation->pending.message.msg_iov = pieces;
    operation->pending.message.msg_iovlen = count;
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_recvmsg(sqe, fd, &operation->pending.message, 0);
    // Poll before the first try: with SO_RCVLOWAT set by the caller that waits for a worthwhile amount, where
    // an immediate receive would take the few KiB that happen to be there.
    if (wait_bytes > 1) sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    io_uring_sqe_set_data(sqe, operation);
  }

  void WaitReadable(int fd, Operation* operation) override {
    // poll() says with what, as a positive number; a receive will find out.
    operation->pending = {.kind = Operation::Pending::Kind::kReadable};
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_sqe_set_data(sqe, operation);
  }

  void ReadFile(int fd, iovec* pieces, size_t count, uint64_t offset, Operation* operation) override {
    operation->pending = {.kind = Operation::Pending::Kind::kReceive};
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_readv(sqe, fd, pieces, static_cast<unsigned>(count), offset);
    io_uring_sqe_set_data(sqe, operation);
  }

  void Cancel(int fd) override {
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_cancel_fd(sqe, fd, IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data64(sqe, kIgnored);
  }

  void Forget(int) override {}  // nothing of a descriptor is kept

 private:
  static constexpr uint64_t kIgnored = 0;
  static constexpr uint64_t kWake = 1;

  io_uring_sqe* Sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {  // full: hand over what is there
      io_uring_submit(&ring_);
      sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
  }

  void WatchWake() {
    io_uring_sqe* sqe = Sqe();
    io_uring_prep_poll_multishot(sqe, wake_fd(), POLLIN);
    io_uring_sqe_set_data64(sqe, kWake);
    wake_watched_ = true;
  }

  void Wait() {
    io_uring_cqe* cqe;
    if (HasPosted()) {
      io_uring_submit_and_get_events(&ring_);
      return;
    }
    if (const std::optional<Time> next = NextTimer(); next.has_value()) {
      const Duration left = std::max(Duration::zero(), *next - Now());
      const int64_t nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
      __kernel_timespec timeout{.tv_sec = nanoseconds / 1'000'000'000, .tv_nsec = nanoseconds % 1'000'000'000};
      io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &timeout, nullptr);
      return;
    }
    io_uring_submit_and_wait(&ring_, 1);
  }

  io_uring ring_{};
  bool initialized_ = false;
  bool wake_watched_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reactor>> CreateUringReactor(std::string_view name, std::string reason) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return ErrnoError(errno, "eventfd");
  auto reactor = std::make_unique<UringReactor>(name, std::move(reason), std::move(wake));
  DEVMEM_RETURN_IF_ERROR(reactor->Init());
  return std::unique_ptr<Reactor>(std::move(reactor));
}

}  // namespace devmem
