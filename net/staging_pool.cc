// SPDX-License-Identifier: Apache-2.0
#include "net/staging_pool.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace devmem {

absl::StatusOr<StagingPool::Chunk> StagingPool::Take(Waiter* waiter) {
  if (memory_ == nullptr) DEVMEM_RETURN_IF_ERROR(Allocate());
  if (free_.empty() || (!waiting_.empty() && waiter != called_)) {
    if (std::ranges::find(waiting_, waiter) == waiting_.end()) waiting_.push_back(waiter);
    return nullptr;
  }
  const Piece piece = free_.back();
  free_.pop_back();
  return Chunk(new Piece(piece), [this](const Piece* back) {
    Give(*back);
    delete back;
  });
}

void StagingPool::Forget(Waiter* waiter) { std::erase(waiting_, waiter); }

absl::Status StagingPool::Allocate() {
  constexpr uint64_t kBytes = kChunks * kChunkBytes;
  DEVMEM_ASSIGN_OR_RETURN(memory_, device_->AllocateStaging(kBytes, "devmem-loader-staging-ring"));
  for (size_t i = 0; i < kChunks; ++i) {
    const DeviceSpan span{.memory = memory_.get(), .offset = i * kChunkBytes, .bytes = kChunkBytes};
    const auto bytes = memory_->HostSpan(span.offset, span.bytes);
    if (!bytes.has_value()) {
      free_.clear();
      memory_.reset();
      return MakeError(absl::StatusCode::kInternal, "staging memory that the CPU cannot write",
                       {.object = std::string(device_->name()), .action = "report a bug with this message"});
    }
    free_.push_back({.span = span, .bytes = *bytes});
  }
  return absl::OkStatus();
}

void StagingPool::Give(const Piece& piece) {
  free_.push_back(piece);
  CallNext();
}

// One at a time, so that who is called finds its chunk.
void StagingPool::CallNext() {
  if (waiting_.empty() || free_.empty() || std::exchange(call_posted_, true)) return;
  reactor_.Post([this] {
    call_posted_ = false;
    if (waiting_.empty() || free_.empty()) return;
    Waiter* const next = waiting_.front();
    waiting_.pop_front();
    called_ = next;
    next->OnChunkFree();
    called_ = nullptr;
    CallNext();
  });
}

}  // namespace devmem
