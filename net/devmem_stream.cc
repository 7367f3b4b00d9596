// SPDX-License-Identifier: Apache-2.0
// What a body costs on this path, once per share of it (kReceiveBatch at most) that the NIC has put into the landing pool:
//   1. SO_RCVLOWAT = the share: one wake-up
//   2. one recvmsg: a share of fragments, 40 bytes of control message each. The iov takes what came through host memory; its
//      length also bounds the device bytes, so that nothing beyond this body is received
//   3. one gather on the device, neighbours merged into one copy
//   4. one SO_DEVMEM_DONTNEED: tokens sorted and merged into runs. The kernel takes 128 runs and 1,024 fragments a call
// 2 to 4 again until the share is there. A head is a batch of one: its bytes are read back from the device into held_, and stay
// in the rope until the parser took them.
//
// Closing a socket frees all its tokens, whoever still reads that memory: so Close() waits for the gathers first.
#include "net/devmem_stream.h"

#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/trace.h"
#include "net/socket_address.h"

namespace devmem {
namespace {

constexpr size_t kHeadRead = 1 << 10;  // most heads are shorter; what comes with them is read back from the device for nothing
constexpr uint64_t kReceiveBatch = 2 << 20;
// How long a queue's connections stay ordinary ones after one could not be steered: then the next that is done gives way to a
// new one, so that a rule table with room again, or a binding made anew, is found at the cost of a connection a second.
constexpr Duration kSteerAgain = std::chrono::seconds(1);
constexpr size_t kMaxPieces = 256;  // iovecs of a receive straight into destinations

// The largest payload a segment should have so that payloads fill whole pages of a buffer, where the MTU has room for one: the
// kernel takes 12 bytes of timestamps out of the size told here. 0: leave it.
int PageFillingSegment(int fd, const std::string& interface, int family) {
  ifreq request{};
  interface.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(fd, SIOCGIFMTU, &request) != 0) return 0;
  int timestamps = 1;
  std::ifstream("/proc/sys/net/ipv4/tcp_timestamps") >> timestamps;
  const int options = timestamps != 0 ? 12 : 0;
  const int most = request.ifr_mtu - (family == AF_INET6 ? 60 : 40);
  for (const int page : {8192, 4096}) {
    if (most >= page + options) return page + options;
  }
  return 0;
}

// Sets SO_RCVBUF such that the kernel counts `bytes`, beyond rmem_max where we may; returns what it counts.
uint64_t SetReceiveBuffer(int fd, uint64_t bytes) {
  const int half = static_cast<int>(bytes / 2);  // the kernel doubles it
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof half) != 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &half, sizeof half);
  int counted = 0;
  socklen_t length = sizeof counted;
  getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &counted, &length);
  return static_cast<uint64_t>(counted);
}

void Add(std::atomic<uint64_t>& counter, uint64_t by) { counter.fetch_add(by, std::memory_order_relaxed); }

}  // namespace

DevmemStream::DevmemStream(DevmemQueue& queue, Owner& owner) : queue_(queue), owner_(owner) {}

DevmemStream::~DevmemStream() { *alive_ = false; }

void DevmemStream::Connect(const sockaddr* address, socklen_t length) {
  std::memcpy(&address_, address, length);
  absl::StatusOr<UniqueFd> fd = OpenStreamSocket(address->sa_family);
  if (!fd.ok()) {
    queue_.reactor->Post([this, alive = alive_, failure = fd.status()] {
      if (*alive && !closing_) owner_.OnConnected(failure);
    });
    return;
  }
  fd_ = *std::move(fd);
  // Before connect(): the window scale of the handshake follows from them.
  const uint64_t counted = SetReceiveBuffer(fd_.get(), queue_.receive_buffer);
  const int clamp = static_cast<int>(counted / 2);
  setsockopt(fd_.get(), IPPROTO_TCP, TCP_WINDOW_CLAMP, &clamp, sizeof clamp);
  // A quarter of what counts: buffers count in whole, however little payload they hold.
  batch_ = std::clamp<uint64_t>(counted / 4, 1, kReceiveBatch);
  Steer(address, length);
  connect_.busy = true;
  queue_.reactor->Connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address_), length, &connect_);
}

