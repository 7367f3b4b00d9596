// SPDX-License-Identifier: Apache-2.0
// DevmemStream: a ByteStream over a TCP socket whose payload a NIC writes into its landing pool. The kernel hands out fragments
// (dma-buf, offset, size, token) of it; a device gathers them to where they belong, and then their tokens go back to the
// kernel. Bytes may also come through host memory: what arrived before the rule, or where the NIC did not split
// (SCM_DEVMEM_LINEAR). They are as good, cost a copy, and are counted.
//
// A connection that cannot be steered is an ordinary one: everything comes as host bytes, straight into host-visible
// destinations.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/counters.h"
#include "base/unique_fd.h"
#include "net/byte_stream.h"
#include "net/netlink/uapi.h"
#include "net/reactor.h"
#include "net/rx/flow_steering.h"
#include "net/stream_socket.h"

namespace devmem {

// What all streams of a transport did. Payload is what MoveTo moved; heads are what Peek read and Skip took.
struct DevmemCounters {
  std::atomic<uint64_t> device_bytes{0};  // payload in fragments, gathered by the device
  std::atomic<uint64_t> host_bytes{0};    // payload that came through host memory: copied by the CPU
  std::atomic<uint64_t> linear_bytes{0};  // of what came through host memory (heads too), announced by SCM_DEVMEM_LINEAR
  std::atomic<uint64_t> head_bytes{0};
  std::atomic<uint64_t> fragments{0};
  std::atomic<uint64_t> tokens{0};          // outstanding: fragments the kernel waits for
  std::atomic<uint64_t> tokens_refused{0};  // given back and not taken: a fault, theirs or ours
  std::atomic<uint64_t> receives{0};        // recvmsg calls
  std::atomic<uint64_t> returns{0};         // SO_DEVMEM_DONTNEED calls
  std::atomic<uint64_t> steered{0};         // connections made with a rule, ever
  std::atomic<uint64_t> fallen_back{0};     // connections made without, ever
};

// What the streams of one Rx queue share. Everything is its worker's, but for `counters`.
struct DevmemQueue {
  Reactor* reactor = nullptr;
  Device* device = nullptr;
  FlowSteering* steering = nullptr;
  size_t queue = 0;             // as FlowSteering counts
  uint64_t receive_buffer = 0;  // SO_RCVBUF as the kernel counts it, bytes
  size_t max_steered = 0;       // connections the landing pools have room for
  size_t steered = 0;
  Time steer_again{};  // when a connection that could not be steered gives way to one that may be
  DevmemCounters* counters = nullptr;
  LatencyHistogram* gather = nullptr;  // of waves with device bytes; null: not observed
  std::function<void(const absl::Status& why)> fell_back;
  // The landing pool that is this dma-buf; nullptr: not ours. It lives as long as the streams. (Not one a queue: a connection
  // goes to the NIC of its route, and under a bond its bytes come by several.)
  std::function<DeviceMemory*(uint32_t dmabuf_id)> landing;
  std::span<std::byte> staging;  // where host bytes arrive; shared: its contents are taken before the next receive
  std::span<std::byte> control;
};

class DevmemStream final : public ByteStream {
 public:
  DevmemStream(DevmemQueue& queue, Owner& owner);
  ~DevmemStream() override;

  void Connect(const sockaddr* address, socklen_t length) override;
  void Send(std::string_view data) override;
  void Peek() override;
  [[nodiscard]] std::string_view held() const override { return std::string_view(held_).substr(skipped_); }
  void Skip(size_t bytes) override;
  void MoveTo(Scatter& scatter) override;
  void Nudge() override;
  [[nodiscard]] std::string_view why_copied() const override;
  [[nodiscard]] bool WorthKeeping() const override;
  [[nodiscard]] bool Quiet() const override { return IsQuiet(fd_.get()); }
  void Close() override;

 private:
  struct Op final : Reactor::Operation {
    explicit Op(DevmemStream* owner, void (DevmemStream::*handler)(int)) : stream(owner), on_complete(handler) {}
    void Complete(int result) override {
      busy = false;
      (stream->*on_complete)(result);
    }
    DevmemStream* stream;
    void (DevmemStream::*on_complete)(int);
    bool busy = false;
  };

  // Bytes of the stream in order, as one receive brought them.
  struct Piece {
    bool device = false;
    uint64_t offset = 0;  // into its landing pool; of host bytes: into what they were received to
    uint32_t size = 0;
    uint32_t token = 0;
    bool returns_token = true;        // false: more of the same fragment follows
    DeviceMemory* landing = nullptr;  // of device bytes
  };

