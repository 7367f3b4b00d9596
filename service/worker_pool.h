// SPDX-License-Identifier: Apache-2.0
// WorkerPool: threads for what blocks — opening data sets, unmapping slabs. They start as they are needed, up to a limit.
// Thread-safe. Stop (and the destructor) runs what was submitted and joins; what is submitted after that runs at once, on
// the caller's thread, so that the last clean-ups have a place whatever order things go down in.
#pragma once

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace devmem {

class WorkerPool {
 public:
  struct Options {
    std::string name;         // of the threads, 15 characters
    int niceness = 0;         // more than the process's main thread: the receive loops go first where CPUs are short
    bool from_start = false;  // all threads are there at once: one started later is as nice as whoever submits at least
  };
  explicit WorkerPool(size_t most_threads) : WorkerPool(most_threads, Options{}) {}
  WorkerPool(size_t most_threads, Options options) : most_threads_(most_threads), options_(std::move(options)) {
    while (options_.from_start && threads_.size() < most_threads_) threads_.emplace_back([this] { Run(); });
  }
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
    if (!options_.name.empty()) pthread_setname_np(pthread_self(), options_.name.c_str());
    // Of one thread alone (man 2 setpriority, "C library/kernel differences"). Whoever is nicer already cannot go back.
    const int wanted = std::min(19, getpriority(PRIO_PROCESS, static_cast<id_t>(getpid())) + options_.niceness);
    if (getpriority(PRIO_PROCESS, 0) < wanted) (void)setpriority(PRIO_PROCESS, 0, wanted);
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
  const Options options_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  size_t idle_ = 0;                          // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;         // guarded by mutex_
};

}  // namespace devmem