void DevmemStream::Steer(const sockaddr* address, socklen_t length) {
  if (queue_.steered >= queue_.max_steered) {
    return Unsteer(MakeError(absl::StatusCode::kResourceExhausted,
                             absl::StrCat("the landing pool has room for ", queue_.max_steered, " connections of this queue"),
                             {.fault = Fault::kLandingPoolFull,
                              .cause = "landing pool too small",
                              .action = "raise --landing-pool or lower --connections"}));
  }
  auto lease = queue_.steering->Steer(fd_.get(), address, length, queue_.queue);
  if (!lease.ok()) return Unsteer(lease.status());
  lease_ = *std::move(lease);
  ++queue_.steered;
  if (const int segment = PageFillingSegment(fd_.get(), lease_->interface(), address->sa_family); segment > 0) {
    setsockopt(fd_.get(), IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
  }
}

void DevmemStream::Unsteer(absl::Status why) {
  if (lease_ != nullptr) {
    lease_.reset();
    --queue_.steered;
  }
  not_steered_ = std::move(why);
  queue_.steer_again = queue_.reactor->Now() + kSteerAgain;
  Add(queue_.counters->fallen_back, 1);
  if (queue_.fell_back) queue_.fell_back(not_steered_);
}

std::string_view DevmemStream::why_copied() const {
  if (lease_ != nullptr) return "the NIC delivered bytes of a steered connection to host memory";
  return {not_steered_.message().data(), not_steered_.message().size()};
}

bool DevmemStream::WorthKeeping() const { return lease_ != nullptr || queue_.reactor->Now() < queue_.steer_again; }

void DevmemStream::OnConnectDone(int result) {
  if (FinishClose()) return;
  if (result != 0)
    return owner_.OnConnected(
        ConnectionError(-result, "connect to " + AddressText(reinterpret_cast<const sockaddr*>(&address_))));
  if (lease_ != nullptr) {
    unsigned napi = 0;
    socklen_t length = sizeof napi;
    getsockopt(fd_.get(), SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &length);
    if (absl::Status there = lease_->Check(napi); there.ok()) {
      Add(queue_.counters->steered, 1);
    } else {
      Unsteer(std::move(there));
    }
  }
  owner_.OnConnected(absl::OkStatus());
}

void DevmemStream::Send(std::string_view data) {
  sending_ = data;
  send_.busy = true;
  queue_.reactor->Send(fd_.get(), sending_.data(), sending_.size(), &send_);
}

void DevmemStream::OnSendDone(int result) {
  if (FinishClose()) return;
  if (result < 0) return owner_.OnSent(ConnectionError(-result, "send"));
  sending_.remove_prefix(static_cast<size_t>(result));
  if (!sending_.empty()) return Send(sending_);
  owner_.OnSent(absl::OkStatus());
}

absl::StatusOr<uint64_t> DevmemStream::Receive(std::span<iovec> into) {
  const TraceRange traced("receive");
  msghdr message{};
  message.msg_iov = into.data();
  message.msg_iovlen = into.size();
  message.msg_control = queue_.control.data();
  message.msg_controllen = queue_.control.size();
  Add(queue_.counters->receives, 1);
  const ssize_t got = ::recvmsg(fd_.get(), &message, uapi::kMsgSockDevmem | MSG_DONTWAIT);
  pieces_.clear();
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (got < 0) return ConnectionError(errno, "receive");
  if (got == 0) return ConnectionEnded();
  DEVMEM_RETURN_IF_ERROR(TakePieces(message, static_cast<uint64_t>(got)));
  return static_cast<uint64_t>(got);
}

absl::Status DevmemStream::TakePieces(msghdr& message, uint64_t bytes) {
  uint64_t told = 0, linear = 0, fragments = 0;
  absl::Status status;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET ||
        (header->cmsg_type != uapi::kSoDevmemDmabuf && header->cmsg_type != uapi::kSoDevmemLinear)) {
      continue;
    }
    uapi::DmabufCmsg fragment;
    std::memcpy(&fragment, CMSG_DATA(header), sizeof fragment);
    told += fragment.frag_size;
    if (header->cmsg_type == uapi::kSoDevmemLinear) {
      pieces_.push_back({.device = false, .offset = linear, .size = fragment.frag_size});
      linear += fragment.frag_size;
      continue;
    }
    ++fragments;
    if (fragment.dmabuf_id != known_dmabuf_ || known_landing_ == nullptr) {
      known_dmabuf_ = fragment.dmabuf_id;
      known_landing_ = queue_.landing(fragment.dmabuf_id);
      if (known_landing_ == nullptr) {
        status = MakeError(absl::StatusCode::kUnavailable,
                           absl::StrCat("payload arrived in dma-buf ", fragment.dmabuf_id, ", which is not ours"),
                           {.fault = Fault::kForeignMemory,
                            .cause = "foreign dma-buf",
                            .action = "another process bound the Rx queue: see ethtool -n and this daemon's log"});
      }
    }
    pieces_.push_back({.device = true,
                       .offset = fragment.frag_offset,
                       .size = fragment.frag_size,
                       .token = fragment.frag_token,
                       .landing = known_landing_});
    if (const uint64_t pool = known_landing_ == nullptr ? UINT64_MAX : known_landing_->bytes();
        fragment.frag_size > pool || fragment.frag_offset > pool - fragment.frag_size) {
      status = MakeError(absl::StatusCode::kInternal, "a fragment lies outside the landing pool",
                         {.offset = fragment.frag_offset,
                          .length = fragment.frag_size,
                          .cause = "bad fragment",
                          .action = "report a bug with this message"});
    }
  }
  tokens_ += fragments;
  Add(queue_.counters->tokens, fragments);
  Add(queue_.counters->fragments, fragments);
  Add(queue_.counters->linear_bytes, linear);
  DEVMEM_RETURN_IF_ERROR(status);
  if (pieces_.empty()) {
    pieces_.push_back({.device = false, .offset = 0, .size = static_cast<uint32_t>(bytes)});
  } else if (told != bytes) {
    return MakeError(absl::StatusCode::kInternal, absl::StrCat("a receive of ", bytes, " bytes described ", told, " of them"),
                     {.cause = "truncated control data", .action = "report a bug with this message and the kernel's version"});
  }
  return absl::OkStatus();
}

