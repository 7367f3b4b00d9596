// SPDX-License-Identifier: Apache-2.0
// MemoryBudget: the node-wide cap on slab memory, in bytes. Reservations are RAII; thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {

class MemoryBudget {
 public:
  explicit MemoryBudget(uint64_t limit) : limit_(limit) {}

  // Gives its bytes back when destroyed. The budget must outlive it.
  using Reservation = std::shared_ptr<void>;

  // kResourceExhausted, saying what is in use, if `bytes` more do not fit.
  [[nodiscard]] absl::StatusOr<Reservation> Reserve(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (used_ > limit_ || bytes > limit_ - used_) {
      return MakeError(
          absl::StatusCode::kResourceExhausted,
          absl::StrCat("the stream needs ", bytes, " bytes of slabs, and of this node's ", limit_, " bytes ", used_,
                       " are in use"),
          {.cause = "memory limit",
           .action = "lower --prefetch or --batch-size, end another stream, or raise the daemon's --memory-limit"});
    }
    used_ += bytes;
    return Reservation(static_cast<void*>(this), [this, bytes](void*) {
      std::lock_guard give_back(mutex_);
      used_ -= bytes;
    });
  }

  // From now on. What is reserved stays so: below it, nothing more is until enough was given back.
  void SetLimit(uint64_t limit) {
    std::lock_guard lock(mutex_);
    limit_ = limit;
  }

  [[nodiscard]] uint64_t limit() const {
    std::lock_guard lock(mutex_);
    return limit_;
  }
  [[nodiscard]] uint64_t used() const {
    std::lock_guard lock(mutex_);
    return used_;
  }

 private:
  mutable std::mutex mutex_;
  uint64_t limit_;     // guarded by mutex_
  uint64_t used_ = 0;  // guarded by mutex_
};

}  // namespace devmem
