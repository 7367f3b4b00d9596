// SPDX-License-Identifier: Apache-2.0
// ByteStream: the bytes of one connection in order, wherever they lie. HTTP (later TLS) is written on it once;
// transports implement it: `copy` receives straight into the destination, `devmem` holds a rope of device
// fragments and host pieces.
//
// Scatter: where the bytes of a body go — a walk over a list of destinations, some of which discard.
//
// Threads: everything happens on one reactor's thread. One operation a direction at a time. Results come to the
// Owner, never inside the call that asked for them.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "gpu/device.h"

namespace devmem {

// Where discarded bytes go. One a thread: its contents mean nothing, so that any number of receives may write to it.
[[nodiscard]] std::span<std::byte> Waste();

class Scatter {
 public:
  Scatter() = default;
  // Walks [skip, sum of bytes) of `destinations`, which must outlive it.
  Scatter(std::span<const DeviceSpan> destinations, uint64_t skip);

  [[nodiscard]] uint64_t remaining() const { return remaining_; }

  // Describes the next bytes as iovecs: at most `max_bytes` and `pieces.size()` of them. Discarded bytes point into
  // `waste`. Returns the number of iovecs, or kUnimplemented if a destination is not host-visible.
  [[nodiscard]] absl::StatusOr<size_t> Fill(std::span<iovec> pieces, uint64_t max_bytes, std::span<std::byte> waste) const;

  // The next destination, cut to `max_bytes`; memory is null where they are discarded. remaining() must not be 0.
  [[nodiscard]] DeviceSpan Front(uint64_t max_bytes) const;

  // Copies `bytes` (at most remaining()) to where they belong and advances.
  [[nodiscard]] absl::Status Place(std::span<const std::byte> bytes);

  void Advance(uint64_t bytes);

 private:
  std::span<const DeviceSpan> list_;
  size_t index_ = 0;
  uint64_t within_ = 0;  // bytes of list_[index_] already done
  uint64_t remaining_ = 0;
};

class ByteStream {
 public:
  class Owner {
   public:
    virtual void OnConnected(absl::Status status) = 0;
    virtual void OnSent(absl::Status status) = 0;
    // held() grew, or the stream failed or ended (kUnavailable).
    virtual void OnPeek(absl::Status status) = 0;
    // So many bytes reached their destinations; more may come. `copied` of them the CPU moved there, or read to throw them
    // away; the others a device moved.
    virtual void OnProgress(uint64_t bytes, uint64_t copied) = 0;
    // The whole scatter is done, or the stream failed or ended before (kUnavailable).
    virtual void OnMoved(absl::Status status) = 0;
    // Close() is complete: nothing touches any destination. The stream may be destroyed now, not before.
    virtual void OnClosed() = 0;

   protected:
    ~Owner() = default;
  };

  virtual ~ByteStream() = default;
  virtual void Connect(const sockaddr* address, socklen_t length) = 0;
  // `data` must live until OnSent.
  virtual void Send(std::string_view data) = 0;
  // Waits for bytes beyond held() (at most kMaxHeld in all).
  virtual void Peek() = 0;
  // What was received into host memory and not yet skipped or moved.
  [[nodiscard]] virtual std::string_view held() const = 0;
  virtual void Skip(size_t bytes) = 0;
  // Moves scatter.remaining() bytes, held ones first. The scatter is the caller's and advances as bytes arrive.
  virtual void MoveTo(Scatter& scatter) = 0;
  // While MoveTo is under way: reports what has arrived, however little, with OnProgress; or else the next byte to come.
  // Without it a stream may wait for as much as is worth a wake-up, which on a slow link is as good as silence.
  virtual void Nudge() = 0;
  // Why the CPU copies what a device could have moved; for errors and logs.
  [[nodiscard]] virtual std::string_view why_copied() const = 0;
  // Whether the connection is as good as a new one would be.
  [[nodiscard]] virtual bool WorthKeeping() const { return true; }
  // While nothing is under way: whether nothing has come since, neither bytes nor the end.
  [[nodiscard]] virtual bool Quiet() const = 0;
  // Abandons whatever is under way; OnClosed follows. Calls of the abandoned operations are not made.
  virtual void Close() = 0;

  static constexpr size_t kMaxHeld = 16 << 10;
};

}  // namespace devmem