void DevmemStream::Peek() {
  held_.erase(0, skipped_);
  skipped_ = 0;
  low_water_.Set(fd_.get(), 1);
  peek_.busy = true;
  queue_.reactor->WaitReadable(fd_.get(), &peek_);
}

void DevmemStream::OnPeekDone(int result) {
  if (FinishClose()) return;
  if (result < 0) return owner_.OnPeek(ConnectionError(-result, "receive"));
  const size_t had = held_.size();
  iovec into{.iov_base = queue_.staging.data(),
             .iov_len = std::min({kHeadRead, kMaxHeld - std::min(had, kMaxHeld), queue_.staging.size()})};
  const absl::StatusOr<uint64_t> got = Receive({&into, 1});
  if (!got.ok()) return owner_.OnPeek(got.status());
  if (*got == 0) return Peek();
  held_.resize(had + *got);
  peek_status_ = absl::OkStatus();
  size_t at = had;
  std::vector<Event> events;
  for (const Piece& piece : pieces_) {
    char* const to = held_.data() + at;
    at += piece.size;
    rope_.push_back(piece);
    if (!piece.device) {
      std::memcpy(to, queue_.staging.data() + piece.offset, piece.size);
      continue;
    }
    absl::StatusOr<Event> event = queue_.device->Peek(std::as_writable_bytes(std::span(to, piece.size)),
                                                      {.memory = piece.landing, .offset = piece.offset, .bytes = piece.size});
    if (!event.ok()) {
      peek_status_ = event.status();  // told when those before it no longer write to held_
      break;
    }
    if (!event->Done()) events.push_back(*std::move(event));
  }
  if (events.empty()) return owner_.OnPeek(peek_status_);
  peeks_ = events.size();
  for (const Event& event : events) {
    event.WhenDone([this, alive = alive_, reactor = queue_.reactor](absl::Status status) {
      reactor->Post([this, alive, status = std::move(status)] {
        if (*alive) OnPeeked(status);
      });
    });
  }
}

void DevmemStream::OnPeeked(absl::Status status) {
  if (!status.ok()) peek_status_ = std::move(status);
  if (--peeks_ > 0) return;
  if (FinishClose()) return;
  owner_.OnPeek(peek_status_);
}

