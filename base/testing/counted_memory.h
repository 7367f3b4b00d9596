// SPDX-License-Identifier: Apache-2.0
// For tests only: a limit for accounts (base/memory_account.h) that knows what is taken of it, and the most that ever was.
// It outlives its accounts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "base/memory_account.h"

namespace devmem {

class CountedMemory {
 public:
  explicit CountedMemory(uint64_t limit) : limit_(limit) {}

  [[nodiscard]] std::shared_ptr<MemoryAccount> Account(uint64_t uncounted = 0) {
    return std::make_shared<MemoryAccount>(
        uncounted, [this](uint64_t bytes) { return Take(bytes); },
        [this](uint64_t bytes) {
          std::lock_guard lock(mutex_);
          used_ -= bytes;
        });
  }

  [[nodiscard]] uint64_t used() const {
    std::lock_guard lock(mutex_);
    return used_;
  }
  [[nodiscard]] uint64_t most() const {
    std::lock_guard lock(mutex_);
    return most_;
  }

 private:
  absl::Status Take(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (bytes > limit_ - used_) {
      return MakeError(absl::StatusCode::kResourceExhausted, "no room", {.fault = Fault::kMemoryLimit});
    }
    used_ += bytes;
    most_ = std::max(most_, used_);
    return absl::OkStatus();
  }

  const uint64_t limit_;
  mutable std::mutex mutex_;
  uint64_t used_ = 0;  // guarded by mutex_
  uint64_t most_ = 0;  // guarded by mutex_
};

}  // namespace devmem
