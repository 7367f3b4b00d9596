// SPDX-License-Identifier: Apache-2.0
// OpenQueue: whose stream is opened next. An opener's thread may wait for its store for minutes, and there are only so many: a
// trainer has a few of them at most, in its turn, and none while it does not take the slab of a stream that it asked for
// before. However many trainers a user has, together they have at most kShare times what is left for others: one user may fill
// three quarters of the pool, and there is always a thread for the next.
//
//   OpenQueue opens(&pool, {.of_trainer = 16});
//   DEVMEM_RETURN_IF_ERROR(opens.Submit(token, uid, [] { ... }));   // runs on the pool
//   std::shared_ptr<void> hold = opens.Hold(token);            // nothing of this trainer's begins until it is destroyed
//
// The pool's threads must have ended when it is destroyed. Thread-safe.
#pragma once

#include <sys/types.h>

#include <algorithm>
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
  [[nodiscard]] absl::Status Submit(const std::string& trainer, uid_t user, std::function<void()> open) {
    {
      std::lock_guard lock(mutex_);
      trainers_[trainer].user = user;
      std::deque<std::function<void()>>& waiting = trainers_[trainer].waiting;
      if (waiting.size() >= limits_.waiting_of_trainer) {
        return MakeError(absl::StatusCode::kResourceExhausted,
                         absl::StrCat("this trainer is opening ", waiting.size(), " streams already"),
                         {.fault = Fault::kQuota, .cause = "too many at once", .action = "wait until some are open"});
      }
      waiting.push_back(std::move(open));
    }
    Pump();
    return absl::OkStatus();
  }

  [[nodiscard]] std::shared_ptr<void> Hold(const std::string& trainer) {
    std::lock_guard lock(mutex_);
    ++trainers_[trainer].holds;
    return {static_cast<void*>(this), [this, trainer](void*) {
              {
                std::lock_guard guard(mutex_);
                const auto of = trainers_.find(trainer);
                --of->second.holds;
                Forget(of);
              }
              Pump();
            }};
  }

 private:
  static constexpr size_t kShare = 3;

  struct Trainer {
    uid_t user = 0;
    size_t running = 0;
    size_t holds = 0;
    std::deque<std::function<void()>> waiting;
  };
  using Trainers = std::map<std::string, Trainer>;
  struct Starting {
    std::string trainer;
    uid_t user;
    std::function<void()> open;
  };

  // Starts what may be started, one of each trainer in turn.
  void Pump() {
    std::vector<Starting> starting;
    {
      std::lock_guard lock(mutex_);
      for (auto next = Next(); next != trainers_.end(); next = Next()) {
        auto& [name, of] = *next;
        starting.push_back({name, of.user, std::move(of.waiting.front())});
        of.waiting.pop_front();
        ++of.running;
        ++running_;
        ++users_[of.user];
        last_ = name;
      }
    }
    for (Starting& each : starting) {
      pool_->Submit([this, each = std::move(each)]() mutable {
        each.open();
        each.open = nullptr;  // what it holds goes before the next begins
        {
          std::lock_guard lock(mutex_);
          const auto of = trainers_.find(each.trainer);
          --of->second.running;
          Forget(of);
          --running_;
          if (--users_[each.user] == 0) users_.erase(each.user);
        }
        Pump();
      });
    }
  }

  // These with the lock held.

  // Whose turn it is, from the one after the last on: who has much to open is not asked again before the others.
  [[nodiscard]] Trainers::iterator Next() {
    const auto may = [this](const Trainers::value_type& entry) {
      const Trainer& of = entry.second;
      return of.holds == 0 && of.running < limits_.of_trainer && !of.waiting.empty() && HasThread(of.user);
    };
    const auto after = trainers_.upper_bound(last_);
    const auto found = std::find_if(after, trainers_.end(), may);
    if (found != trainers_.end()) return found;
    const auto wrapped = std::find_if(trainers_.begin(), after, may);
    return wrapped != after ? wrapped : trainers_.end();
  }

  void Forget(Trainers::iterator of) {
    if (of->second.running == 0 && of->second.holds == 0 && of->second.waiting.empty()) trainers_.erase(of);
  }

  [[nodiscard]] bool HasThread(uid_t user) const {
    const auto found = users_.find(user);
    const size_t left = pool_->most_threads() - std::min(running_, pool_->most_threads());
    return found == users_.end() ? left > 0 : found->second < kShare * left;
  }

  WorkerPool* const pool_;
  const Limits limits_;
  std::mutex mutex_;
  Trainers trainers_;              // with anything of theirs; guarded by mutex_
  std::string last_;               // that was started; guarded by mutex_
  std::map<uid_t, size_t> users_;  // threads, of those who have any; guarded by mutex_
  size_t running_ = 0;             // guarded by mutex_
};

}  // namespace devmem
