// SPDX-License-Identifier: Apache-2.0
// Reactor: one thread's event loop, on io_uring or, where that is refused, on epoll. Operations are started and
// complete on the loop's thread; only Post() and Stop() may be called from elsewhere.
//
//   Operation   intrusive: the caller owns it, keeps it alive until Complete() was called, and may then start it
//               again. `result` is as the system call's: bytes, or -errno. One operation at a time per direction
//               and descriptor.
//   Timer       intrusive as well; destroying one cancels it.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace devmem {

class Reactor {
 public:
  class Operation {
   public:
    virtual void Complete(int result) = 0;

    // The reactor's, while the operation is under way.
    struct Pending {
      enum class Kind : uint8_t { kConnect, kSend, kReceive, kReadable } kind = Kind::kReceive;
      const void* data = nullptr;
      size_t bytes = 0;
      msghdr message{};
      int result = 0;
    } pending;

   protected:
    ~Operation() = default;
  };

  class Timer;

  enum class Backend { kAuto, kIoUring, kEpoll };

  // kAuto takes io_uring if the kernel and the sandbox allow it. `name` names the thread ("rx-0").
  static absl::StatusOr<std::unique_ptr<Reactor>> Create(std::string_view name, Backend backend);
  virtual ~Reactor() = default;

  [[nodiscard]] virtual std::string_view backend() const = 0;  // "io_uring", "epoll"
  [[nodiscard]] virtual std::string_view reason() const = 0;   // why this one

  // Runs `task` on the loop's thread, in order of posting. Thread-safe. Tasks posted after Stop() are dropped.
  virtual void Post(std::function<void()> task) = 0;
  // Ends Run() after the tasks already posted. Thread-safe.
  virtual void Stop() = 0;
  [[nodiscard]] virtual bool OnLoopThread() const = 0;

  // The loop; returns after Stop(). To be called once, from the thread that shall be the loop's.
  virtual void Run() = 0;

  // Loop thread only from here on. The message and its iovecs must live until Complete().
  virtual void Connect(int fd, const sockaddr* address, socklen_t length, Operation* operation) = 0;
  virtual void Send(int fd, const void* data, size_t bytes, Operation* operation) = 0;
  // Completes with at least one byte, 0 at the end of the stream, or -errno. If `wait_bytes` is more than 1, prefers to
  // complete with at least so many (fewer near the end of the stream or when the socket's buffer is full).
  virtual void Receive(int fd, iovec* pieces, size_t count, size_t wait_bytes, Operation* operation) = 0;
  // Completes with 0 when a receive would find something: SO_RCVLOWAT's worth, the end, or an error. For who receives in a way
  // of its own.
  virtual void WaitReadable(int fd, Operation* operation) = 0;
  // Reads a regular file. On epoll this blocks the loop for the read's time: files have no readiness.
  virtual void ReadFile(int fd, iovec* pieces, size_t count, uint64_t offset, Operation* operation) = 0;
  // Makes every operation under way on `fd` complete soon with -ECANCELED. Must be followed by waiting for them
  // before the fd is closed.
  virtual void Cancel(int fd) = 0;
  // To be called before a descriptor is closed that operations were started on; none may be under way.
  virtual void Forget(int fd) = 0;

  // When the loop last woke up: a stamp that costs no clock's reading, and is early by what this round took so far.
  [[nodiscard]] virtual Time Now() const = 0;

  virtual void Arm(Timer* timer, Time when) = 0;
  virtual void Disarm(Timer* timer) = 0;
};

class Reactor::Timer {
 public:
  Timer(Reactor* reactor, std::function<void()> fire) : reactor_(reactor), fire_(std::move(fire)) {}
  ~Timer() { reactor_->Disarm(this); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void Set(Time at) { reactor_->Arm(this, at); }
  void Clear() { reactor_->Disarm(this); }
  void Fire() { fire_(); }  // by the reactor

 private:
  friend class Reactor;
  Reactor* reactor_;
  std::function<void()> fire_;

 public:  // bookkeeping of the reactor's timer queue
  Time when{};
  int64_t position = -1;  // index in its heap, -1: not armed
};

}  // namespace devmem