void DevmemStream::Skip(size_t bytes) {
  skipped_ += bytes;
  Add(queue_.counters->head_bytes, bytes);
  while (bytes > 0) {
    Piece& front = rope_.front();
    const auto taken = static_cast<uint32_t>(std::min<uint64_t>(front.size, bytes));
    front.offset += taken;
    front.size -= taken;
    bytes -= taken;
    if (front.size > 0) continue;
    if (front.device) loose_.push_back(front.token);
    rope_.pop_front();
  }
}

void DevmemStream::MoveTo(Scatter& scatter) {
  scatter_ = &scatter;
  share_ = 0;
  moved_ = scatter.remaining() == 0;
  std::vector<Piece> pieces;
  const size_t first = skipped_;
  uint64_t taken = 0;
  while (!rope_.empty() && taken < scatter.remaining()) {
    Piece& front = rope_.front();
    Piece part = front;
    part.size = static_cast<uint32_t>(std::min<uint64_t>(front.size, scatter.remaining() - taken));
    if (!part.device) part.offset = first + taken;
    part.returns_token = part.size == front.size;
    taken += part.size;
    front.offset += part.size;
    front.size -= part.size;
    if (front.size == 0) rope_.pop_front();
    pieces.push_back(part);
  }
  if (!pieces.empty()) Launch(pieces, std::as_bytes(std::span(held_)));
  skipped_ += taken;
  if (!moved_) return ContinueMove();
  // All of it was at hand: told from the next round.
  queue_.reactor->Post([this, alive = alive_] {
    if (*alive && !closing_) OnWavesDone();
  });
}

void DevmemStream::ContinueMove() {
  if (move_.busy || Moving()) return;
  const uint64_t left = scatter_->remaining();
  // Equal shares, so that one mark does to the end; of what the first share leaves over, the last takes its bytes along.
  if (share_ == 0 || share_ > left) share_ = left / ((left + batch_ - 1) / batch_);
  awaited_ = nudged_ ? 1 : share_;
  low_water_.Set(fd_.get(), awaited_);
  move_.busy = true;
  queue_.reactor->WaitReadable(fd_.get(), &move_);
}

void DevmemStream::OnMoveDone(int result) {
  if (FinishClose()) return;
  if (result < 0) return Moved(ConnectionError(-result, "receive"));
  if (!FinishWaves()) return;  // of what came with the head
  for (uint64_t due = awaited_; due > 0 && !Moving();) {
    const absl::StatusOr<uint64_t> got = ReceiveBody();
    if (!got.ok()) return Moved(got.status());
    if (*got == 0) break;
    nudged_ = false;
    if (!FinishWaves()) return;
    due -= std::min(due, *got);
  }
  ContinueMove();
}

absl::StatusOr<uint64_t> DevmemStream::ReceiveBody() {
  if (lease_ == nullptr) return ReceiveInPlace();
  const uint64_t left = scatter_->remaining();
  const uint64_t most = left < 2 * share_ ? left : share_;
  iovec into{.iov_base = queue_.staging.data(), .iov_len = std::min<uint64_t>(most, queue_.staging.size())};
  const absl::StatusOr<uint64_t> got = Receive({&into, 1});
  if (got.ok() && *got > 0) Launch(pieces_, queue_.staging);
  return got;
}

// An ordinary connection's bytes go straight to their place, if the CPU can write there.
absl::StatusOr<uint64_t> DevmemStream::ReceiveInPlace() {
  iovecs_.resize(kMaxPieces);
  const absl::StatusOr<size_t> filled = scatter_->Fill(iovecs_, queue_.staging.size(), Waste());
  const bool in_place = filled.ok();
  if (!in_place) {
    iovecs_[0] = {.iov_base = queue_.staging.data(),
                  .iov_len = std::min<uint64_t>(scatter_->remaining(), queue_.staging.size())};
  }
  const absl::StatusOr<uint64_t> got = Receive(std::span(iovecs_).first(in_place ? *filled : 1));
  if (!got.ok() || *got == 0) return got;
  if (pieces_.size() != 1 || pieces_[0].device) {
    // Gaps share one place to be thrown into: where bytes lie is not known any more once some came by the device.
    for (const Piece& piece : pieces_) {
      if (piece.device) loose_.push_back(piece.token);
    }
    ReturnTokens(loose_);
    return MakeError(absl::StatusCode::kUnavailable, "device memory holds bytes of a connection that was not steered",
                     {.fault = Fault::kForeignMemory,
                      .cause = "steered by others",
                      .action = "see ethtool -n for a rule that is not this daemon's"});
  }
  if (!in_place) {
    Launch(pieces_, queue_.staging);
    return got;
  }
  Wave& wave = NewWave();
  wave.bytes = wave.copied = *got;
  scatter_->Advance(*got);
  moved_ = scatter_->remaining() == 0;
  WatchWave(wave);
  return got;
}

