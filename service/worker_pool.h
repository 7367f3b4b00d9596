// SPDX-License-Identifier: Apache-2.0
// WorkerPool: threads for what blocks — opening data sets, unmapping slabs. They start as they are needed, up to a limit.
// Thread-safe. Stop (and the destructor) runs what was submitted and joins; what is submitted after that runs at once, on
// the caller's thread, so that the last clean-ups have a place whatever order things go down in.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace devmem {

class WorkerPool {
 public:
  explicit WorkerPool(size_t most_threads) : most_threads_(most_threads) {}
  ~WorkerPool() { Stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  [[nodiscard]] size_t most_threads() const { return most_threads_; }

  void Submit(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      if (!stopping_) {
        queue_.push_back(std::move(task));
        if (queue_.size() > idle_ && threads_.size() < most_threads_) threads_.emplace_back([this] { Run(); });
        wake_.notify_one();
        return;
      }
    }
    task();
  }

  void Stop() {
    std::vector<std::thread> threads;
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      threads.swap(threads_);
    }
    wake_.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      ++idle_;
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      --idle_;
      if (queue_.empty()) return;
      {
        const std::function<void()> task = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        task();
      }  // what the task held goes away outside the lock
      lock.lock();
    }
  }

  const size_t most_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  size_t idle_ = 0;                          // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;         // guarded by mutex_
};

}  // namespace devmem
