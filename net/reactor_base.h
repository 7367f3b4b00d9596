// SPDX-License-Identifier: Apache-2.0
// What both reactors share: posted tasks with their wake-up, and the timer queue. Private to net/reactor_*.cc.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "net/reactor.h"

namespace devmem {

class ReactorBase : public Reactor {
 public:
  [[nodiscard]] std::string_view reason() const override { return reason_; }
  void Post(std::function<void()> task) override;
  void Stop() override;
  [[nodiscard]] bool OnLoopThread() const override {
    return loop_thread_.load(std::memory_order_acquire) == std::this_thread::get_id();
  }
  void Arm(Timer* timer, Time when) override;
  void Disarm(Timer* timer) override;
  [[nodiscard]] Time Now() const override { return woke_; }

 protected:
  ReactorBase(std::string_view name, std::string reason, UniqueFd wake)
      : name_(name), reason_(std::move(reason)), wake_(std::move(wake)) {}

  void EnterLoop();  // names and remembers the thread
  void Woke() { woke_ = Clock::now(); }
  void RunPosted();   // what was posted until now
  void FireTimers();  // those that were due when the loop woke up
  [[nodiscard]] std::optional<Time> NextTimer() const;
  [[nodiscard]] bool HasPosted();
  [[nodiscard]] bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  [[nodiscard]] int wake_fd() const { return wake_.get(); }
  void DrainWake() const;

 private:
  void Place(size_t index, Timer* timer);
  void SiftUp(size_t index);
  void SiftDown(size_t index);

  const std::string name_;
  const std::string reason_;
  UniqueFd wake_;  // eventfd
  std::atomic<std::thread::id> loop_thread_{};
  std::atomic<bool> stopped_{false};

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;   // guarded by mutex_
  std::vector<std::function<void()>> running_;  // loop thread

  std::vector<Timer*> heap_;  // loop thread; earliest first
  Time woke_{};
};

absl::StatusOr<std::unique_ptr<Reactor>> CreateUringReactor(std::string_view name, std::string reason);
absl::StatusOr<std::unique_ptr<Reactor>> CreateEpollReactor(std::string_view name, std::string reason);

}  // namespace devmem
