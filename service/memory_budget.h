// SPDX-License-Identifier: Apache-2.0
// MemoryBudget: the node-wide cap, in bytes, on slab memory and on what it takes to open streams and tell of their batches.
// Reservations are RAII, the rest is taken and given back (base/memory_account.h); thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {

class MemoryBudget {
 public:
  // `source` says where the limit is from.
  explicit MemoryBudget(uint64_t limit, std::string source = "") : limit_(limit), source_(std::move(source)) {}

  // Gives its bytes back when destroyed. The budget must outlive it.
  using Reservation = std::shared_ptr<void>;

  // kResourceExhausted, saying what is in use, if `bytes` more do not fit.
  [[nodiscard]] absl::StatusOr<Reservation> Reserve(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (bytes > Free()) {
      return MakeError(
          absl::StatusCode::kResourceExhausted,
          absl::StrCat("the stream needs ", bytes, " bytes of slabs, and of this node's ", limit_, " bytes ", used_ + taken_,
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

  // For what is no slab. The same limit.
  [[nodiscard]] absl::Status Take(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (bytes > Free()) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       absl::StrCat("its listing, headers and messages need ", bytes, " bytes more, and of this node's ",
                                    limit_, " bytes ", used_ + taken_, " are in use"),
                       {.fault = Fault::kMemoryLimit,
                        .cause = "memory limit",
                        .action = "open a smaller folder, end another stream, or raise the daemon's --memory-limit"});
    }
    taken_ += bytes;
    return absl::OkStatus();
  }
  void Give(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    taken_ -= bytes;
  }

  // From now on. What is reserved stays so: below it, nothing more is until enough was given back.
  void SetLimit(uint64_t limit, std::string source = "") {
    std::lock_guard lock(mutex_);
    limit_ = limit;
    source_ = std::move(source);
  }

  [[nodiscard]] uint64_t limit() const {
    std::lock_guard lock(mutex_);
    return limit_;
  }
  [[nodiscard]] std::string source() const {
    std::lock_guard lock(mutex_);
    return source_;
  }
  [[nodiscard]] uint64_t used() const {  // by slabs
    std::lock_guard lock(mutex_);
    return used_;
  }
  [[nodiscard]] uint64_t taken() const {  // by the rest
    std::lock_guard lock(mutex_);
    return taken_;
  }

 private:
  [[nodiscard]] uint64_t Free() const { return limit_ - std::min(limit_, used_ + taken_); }

  mutable std::mutex mutex_;
  uint64_t limit_;      // guarded by mutex_
  std::string source_;  // guarded by mutex_
  uint64_t used_ = 0;   // guarded by mutex_
  uint64_t taken_ = 0;  // guarded by mutex_
};

}  // namespace devmem
