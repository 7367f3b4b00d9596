// SPDX-License-Identifier: Apache-2.0
// MemoryAccount: what one piece of work holds of memory that others share, where a stranger decides how much it comes to: the
// listing of a bucket, an index, headers. It is counted before it is allocated, so that too much of it is an error and not
// the end of the process. HeldMemory is a part of it that goes back by itself.
//
//   auto account = std::make_shared<MemoryAccount>(0, [&](uint64_t n) { return budget.Take(n); }, [&](uint64_t n) {
//   budget.Give(n); }); HeldMemory held(account); DEVMEM_RETURN_IF_ERROR(held.Resize(size));   // kResourceExhausted: do not
//   allocate bytes.reserve(size);
//
// A null account counts nothing: for who works for himself alone. An account is thread-safe and lives as long as anything is
// held of it; a HeldMemory is one thread's at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "base/error.h"

namespace devmem {

class MemoryAccount {
 public:
  using Take = std::function<absl::Status(uint64_t bytes)>;
  using Give = std::function<void(uint64_t bytes)>;

  // The first `uncounted` bytes are nobody's concern: every piece of work has as much besides.
  MemoryAccount(uint64_t uncounted, Take take, Give give)
      : uncounted_(uncounted), take_(std::move(take)), give_(std::move(give)) {}
  MemoryAccount(const MemoryAccount&) = delete;
  MemoryAccount& operator=(const MemoryAccount&) = delete;

  // What `take` says; then nothing more is held.
  [[nodiscard]] absl::Status Grow(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (bytes > UINT64_MAX - held_) bytes = UINT64_MAX - held_;  // refused by any limit there is
    if (const uint64_t more = Counted(held_ + bytes) - Counted(held_); more > 0) DEVMEM_RETURN_IF_ERROR(take_(more));
    held_ += bytes;
    return absl::OkStatus();
  }
  void Shrink(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    if (const uint64_t less = Counted(held_) - Counted(held_ - bytes); less > 0) give_(less);
    held_ -= bytes;
  }

  [[nodiscard]] uint64_t held() const {
    std::lock_guard lock(mutex_);
    return held_;
  }

 private:
  [[nodiscard]] uint64_t Counted(uint64_t held) const { return held - std::min(held, uncounted_); }

  const uint64_t uncounted_;
  const Take take_;
  const Give give_;
  mutable std::mutex mutex_;
  uint64_t held_ = 0;  // guarded by mutex_
};

class HeldMemory {
 public:
  HeldMemory() = default;
  explicit HeldMemory(std::shared_ptr<MemoryAccount> account) : account_(std::move(account)) {}
  HeldMemory(HeldMemory&& other) noexcept : account_(std::move(other.account_)), bytes_(std::exchange(other.bytes_, 0)) {}
  HeldMemory& operator=(HeldMemory&& other) noexcept {
    if (this == &other) return *this;
    Clear();
    account_ = std::move(other.account_);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~HeldMemory() { Clear(); }

  // To so many bytes. Refused, it holds what it held; less is never refused.
  [[nodiscard]] absl::Status Resize(uint64_t bytes) {
    if (account_ != nullptr && bytes > bytes_) DEVMEM_RETURN_IF_ERROR(account_->Grow(bytes - bytes_));
    if (account_ != nullptr && bytes < bytes_) account_->Shrink(bytes_ - bytes);
    bytes_ = bytes;
    return absl::OkStatus();
  }
  [[nodiscard]] absl::Status Add(uint64_t bytes) { return Resize(bytes > UINT64_MAX - bytes_ ? UINT64_MAX : bytes_ + bytes); }
  void Subtract(uint64_t bytes) { (void)Resize(bytes_ - std::min(bytes_, bytes)); }
  void Clear() { (void)Resize(0); }

  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] const std::shared_ptr<MemoryAccount>& account() const { return account_; }

 private:
  std::shared_ptr<MemoryAccount> account_;
  uint64_t bytes_ = 0;
};

}  // namespace devmem
