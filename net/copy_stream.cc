// SPDX-License-Identifier: Apache-2.0
// What a body costs on this path: one receive for every kReceiveBatch that piled up in the socket, each straight
// into up to 256 pieces of slab; SO_RCVLOWAT keeps the kernel from waking us for less:
//   1. head: low water 1, receive into held_ (4 KiB at a time)
//   2. body: what was over-read is copied to its place; then low water min(kReceiveBatch, bytes left) and receive
//   3. a link so slow that the owner asks (Nudge): low water 1 until something was received, then 2 again
//   4. the tail lowers the mark again, so that the last bytes never wait for more than is coming.
#include "net/copy_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace devmem {
namespace {

constexpr size_t kHeadRead = 4 << 10;
// Bytes worth a wake-up. Larger batches save wake-ups but let the receive queue outgrow the cache.
constexpr uint64_t kReceiveBatch = 512 << 10;
constexpr uint64_t kReceiveMost = 4 << 20;  // most that one receive describes

absl::Status SocketError(int error, std::string_view what) {
  // Whatever broke a connection, another one may work: the caller retries kUnavailable.
  const std::string text = Text(ErrnoError(error, what));
  return MakeError(absl::StatusCode::kUnavailable, text, {.cause = strerror(error)});
}

absl::Status Ended() {
  return MakeError(absl::StatusCode::kUnavailable, "the server closed the connection", {.cause = "connection closed"});
}

}  // namespace

CopyStream::CopyStream(Reactor& reactor, Owner& owner) : reactor_(reactor), owner_(owner) {}

CopyStream::~CopyStream() { *alive_ = false; }

void CopyStream::Connect(const sockaddr* address, socklen_t length) {
  std::memcpy(&address_, address, length);
  fd_ = UniqueFd(::socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd_.valid()) {
    const int error = errno;
    absl::Status failure =
        error == EMFILE || error == ENFILE
            ? MakeError(absl::StatusCode::kUnavailable, "no file descriptor is left for a connection",
                        {.cause = "out of file descriptors", .action = "raise the limit (ulimit -n) or lower --connections"})
            : ErrnoError(error, "socket");
    reactor_.Post([this, alive = alive_, failure] {
      if (*alive && !closing_) owner_.OnConnected(failure);
    });
    return;
  }
  const int on = 1;
  setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  connect_.busy = true;
  reactor_.Connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address_), length, &connect_);
}

void CopyStream::OnConnectDone(int result) {
  if (FinishClose()) return;
  owner_.OnConnected(result == 0 ? absl::OkStatus() : SocketError(-result, "connect"));
}

void CopyStream::Send(std::string_view data) {
  sending_ = data;
  send_.busy = true;
  reactor_.Send(fd_.get(), sending_.data(), sending_.size(), &send_);
}

void CopyStream::OnSendDone(int result) {
  if (FinishClose()) return;
  if (result < 0) return owner_.OnSent(SocketError(-result, "send"));
  sending_.remove_prefix(static_cast<size_t>(result));
  if (!sending_.empty()) return Send(sending_);
  owner_.OnSent(absl::OkStatus());
}

void CopyStream::Peek() {
  held_.erase(0, skipped_);
  skipped_ = 0;
  const size_t had = held_.size();
  const size_t more = std::min(kHeadRead, kMaxHeld - std::min(had, kMaxHeld));
  WaitFor(1);
  held_.resize(had + more);
  pieces_[0] = {.iov_base = held_.data() + had, .iov_len = more};
  peek_.busy = true;
  reactor_.Receive(fd_.get(), pieces_.data(), 1, 1, &peek_);
}

void CopyStream::OnPeekDone(int result) {
  held_.resize(held_.size() - pieces_[0].iov_len + static_cast<size_t>(std::max(result, 0)));
  if (FinishClose()) return;
  if (result == -EAGAIN || result == -EINTR) return Peek();
  if (result < 0) return owner_.OnPeek(SocketError(-result, "receive"));
  owner_.OnPeek(result == 0 ? Ended() : absl::OkStatus());
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
      if (count > 0) owner_.OnProgress(count);
      owner_.OnMoved(placed);
    });
    return;
  }
  if (!ready.empty()) owner_.OnProgress(ready.size());
  ContinueMove();
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
  WaitFor(wait);
  move_.busy = true;
  reactor_.Receive(fd_.get(), pieces_.data(), *count, wait, &move_);
}

void CopyStream::OnMoveDone(int result) {
  if (FinishClose()) return;
  if (result == -EAGAIN || result == -EINTR) return ContinueMove();
  if (result < 0) return owner_.OnMoved(SocketError(-result, "receive"));
  if (result == 0) return owner_.OnMoved(Ended());
  nudged_ = false;
  scatter_->Advance(static_cast<uint64_t>(result));
  const bool done = scatter_->remaining() == 0;
  owner_.OnProgress(static_cast<uint64_t>(result));
  if (closing_) return;
  if (done) return owner_.OnMoved(absl::OkStatus());
  ContinueMove();
}

void CopyStream::Nudge() {
  if (closing_ || !move_.busy) return;  // what is to be reported is on its way
  nudged_ = true;
  WaitFor(1);  // the kernel looks at what is queued by the new mark, and wakes the receive under way
}

void CopyStream::WaitFor(uint64_t bytes) {
  if (bytes == low_water_) return;
  const int mark = static_cast<int>(bytes);
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark) == 0) low_water_ = bytes;
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
  fd_.Reset();
  owner_.OnClosed();
  return true;
}

}  // namespace devmem
