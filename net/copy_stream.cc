// SPDX-License-Identifier: Apache-2.0
// What a body costs on this path: one receive for every kReceiveBatch that piled up in the socket, each straight
// into up to 256 pieces of slab; SO_RCVLOWAT keeps the kernel from waking us for less:
//   1. head: low water 1, receive into held_ (4 KiB at a time)
//   2. body: what was over-read is copied to its place; then low water min(kReceiveBatch, bytes left) and receive
//   3. a link so slow that the owner asks (Nudge): low water 1 until something was received, then 2 again
//   4. the tail lowers the mark again, so that the last bytes never wait for more than is coming.
#include "net/copy_stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/socket_address.h"

namespace devmem {
namespace {

constexpr size_t kHeadRead = 4 << 10;
// Bytes worth a wake-up. Larger batches save wake-ups but let the receive queue outgrow the cache.
constexpr uint64_t kReceiveBatch = 512 << 10;
constexpr uint64_t kReceiveMost = 4 << 20;  // most that one receive describes

}  // namespace

CopyStream::CopyStream(Reactor& reactor, Owner& owner) : reactor_(reactor), owner_(owner) {}

CopyStream::~CopyStream() { *alive_ = false; }

void CopyStream::Connect(const sockaddr* address, socklen_t length) {
  std::memcpy(&address_, address, length);
  absl::StatusOr<UniqueFd> fd = OpenStreamSocket(address->sa_family);
  if (!fd.ok()) {
    reactor_.Post([this, alive = alive_, failure = fd.status()] {
      if (*alive && !closing_) owner_.OnConnected(failure);
    });
    return;
  }
  fd_ = *std::move(fd);
  connect_.busy = true;
  reactor_.Connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address_), length, &connect_);
}

void CopyStream::OnConnectDone(int result) {
  if (FinishClose()) return;
  owner_.OnConnected(result == 0
                         ? absl::OkStatus()
                         : ConnectionError(-result, "connect to " + AddressText(reinterpret_cast<const sockaddr*>(&address_))));
}

void CopyStream::Send(std::string_view data) {
  sending_ = data;
  send_.busy = true;
  reactor_.Send(fd_.get(), sending_.data(), sending_.size(), &send_);
}

void CopyStream::OnSendDone(int result) {
  if (FinishClose()) return;
  if (result < 0) return owner_.OnSent(ConnectionError(-result, "send"));
  sending_.remove_prefix(static_cast<size_t>(result));
  if (!sending_.empty()) return Send(sending_);
  owner_.OnSent(absl::OkStatus());
}

void CopyStream::Peek() {
  held_.erase(0, skipped_);
  skipped_ = 0;
  const size_t had = held_.size();
  const size_t more = std::min(kHeadRead, kMaxHeld - std::min(had, kMaxHeld));
  low_water_.Set(fd_.get(), 1);
  held_.resize(had + more);
  pieces_[0] = {.iov_base = held_.data() + had, .iov_len = more};
  peek_.busy = true;
  reactor_.Receive(fd_.get(), pieces_.data(), 1, 1, &peek_);
}

void CopyStream::OnPeekDone(int result) {
  held_.resize(held_.size() - pieces_[0].iov_len + static_cast<size_t>(std::max(result, 0)));
  if (FinishClose()) return;
  if (result == -EAGAIN || result == -EINTR) return Peek();
  if (result < 0) return owner_.OnPeek(ConnectionError(-result, "receive"));
  owner_.OnPeek(result == 0 ? ConnectionEnded() : absl::OkStatus());
}

void CopyStream::Skip(size_t bytes) { skipped_ += bytes; }

void CopyStream::MoveTo(Scatter& scatter) {
  scatter_ = &scatter;
  const std::string_view ready = held().substr(0, std::min<uint64_t>(held().size(), scatter.remaining()));
  const absl::Status placed = scatter.Place(std::as_bytes(std::span(ready.data(), ready.size())));
  Skip(ready.size());
  const bool done = scatter.remaining() == 0;
  if (!placed.ok() || done) {
    reactor_.Post([this, alive = alive_, placed, count = ready.size()] {
      if (!*alive || closing_) return;
      if (count > 0) owner_.OnProgress(count, count);
      if (!closing_) owner_.OnMoved(placed);
    });
    return;
  }
  if (!ready.empty()) owner_.OnProgress(ready.size(), ready.size());
  if (!closing_) ContinueMove();
}

void CopyStream::ContinueMove() {
  const absl::StatusOr<size_t> count = scatter_->Fill(pieces_, kReceiveMost, Waste());
  if (!count.ok()) {
    reactor_.Post([this, alive = alive_, failure = count.status()] {
      if (*alive && !closing_) owner_.OnMoved(failure);
    });
    return;
  }
  const uint64_t wait = nudged_ ? 1 : std::min(kReceiveBatch, scatter_->remaining());
  low_water_.Set(fd_.get(), wait);
  move_.busy = true;
  reactor_.Receive(fd_.get(), pieces_.data(), *count, wait, &move_);
}

void CopyStream::OnMoveDone(int result) {
  if (FinishClose()) return;
  if (result == -EAGAIN || result == -EINTR) return ContinueMove();
  if (result < 0) return owner_.OnMoved(ConnectionError(-result, "receive"));
  if (result == 0) return owner_.OnMoved(ConnectionEnded());
  nudged_ = false;
  scatter_->Advance(static_cast<uint64_t>(result));
  const bool done = scatter_->remaining() == 0;
  owner_.OnProgress(static_cast<uint64_t>(result), static_cast<uint64_t>(result));
  if (closing_) return;
  if (done) return owner_.OnMoved(absl::OkStatus());
  ContinueMove();
}

void CopyStream::Nudge() {
  if (closing_ || !move_.busy) return;  // what is to be reported is on its way
  nudged_ = true;
  low_water_.Set(fd_.get(), 1);  // the kernel looks at what is queued by the new mark, and wakes the receive under way
}

void CopyStream::Close() {
  if (closing_) return;
  closing_ = true;
  if (connect_.busy || send_.busy || peek_.busy || move_.busy) {
    reactor_.Cancel(fd_.get());
    return;
  }
  reactor_.Post([this, alive = alive_] {
    if (*alive) FinishClose();
  });
}

bool CopyStream::FinishClose() {
  if (!closing_) return false;
  if (connect_.busy || send_.busy || peek_.busy || move_.busy) return true;
  if (fd_.valid()) reactor_.Forget(fd_.get());
  fd_.Reset();
  owner_.OnClosed();
  return true;
}

}  // namespace devmem
