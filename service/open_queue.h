// SPDX-License-Identifier: Apache-2.0
// OpenQueue: whose stream is opened next. An opener's thread may wait for its store for minutes, and there are only so many: a
// trainer has a few of them at most, in its turn, and none while it does not take the slab of a stream that it asked for
// before.
//
//   OpenQueue opens(&pool, {.of_trainer = 16});
//   DEVMEM_RETURN_IF_ERROR(opens.Submit(token, [] { ... }));   // runs on the pool
//   std::shared_ptr<void> hold = opens.Hold(token);            // nothing of this trainer's begins until it is destroyed
//
// The pool's threads must have ended when it is destroyed. Thread-safe.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "service/worker_pool.h"

namespace devmem {

class OpenQueue {
 public:
  struct Limits {
    size_t of_trainer = 16;            // threads at once
    size_t waiting_of_trainer = 4096;  // more are refused
  };

  OpenQueue(WorkerPool* pool, Limits limits) : pool_(pool), limits_(limits) {}
  OpenQueue(const OpenQueue&) = delete;
  OpenQueue& operator=(const OpenQueue&) = delete;

  // In the order they come. kResourceExhausted if too many of the trainer's wait already.
  [[nodiscard]] absl::Status Submit(const std::string& trainer, std::function<void()> open) {
    {
      std::lock_guard lock(mutex_);
      std::deque<std::function<void()>>& waiting = trainers_[trainer].waiting;
      if (waiting.size() >= limits_.waiting_of_trainer) {
        return MakeError(absl::StatusCode::kResourceExhausted,
                         absl::StrCat("this trainer is opening ", waiting.size(), " streams already"),
                         {.fault = Fault::kQuota, .cause = "too many at once", .action = "wait until some are open"});
      }
      waiting.push_back(std::move(open));
    }
    Pump(trainer);
    return absl::OkStatus();
  }

  [[nodiscard]] std::shared_ptr<void> Hold(const std::string& trainer) {
    std::lock_guard lock(mutex_);
    ++trainers_[trainer].holds;
    return {static_cast<void*>(this), [this, trainer](void*) {
              {
                std::lock_guard guard(mutex_);
                --trainers_[trainer].holds;
              }
              Pump(trainer);
            }};
  }

 private:
  struct Trainer {
    size_t running = 0;
    size_t holds = 0;
    std::deque<std::function<void()>> waiting;
  };

  // Starts what may be started.
  void Pump(const std::string& trainer) {
    std::vector<std::function<void()>> starting;
    {
      std::lock_guard lock(mutex_);
      const auto found = trainers_.find(trainer);
      if (found == trainers_.end()) return;
      Trainer& of = found->second;
      for (; of.holds == 0 && of.running < limits_.of_trainer && !of.waiting.empty(); ++of.running) {
        starting.push_back(std::move(of.waiting.front()));
        of.waiting.pop_front();
      }
      if (of.running == 0 && of.holds == 0) trainers_.erase(found);  // then nothing waits either
    }
    for (std::function<void()>& open : starting) {
      pool_->Submit([this, trainer, open = std::move(open)]() mutable {
        open();
        open = nullptr;  // what it holds goes before the next begins
        {
          std::lock_guard lock(mutex_);
          --trainers_[trainer].running;
        }
        Pump(trainer);
      });
    }
  }

  WorkerPool* const pool_;
  const Limits limits_;
  std::mutex mutex_;
  std::map<std::string, Trainer> trainers_;  // with anything of theirs; guarded by mutex_
};

}  // namespace devmem
