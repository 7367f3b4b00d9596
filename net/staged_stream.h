// SPDX-License-Identifier: Apache-2.0
// StagedStream: a ByteStream over an ordinary TCP socket to memory that the CPU cannot write. A CopyStream receives bodies
// into staging memory, and the device copies them to their places meanwhile: two copies, and a third of what was over-read
// with a head (less than 4 KiB). Bytes count as moved when the device is done with them.
#pragma once

#include <memory>

#include "net/copy_stream.h"
#include "net/staged_move.h"

namespace devmem {

class StagedStream final : public ByteStream, private ByteStream::Owner, private StagedMove::Owner {
 public:
  StagedStream(StagingPool& pool, ByteStream::Owner& owner);
  ~StagedStream() override;

  void Connect(const sockaddr* address, socklen_t length) override { socket_.Connect(address, length); }
  void Send(std::string_view data) override { socket_.Send(data); }
  void Peek() override { socket_.Peek(); }
  [[nodiscard]] std::string_view held() const override { return socket_.held(); }
  void Skip(size_t bytes) override { socket_.Skip(bytes); }
  void MoveTo(Scatter& scatter) override;
  void Nudge() override { socket_.Nudge(); }
  [[nodiscard]] std::string_view why_copied() const override { return socket_.why_copied(); }
  [[nodiscard]] bool Quiet() const override { return socket_.Quiet(); }
  void Close() override;

 private:
  // Of the socket.
  void OnConnected(absl::Status status) override { owner_.OnConnected(std::move(status)); }
  void OnSent(absl::Status status) override { owner_.OnSent(std::move(status)); }
  void OnPeek(absl::Status status) override { owner_.OnPeek(std::move(status)); }
  void OnProgress(uint64_t bytes, uint64_t copied) override;
  void OnMoved(absl::Status status) override;
  void OnClosed() override;
  // Of the device.
  void OnRoom() override;
  void OnPlaced(uint64_t bytes, absl::Status status) override;

  void Receive();
  void Failed(absl::Status status);
  void MaybeMoved();
  void MaybeClosed();

  Reactor& reactor_;
  ByteStream::Owner& owner_;
  CopyStream socket_;
  StagedMove move_;
  Scatter* scatter_ = nullptr;  // null when its end was told
  Scatter part_;                // what the socket receives now
  bool receiving_ = false;
  absl::Status failure_;  // to be told when what was received before is in place
  bool closing_ = false;
  bool socket_closed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace devmem
