// SPDX-License-Identifier: Apache-2.0
// A body:
//   1. a chunk of staging memory is taken; while there is none, nothing is received
//   2. the socket receives into it. What has come, a chunk or less, goes on to the device at once
//   3. with the chunk full, back to 1, while the device still copies out of it
//   4. the device's events come: the bytes are told as progress, and the last of them as the end.
// A connection that breaks is told as broken after what it brought is in place, so that the next one goes on behind it.
#include "net/staged_stream.h"

#include <utility>

namespace devmem {

StagedStream::StagedStream(StagingPool& pool, ByteStream::Owner& owner)
    : reactor_(pool.reactor()), owner_(owner), socket_(pool.reactor(), *this), move_(pool, *this) {}

StagedStream::~StagedStream() { *alive_ = false; }

void StagedStream::MoveTo(Scatter& scatter) {
  scatter_ = &scatter;
  failure_ = absl::OkStatus();
  move_.Start(scatter);
  if (scatter.remaining() > 0) return Receive();
  reactor_.Post([this, alive = alive_] {
    if (*alive) MaybeMoved();
  });
}

void StagedStream::Receive() {
  if (closing_ || scatter_ == nullptr || receiving_ || !failure_.ok() || scatter_->remaining() == 0) return;
  const auto places = move_.Next();
  if (!places.ok()) {
    reactor_.Post([this, alive = alive_, status = places.status()] {
      if (*alive) Failed(status);
    });
    return;
  }
  if (places->empty()) return;  // OnRoom
  receiving_ = true;
  part_ = Scatter(*places, 0);
  socket_.MoveTo(part_);
}

void StagedStream::OnRoom() { Receive(); }

void StagedStream::OnProgress(uint64_t bytes, uint64_t /*copied*/) {
  if (scatter_ != nullptr) move_.Received(bytes);
}

void StagedStream::OnMoved(absl::Status status) {
  receiving_ = false;
  if (!status.ok()) return Failed(std::move(status));
  Receive();
}

void StagedStream::OnPlaced(uint64_t bytes, absl::Status status) {
  if (closing_) return MaybeClosed();
  if (scatter_ == nullptr) return;  // its failure was told
  if (!status.ok()) {               // the socket may still receive into its chunk, until it is closed
    scatter_ = nullptr;
    return owner_.OnMoved(std::move(status));
  }
  owner_.OnProgress(bytes, bytes);
  MaybeMoved();
}

void StagedStream::Failed(absl::Status status) {
  if (failure_.ok()) failure_ = std::move(status);
  move_.Stop();
  MaybeMoved();
}

void StagedStream::MaybeMoved() {
  if (closing_ || scatter_ == nullptr || !move_.idle() || receiving_) return;
  if (failure_.ok() && scatter_->remaining() > 0) return;
  scatter_ = nullptr;
  owner_.OnMoved(failure_);
}

void StagedStream::Close() {
  if (std::exchange(closing_, true)) return;
  socket_.Close();
}

void StagedStream::OnClosed() {
  socket_closed_ = true;
  move_.Stop();
  MaybeClosed();
}

void StagedStream::MaybeClosed() {
  if (socket_closed_ && move_.idle()) owner_.OnClosed();
}

}  // namespace devmem
