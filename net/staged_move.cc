// SPDX-License-Identifier: Apache-2.0
// Two copies, whatever the pieces: the receive into a chunk, where pieces lie one after another without the gaps between them,
// and one batched Poke of a receive, a piece for each contiguous run of a destination. A chunk goes back when the last Poke
// from it is complete.
#include "net/staged_move.h"

#include <algorithm>
#include <utility>

#include "base/trace.h"

namespace devmem {
namespace {

constexpr size_t kMostPlaces = 256;         // iovecs of a receive
constexpr uint64_t kReceiveMost = 4 << 20;  // of one, gaps included

}  // namespace

StagedMove::~StagedMove() {
  *alive_ = false;
  pool_.Forget(this);
}

void StagedMove::Start(Scatter& scatter) { scatter_ = &scatter; }

absl::StatusOr<std::span<const DeviceSpan>> StagedMove::Next() {
  places_.clear();
  if (scatter_->remaining() == 0) return std::span<const DeviceSpan>();
  absl::StatusOr<StagingPool::Chunk> chunk = pool_.Take(this);
  if (!chunk.ok()) return chunk.status();
  if (*chunk == nullptr) return std::span<const DeviceSpan>();
  chunk_ = *std::move(chunk);
  used_ = left_ = 0;
  uint64_t staged = 0;
  for (Scatter ahead = *scatter_; ahead.remaining() > 0 && staged < chunk_->span.bytes && left_ < kReceiveMost;) {
    const DeviceSpan to = ahead.Front(kReceiveMost - left_);
    const bool discards = to.memory == nullptr;
    const uint64_t bytes = discards ? to.bytes : std::min(to.bytes, chunk_->span.bytes - staged);
    if (!places_.empty() && (places_.back().memory == nullptr) == discards) {
      places_.back().bytes += bytes;
    } else if (places_.size() == kMostPlaces) {
      break;
    } else if (discards) {
      places_.push_back({.bytes = bytes});
    } else {
      places_.push_back({.memory = chunk_->span.memory, .offset = chunk_->span.offset + staged, .bytes = bytes});
    }
    if (!discards) staged += bytes;
    left_ += bytes;
    ahead.Advance(bytes);
  }
  return std::span<const DeviceSpan>(places_);
}

void StagedMove::Received(uint64_t bytes) {
  const TraceRange traced("copy to the device");
  Wave* const wave = waves_.emplace_back(std::make_unique<Wave>()).get();
  wave->bytes = bytes;
  wave->chunk = chunk_;
  left_ -= bytes;
  pokes_.clear();
  while (bytes > 0) {
    const DeviceSpan to = scatter_->Front(bytes);
    if (to.memory != nullptr) {
      PokePiece* const last = pokes_.empty() ? nullptr : &pokes_.back();
      if (last != nullptr && last->to.memory == to.memory && last->to.offset + last->to.bytes == to.offset) {
        last->to.bytes += to.bytes;
        last->from = {last->from.data(), last->to.bytes};
      } else {
        pokes_.push_back({.to = to, .from = chunk_->bytes.subspan(used_, to.bytes)});
      }
      used_ += to.bytes;
    }
    scatter_->Advance(to.bytes);
    bytes -= to.bytes;
  }
  if (left_ == 0) chunk_.reset();
  const absl::StatusOr<Event> event = pokes_.empty() ? Event() : pool_.device().Poke(pokes_);
  const auto done = [this, alive = alive_, wave, reactor = &pool_.reactor()](absl::Status status) {
    reactor->Post([this, alive, wave, status = std::move(status)] {
      if (*alive) OnDone(wave, status);
    });
  };
  if (event.ok()) {
    event->WhenDone(done);
  } else {
    done(event.status());
  }
}

void StagedMove::OnDone(Wave* wave, absl::Status status) {
  wave->done = true;
  wave->status = std::move(status);
  wave->chunk.reset();
  while (!waves_.empty() && waves_.front()->done) {
    const std::unique_ptr<Wave> first = std::move(waves_.front());
    waves_.pop_front();
    const std::shared_ptr<bool> alive = alive_;  // it may be destroyed by the last
    owner_.OnPlaced(first->bytes, std::move(first->status));
    if (!*alive) return;
  }
}

void StagedMove::Stop() {
  pool_.Forget(this);
  chunk_.reset();
}

}  // namespace devmem