  // What one receive brought, on its way to the destinations; ends when the device has moved all of it.
  struct Wave {
    uint64_t bytes = 0;
    uint64_t copied = 0;
    std::vector<uint32_t> tokens;
    std::deque<std::vector<std::byte>> host;  // bytes a device copies from here
    std::vector<Event> events;
    size_t left = 0;  // events under way
    absl::Status status;
    Time launched{};  // where a device moves some of it

    void Clear() {
      bytes = copied = 0;
      tokens.clear();
      host.clear();
      events.clear();
      status = absl::OkStatus();
      launched = {};
    }
  };

  void Steer(const sockaddr* address, socklen_t length);
  void Unsteer(absl::Status why);
  void OnConnectDone(int result);
  void OnSendDone(int result);
  void OnPeekDone(int result);
  void OnPeeked(absl::Status status);
  void OnMoveDone(int result);
  void OnWavesDone();
  // One recvmsg: the bytes, 0 when there are none now. Fills pieces_; host bytes lie in `into` one after another.
  absl::StatusOr<uint64_t> Receive(std::span<iovec> into);
  absl::Status TakePieces(msghdr& message, uint64_t bytes);
  // The device still moves what was received: nothing more is, until it has. What it holds is then one receive at most, which
  // is as much as can wait unread, and the landing pool has room for that twice. (Bytes would not do as a measure: 1,448 of
  // them may pin 64 KiB. The NIC goes on meanwhile, into the window.)
  [[nodiscard]] bool Moving() const {
    return std::ranges::any_of(waves_, [](const auto& wave) { return wave->left > 0; });
  }
  void ContinueMove();
  // One receive of the body, sent on its way: the bytes, 0 when there are none now.
  absl::StatusOr<uint64_t> ReceiveBody();
  absl::StatusOr<uint64_t> ReceiveInPlace();
  // Sends pieces on their way to the scatter: fragments by the device, host bytes out of `host`.
  void Launch(std::span<const Piece> pieces, std::span<const std::byte> host);
  [[nodiscard]] Wave& NewWave();
  void WatchWave(Wave& wave);
  void GatherRun(DeviceMemory* destination, DeviceMemory* landing, Wave& wave);
  void PlaceHost(DeviceSpan to, std::span<const std::byte> bytes, Wave& wave);
  // Reports and clears away the waves that are done; true while the move goes on.
  bool FinishWaves();
  void Moved(absl::Status status);
  void ReturnTokens(std::vector<uint32_t>& tokens);
  bool FinishClose();

  DevmemQueue& queue_;
  Owner& owner_;
  UniqueFd fd_;
  sockaddr_storage address_{};
  std::unique_ptr<FlowSteering::Lease> lease_;
  absl::Status not_steered_;
  LowWater low_water_;
  uint64_t batch_ = 0;  // bytes worth a wake-up, at most
  uint64_t share_ = 0;  // of the body under way: bytes a wake-up

  std::string held_;  // host copy of what is in rope_
  size_t skipped_ = 0;
  std::deque<Piece> rope_;       // received by Peek and not yet skipped or moved
  std::vector<uint32_t> loose_;  // tokens of what was skipped, to go back with the next
  std::string_view sending_;

  Scatter* scatter_ = nullptr;  // null when its end was told
  bool moved_ = false;          // the scatter has all its bytes launched
  bool nudged_ = false;
  uint64_t awaited_ = 0;       // bytes that a wake-up promises
  bool told_of_host_ = false;  // that bytes of a steered connection came through host memory
  std::deque<std::unique_ptr<Wave>> waves_;
  std::vector<std::unique_ptr<Wave>> spare_;
  size_t peeks_ = 0;  // reads of the device under way
  absl::Status peek_status_;

  std::vector<Piece> pieces_;
  std::vector<Fragment> fragments_;
  std::vector<PokePiece> pokes_;
  std::vector<iovec> iovecs_;
  uint32_t known_dmabuf_ = 0;              // the last one that was ours,
  DeviceMemory* known_landing_ = nullptr;  // and its memory
  uint64_t tokens_ = 0;                    // outstanding, of this socket

  Op connect_{this, &DevmemStream::OnConnectDone};
  Op send_{this, &DevmemStream::OnSendDone};
  Op peek_{this, &DevmemStream::OnPeekDone};
  Op move_{this, &DevmemStream::OnMoveDone};
  bool closing_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace devmem
