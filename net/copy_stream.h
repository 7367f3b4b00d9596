// SPDX-License-Identifier: Apache-2.0
// CopyStream: a ByteStream over an ordinary TCP socket. The kernel copies payload straight into its final place;
// only what was over-read with a head (less than 4 KiB) is copied twice.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "net/byte_stream.h"
#include "net/reactor.h"
#include "net/stream_socket.h"

namespace devmem {

class CopyStream final : public ByteStream {
 public:
  CopyStream(Reactor& reactor, Owner& owner);
  ~CopyStream() override;

  void Connect(const sockaddr* address, socklen_t length) override;
  void Send(std::string_view data) override;
  void Peek() override;
  [[nodiscard]] std::string_view held() const override { return std::string_view(held_).substr(skipped_); }
  void Skip(size_t bytes) override;
  void MoveTo(Scatter& scatter) override;
  void Nudge() override;
  [[nodiscard]] std::string_view why_copied() const override { return "this node has no other path"; }
  [[nodiscard]] bool Quiet() const override { return IsQuiet(fd_.get()); }
  void Close() override;

 private:
  struct Op final : Reactor::Operation {
    explicit Op(CopyStream* owner, void (CopyStream::*handler)(int)) : stream(owner), on_complete(handler) {}
    void Complete(int result) override {
      busy = false;
      (stream->*on_complete)(result);
    }
    CopyStream* stream;
    void (CopyStream::*on_complete)(int);
    bool busy = false;
  };

  void OnConnectDone(int result);
  void OnSendDone(int result);
  void OnPeekDone(int result);
  void OnMoveDone(int result);
  void ContinueMove();
  bool FinishClose();

  Reactor& reactor_;
  Owner& owner_;
  UniqueFd fd_;
  sockaddr_storage address_{};
  std::string held_;
  size_t skipped_ = 0;  // front of held_ that is gone
  std::string_view sending_;
  Scatter* scatter_ = nullptr;
  absl::Status deferred_;  // a failure to report from the next loop round
  std::array<iovec, 256> pieces_;
  LowWater low_water_;
  bool nudged_ = false;  // until the next bytes
  Op connect_{this, &CopyStream::OnConnectDone};
  Op send_{this, &CopyStream::OnSendDone};
  Op peek_{this, &CopyStream::OnPeekDone};
  Op move_{this, &CopyStream::OnMoveDone};
  bool closing_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // for posted tasks
};

}  // namespace devmem
