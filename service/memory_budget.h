// SPDX-License-Identifier: Apache-2.0
// MemoryBudget: the node-wide cap, in bytes, on slab memory and on what it takes to open streams and tell of their batches.
// Reservations are RAII, the rest is taken and given back (base/memory_account.h); thread-safe. What is kept only because it
// may be wanted again has no right to its memory: it goes when a stream needs it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
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
    std::unique_lock lock(mutex_);
    MakeRoom(lock, bytes);
    if (bytes > Free()) {
      return MakeError(
          absl::StatusCode::kResourceExhausted,
          absl::StrCat("the stream needs ", bytes, " bytes of slabs, and of this node's ", limit_, " bytes ", used_ + taken_,
                       " are in use"),
          {.fault = Fault::kMemoryLimit,
           .cause = "memory limit",
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
    std::unique_lock lock(mutex_);
    MakeRoom(lock, bytes);
    if (bytes > Free()) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       absl::StrCat("its listing, headers and messages need ", bytes, " bytes more, and of this node's ",
                                    limit_, " bytes ", used_ + taken_, " are in use"),
                       {.fault = Fault::kMemoryLimit,
                        .cause = "memory limit",
                        .action = "open a smaller folder, lower --prefetch or --batch-size, end another stream, or raise the "
                                  "daemon's --memory-limit"});
    }
    taken_ += bytes;
    return absl::OkStatus();
  }
  void Give(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    taken_ -= bytes;
  }
  // For what is kept in case it is wanted again: a quarter of the limit at most. Null if there is no room.
  [[nodiscard]] Reservation Keep(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    const uint64_t most = limit_ / kOneKept;
    if (pressed_ > 0 || kept_ > most || bytes > most - kept_ || bytes > Free()) return nullptr;
    kept_ += bytes;
    return Reservation(static_cast<void*>(this), [this, bytes](void*) {
      std::lock_guard give_back(mutex_);
      kept_ -= bytes;
    });
  }
  // What gives back all that is kept; called on the thread of whoever needs the memory, without a lock. Empty: nothing does.
  void OnShort(std::function<void()> give_up) {
    std::lock_guard lock(mutex_);
    give_up_ = std::move(give_up);
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
  [[nodiscard]] uint64_t most_kept() const { return limit() / kOneKept; }
  [[nodiscard]] uint64_t kept() const {  // besides
    std::lock_guard lock(mutex_);
    return kept_;
  }

 private:
  static constexpr uint64_t kOneKept = 4;  // of so many parts of the limit

  // mutex_ held.
  [[nodiscard]] uint64_t Free() const { return limit_ - std::min(limit_, used_ + taken_ + kept_); }

  // Has what is kept given up, where that helps; until it is, nothing more is kept.
  void MakeRoom(std::unique_lock<std::mutex>& lock, uint64_t bytes) {
    // What does not fit even so is refused, and must take nothing from anybody.
    if (bytes <= Free() || kept_ == 0 || bytes > Free() + kept_ || give_up_ == nullptr) return;
    const std::function<void()> give_up = give_up_;
    ++pressed_;
    lock.unlock();
    give_up();
    lock.lock();
    --pressed_;
  }

  mutable std::mutex mutex_;
  // All guarded by mutex_.
  uint64_t limit_;
  std::string source_;
  uint64_t used_ = 0;
  uint64_t taken_ = 0;
  uint64_t kept_ = 0;
  int pressed_ = 0;
  std::function<void()> give_up_;
};

}  // namespace devmem