void DevmemStream::Launch(std::span<const Piece> pieces, std::span<const std::byte> host) {
  const TraceRange traced("gather what was received");
  Wave& wave = NewWave();
  wave.tokens.swap(loose_);
  DeviceMemory *destination = nullptr, *landing = nullptr;
  fragments_.clear();
  for (const Piece& piece : pieces) {
    wave.bytes += piece.size;
    if (!piece.device) wave.copied += piece.size;
    if (piece.device && piece.returns_token) wave.tokens.push_back(piece.token);
    for (uint64_t done = 0; done < piece.size;) {
      const DeviceSpan to = scatter_->Front(piece.size - done);
      const uint64_t from = piece.offset + done;
      if (to.memory != nullptr && !piece.device) {
        PlaceHost(to, host.subspan(from, to.bytes), wave);
      } else if (to.memory != nullptr) {
        if (to.memory != destination || piece.landing != landing) {
          GatherRun(std::exchange(destination, to.memory), std::exchange(landing, piece.landing), wave);
        }
        Fragment* const last = fragments_.empty() ? nullptr : &fragments_.back();
        if (last != nullptr && last->source + last->bytes == from && last->destination + last->bytes == to.offset) {
          last->bytes += to.bytes;
        } else {
          fragments_.push_back({.source = from, .destination = to.offset, .bytes = to.bytes});
        }
      }
      done += to.bytes;
      scatter_->Advance(to.bytes);
    }
  }
  GatherRun(destination, landing, wave);
  if (!pokes_.empty()) {
    absl::StatusOr<Event> event = queue_.device->Poke(pokes_);
    pokes_.clear();
    if (!event.ok()) {
      wave.status = event.status();
    } else {
      wave.events.push_back(*std::move(event));
    }
  }
  moved_ = scatter_->remaining() == 0;
  WatchWave(wave);
}

void DevmemStream::GatherRun(DeviceMemory* destination, DeviceMemory* landing, Wave& wave) {
  if (destination == nullptr || fragments_.empty()) return;
  if (wave.launched == Time{}) wave.launched = Clock::now();
  absl::StatusOr<Event> event = queue_.device->Gather(*destination, *landing, fragments_);
  fragments_.clear();
  if (!event.ok()) {
    wave.status = event.status();
  } else {
    wave.events.push_back(*std::move(event));
  }
}

void DevmemStream::PlaceHost(DeviceSpan to, std::span<const std::byte> bytes, Wave& wave) {
  if (const auto there = to.memory->HostSpan(to.offset, to.bytes); there.has_value()) {
    std::memcpy(there->data(), bytes.data(), bytes.size());
    return;
  }
  // The device reads them later: they must not move meanwhile.
  pokes_.push_back({.to = to, .from = wave.host.emplace_back(bytes.begin(), bytes.end())});
}

DevmemStream::Wave& DevmemStream::NewWave() {
  if (spare_.empty()) spare_.push_back(std::make_unique<Wave>());
  waves_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  return *waves_.back();
}

void DevmemStream::WatchWave(Wave& wave) {
  std::erase_if(wave.events, [&wave](const Event& event) {
    if (!event.Done()) return false;
    if (absl::Status status = event.Wait(Time::min()); !status.ok()) wave.status = std::move(status);
    return true;
  });
  wave.left = wave.events.size();
  for (const Event& event : wave.events) {
    event.WhenDone([this, alive = alive_, reactor = queue_.reactor, &wave](absl::Status status) {
      reactor->Post([this, alive, &wave, status = std::move(status)] {
        if (!*alive) return;
        if (!status.ok()) wave.status = status;
        if (--wave.left > 0) return;
        if (!FinishClose()) OnWavesDone();
      });
    });
  }
}

