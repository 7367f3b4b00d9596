// SPDX-License-Identifier: Apache-2.0
#include "net/reactor.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/reactor_base.h"

namespace devmem {

absl::StatusOr<std::unique_ptr<Reactor>> Reactor::Create(std::string_view name, Backend backend) {
  switch (backend) {
    case Backend::kIoUring:
      return CreateUringReactor(name, "io_uring was asked for");
    case Backend::kEpoll:
      return CreateEpollReactor(name, "epoll was asked for");
    case Backend::kAuto:
      break;
  }
  absl::StatusOr<std::unique_ptr<Reactor>> uring = CreateUringReactor(name, "io_uring is available");
  if (uring.ok()) return uring;
  return CreateEpollReactor(name, absl::StrCat("io_uring is refused here: ", uring.status().message()));
}

void ReactorBase::EnterLoop() {
  loop_thread_.store(std::this_thread::get_id(), std::memory_order_release);
  pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
  Woke();
}

void ReactorBase::Post(std::function<void()> task) {
  // All of it under the lock: once the task can run, this may be gone, as when a device's thread posts a stream's last event.
  std::lock_guard lock(mutex_);
  const bool wake = posted_.empty();
  posted_.push_back(std::move(task));
  // The loop looks at the queue before it sleeps, so its own posts need no wake-up, nor does a queue that was not empty.
  if (wake && !OnLoopThread()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);  // full only if a wake-up is due anyway
  }
}

void ReactorBase::Stop() {
  Post([this] { stopped_.store(true, std::memory_order_release); });
}

void ReactorBase::RunPosted() {
  {
    std::lock_guard lock(mutex_);
    if (posted_.empty()) return;
    running_.swap(posted_);
  }
  for (std::function<void()>& task : running_) task();
  running_.clear();
}

bool ReactorBase::HasPosted() {
  std::lock_guard lock(mutex_);
  return !posted_.empty();
}

void ReactorBase::DrainWake() const {
  uint64_t count;
  [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof count);  // EAGAIN: somebody else's wake-up
}

// --- timers: a binary heap of intrusive timers that know their index -----------------------------------------

void ReactorBase::Place(size_t index, Timer* timer) {
  heap_[index] = timer;
  timer->position = static_cast<int64_t>(index);
}

void ReactorBase::SiftUp(size_t index) {
  Timer* const timer = heap_[index];
  while (index > 0) {
    const size_t parent = (index - 1) / 2;
    if (heap_[parent]->when <= timer->when) break;
    Place(index, heap_[parent]);
    index = parent;
  }
  Place(index, timer);
}

void ReactorBase::SiftDown(size_t index) {
  Timer* const timer = heap_[index];
  while (true) {
    size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1]->when < heap_[child]->when) ++child;
    if (timer->when <= heap_[child]->when) break;
    Place(index, heap_[child]);
    index = child;
  }
  Place(index, timer);
}

void ReactorBase::Arm(Timer* timer, Time when) {
  if (timer->position < 0) {
    heap_.push_back(timer);
    timer->when = when;
    SiftUp(heap_.size() - 1);
    return;
  }
  const bool earlier = when < timer->when;
  timer->when = when;
  if (earlier) {
    SiftUp(static_cast<size_t>(timer->position));
  } else {
    SiftDown(static_cast<size_t>(timer->position));
  }
}

void ReactorBase::Disarm(Timer* timer) {
  if (timer->position < 0) return;
  const auto index = static_cast<size_t>(std::exchange(timer->position, -1));
  Timer* const last = heap_.back();
  heap_.pop_back();
  if (last == timer) return;
  Place(index, last);
  SiftUp(index);
  SiftDown(static_cast<size_t>(last->position));
}

std::optional<Time> ReactorBase::NextTimer() const {
  if (heap_.empty()) return std::nullopt;
  return heap_.front()->when;
}

void ReactorBase::FireTimers() {
  while (!heap_.empty() && heap_.front()->when <= woke_) {
    Timer* const timer = heap_.front();
    Disarm(timer);
    timer->Fire();
  }
}

}  // namespace devmem