bool DevmemStream::FinishWaves() {
  if (scatter_ == nullptr) return false;  // a device that was done meanwhile asked first
  while (!waves_.empty() && waves_.front()->left == 0) {
    std::unique_ptr<Wave> wave = std::move(waves_.front());
    waves_.pop_front();
    ReturnTokens(wave->tokens);
    if (wave->launched != Time{} && queue_.gather != nullptr) queue_.gather->Observe(Clock::now() - wave->launched);
    const uint64_t bytes = wave->bytes, copied = wave->copied;
    absl::Status status = std::move(wave->status);
    wave->Clear();
    spare_.push_back(std::move(wave));
    if (!status.ok()) {
      Moved(std::move(status));
      return false;
    }
    Add(queue_.counters->device_bytes, bytes - copied);
    Add(queue_.counters->host_bytes, copied);
    if (copied > 0 && lease_ != nullptr && !std::exchange(told_of_host_, true) && queue_.fell_back) {
      queue_.fell_back(
          MakeError(absl::StatusCode::kFailedPrecondition, why_copied(),
                    {.object = lease_->interface(),
                     .fault = Fault::kHostBytes,
                     .cause = "host bytes on a steered connection",
                     .action = "see ethtool -n and -g: rules or header split may be gone, or the NIC does not split"}));
    }
    if (bytes > 0) owner_.OnProgress(bytes, copied);
    if (closing_) return false;
  }
  if (!moved_) return true;
  if (waves_.empty()) Moved(absl::OkStatus());
  return false;
}

void DevmemStream::OnWavesDone() {
  if (FinishWaves()) ContinueMove();
}

void DevmemStream::Moved(absl::Status status) {
  scatter_ = nullptr;
  owner_.OnMoved(std::move(status));
}

void DevmemStream::ReturnTokens(std::vector<uint32_t>& tokens) {
  if (tokens.empty()) return;
  if (!std::is_sorted(tokens.begin(), tokens.end())) std::sort(tokens.begin(), tokens.end());
  std::array<uapi::DmabufToken, uapi::kMaxDontneedEntries> runs;
  size_t count = 0;
  uint32_t fragments = 0;
  const auto give_back = [&] {
    Add(queue_.counters->returns, 1);
    const int taken =
        setsockopt(fd_.get(), SOL_SOCKET, uapi::kSoDevmemDontneed, runs.data(), static_cast<socklen_t>(count * sizeof runs[0]));
    const auto accepted = static_cast<uint32_t>(std::max(taken, 0));
    if (accepted != fragments) Add(queue_.counters->tokens_refused, fragments - accepted);
    tokens_ -= accepted;
    queue_.counters->tokens.fetch_sub(accepted, std::memory_order_relaxed);
    count = fragments = 0;
  };
  for (const uint32_t token : tokens) {
    if (fragments == uapi::kMaxDontneedFragments) give_back();
    if (count > 0 && runs[count - 1].token_start + runs[count - 1].token_count == token) {
      ++runs[count - 1].token_count;
    } else {
      if (count == runs.size()) give_back();
      runs[count++] = {.token_start = token, .token_count = 1};
    }
    ++fragments;
  }
  give_back();
  tokens.clear();
}

void DevmemStream::Nudge() {
  if (closing_ || !move_.busy) return;  // what is to be reported is on its way
  nudged_ = true;
  low_water_.Set(fd_.get(), 1);  // the kernel looks at what is queued by the new mark, and wakes us
}

void DevmemStream::Close() {
  if (closing_) return;
  closing_ = true;
  if (connect_.busy || send_.busy || peek_.busy || move_.busy) {
    queue_.reactor->Cancel(fd_.get());
    return;
  }
  queue_.reactor->Post([this, alive = alive_] {
    if (*alive) FinishClose();
  });
}

bool DevmemStream::FinishClose() {
  if (!closing_) return false;
  if (connect_.busy || send_.busy || peek_.busy || move_.busy || peeks_ > 0 || Moving()) return true;
  // The kernel takes every token back with the socket; the rule goes after it, or its last packets would meet a queue of
  // strangers.
  if (fd_.valid()) queue_.reactor->Forget(fd_.get());
  fd_.Reset();
  queue_.counters->tokens.fetch_sub(std::exchange(tokens_, 0), std::memory_order_relaxed);
  if (lease_ != nullptr) {
    lease_.reset();
    --queue_.steered;
  }
  owner_.OnClosed();
  return true;
}

}  // namespace devmem
