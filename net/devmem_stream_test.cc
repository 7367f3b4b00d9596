// SPDX-License-Identifier: Apache-2.0
// DevmemStream against a kernel that is played: recvmsg and SO_DEVMEM_DONTNEED are wrapped (see datapath.cmake), so that every
// order of fragments, linear and plain bytes can be had, and memory given back too early is overwritten at once. The real
// kernel's part is tests/guest. The device is the CPU's, and another that works later, as a GPU does.
#include "net/devmem_stream.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <condition_variable>
#include <cstring>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "gpu/cpu_device.h"
#include "gpu/testing/late_device.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

constexpr Duration kPatience = std::chrono::seconds(20);
constexpr uint64_t kPool = 1 << 20;
constexpr uint32_t kPage = 4096;
constexpr uint32_t kDmabuf = 7, kOtherNics = 8;

// What lies there, also where the CPU is not meant to see it.
std::span<std::byte> Look(DeviceMemory& memory, uint64_t offset, uint64_t bytes) {
  return LateDevice::Look(memory, offset, bytes);
}

char PatternAt(uint64_t position) { return static_cast<char>((position * 2654435761u) >> 13); }

// What arrived and was not yet received: skbs in order, each of host bytes only or of fragments with linear bytes between them.
class PlayedKernel {
 public:
  struct Part {
    bool device = false;
    uint64_t at = 0;  // position in the stream
    uint32_t size = 0;
    bool other_nics = false;  // device: in the pool of another NIC
    uint64_t page = 0;        // device: where in the pool
    uint32_t within = 0;      // what was taken already
  };

  void Play(int fd, DeviceMemory* pool, std::vector<std::vector<Part>> skbs, uint32_t dmabuf = kDmabuf,
            DeviceMemory* other_nics = nullptr) {
    fd_ = fd;
    pools_ = {pool, other_nics};
    skbs_ = std::move(skbs);
    dmabuf_ = dmabuf;
    for (auto& skb : skbs_) {
      for (Part& part : skb) {
        if (!part.device) continue;
        part.page = free_page_++ % (kPool / kPage) * kPage;
        for (uint32_t i = 0; i < part.size; ++i) Pool(part, part.page + i) = static_cast<std::byte>(PatternAt(part.at + i));
      }
    }
  }
  void Forget() { fd_ = -1; }
  // From now on nothing may be received while tokens are out.
  void WantAllBackFirst() { all_back_first_ = true; }
  [[nodiscard]] bool plays(int fd) const { return fd == fd_; }

  ssize_t Receive(msghdr* message, int flags) {
    EXPECT_NE(flags & uapi::kMsgSockDevmem, 0);
    if (all_back_first_) {
      EXPECT_EQ(outstanding(), 0u);
    }
    if (rng_() % 8 == 0) {
      errno = EAGAIN;
      return -1;
    }
    size_t room = 0;
    for (size_t i = 0; i < message->msg_iovlen; ++i) room += message->msg_iov[i].iov_len;
    size_t control = 0;
    const size_t control_room = message->msg_controllen;
    ssize_t got = 0;
    size_t host = 0;
    bool device_call = false;
    while (!skbs_.empty() && room > 0) {
      auto& skb = skbs_.front();
      bool any = false;
      for (const Part& part : skb) any |= part.device;
      if (got > 0 && any != device_call) break;  // one call never mixes them
      device_call = any;
      while (!skb.empty() && room > 0) {
        Part& part = skb.front();
        const auto size = static_cast<uint32_t>(std::min<size_t>(part.size - part.within, room));
        if (any) {
          if (control + CMSG_SPACE(sizeof(uapi::DmabufCmsg)) > control_room) goto full;
          uapi::DmabufCmsg told{.frag_size = size, .dmabuf_id = part.other_nics ? kOtherNics : dmabuf_};
          auto* const header = reinterpret_cast<cmsghdr*>(static_cast<char*>(message->msg_control) + control);
          *header = {.cmsg_len = CMSG_LEN(sizeof told),
                     .cmsg_level = SOL_SOCKET,
                     .cmsg_type = part.device ? uapi::kSoDevmemDmabuf : uapi::kSoDevmemLinear};
          if (part.device) {
            told.frag_offset = part.page + part.within;
            told.frag_token = NextToken();
            out_[told.frag_token] = {part, size};
          }
          std::memcpy(CMSG_DATA(header), &told, sizeof told);
          control += CMSG_SPACE(sizeof told);
        }
        if (!part.device) {
          for (uint32_t i = 0; i < size; ++i) Put(message, host++, PatternAt(part.at + part.within + i));
        }
        part.within += size;
        room -= size;
        got += size;
        if (part.within == part.size) skb.erase(skb.begin());
      }
      if (skb.empty()) skbs_.erase(skbs_.begin());
      if (rng_() % 4 == 0) break;
    }
  full:
    message->msg_controllen = control;
    return got;  // 0 when all was received: the end
  }

  int GiveBack(const void* data, socklen_t length) {
    int taken = 0;
    const auto* const runs = static_cast<const uapi::DmabufToken*>(data);
    const size_t count = length / sizeof *runs;
    EXPECT_LE(count, static_cast<size_t>(uapi::kMaxDontneedEntries));
    for (size_t i = 0; i < count; ++i) {
      for (uint32_t token = runs[i].token_start; token < runs[i].token_start + runs[i].token_count; ++token) {
        const auto entry = out_.find(token);
        EXPECT_NE(entry, out_.end()) << "token " << token << " given back twice or never minted";
        if (entry == out_.end()) continue;
        // Whoever still reads it gets what the next packet brings.
        for (uint32_t j = 0; j < entry->second.size; ++j)
          Pool(entry->second.part, entry->second.part.page + entry->second.part.within + j) = std::byte{0xEE};
        out_.erase(entry);
        ++taken;
      }
    }
    EXPECT_LE(taken, uapi::kMaxDontneedFragments);
    return taken;
  }

  [[nodiscard]] size_t outstanding() const { return out_.size(); }

 private:
  struct Out {
    Part part;
    uint32_t size;
  };
  std::byte& Pool(const Part& part, uint64_t at) { return Look(*pools_.at(part.other_nics ? 1 : 0), at, 1).front(); }
  uint32_t NextToken() {  // the lowest that is free, as the kernel's table gives them
    uint32_t token = 1;
    for (const auto& [used, out] : out_) {
      if (used != token) break;
      ++token;
    }
    return token;
  }
  static void Put(msghdr* message, size_t at, char byte) {
    for (size_t i = 0; i < message->msg_iovlen; ++i) {
      if (at < message->msg_iov[i].iov_len) {
        static_cast<char*>(message->msg_iov[i].iov_base)[at] = byte;
        return;
      }
      at -= message->msg_iov[i].iov_len;
    }
  }

  int fd_ = -1;
  bool all_back_first_ = false;
  std::array<DeviceMemory*, 2> pools_{};
  std::vector<std::vector<Part>> skbs_;
  uint32_t dmabuf_ = kDmabuf;
  std::map<uint32_t, Out> out_;
  uint64_t free_page_ = 0;
  std::minstd_rand rng_{1};
};

PlayedKernel* kernel = nullptr;

}  // namespace

extern "C" {
ssize_t __real_recvmsg(int fd, msghdr* message, int flags);
int __real_setsockopt(int fd, int level, int name, const void* value, socklen_t length);
ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags) {
  if (kernel != nullptr && kernel->plays(fd)) return kernel->Receive(message, flags);
  return __real_recvmsg(fd, message, flags);
}
int __wrap_setsockopt(int fd, int level, int name, const void* value, socklen_t length) {
  if (kernel != nullptr && kernel->plays(fd) && level == SOL_SOCKET && name == uapi::kSoDevmemDontneed)
    return kernel->GiveBack(value, length);
  // The socket holds one byte for ever: with a higher mark it would not be readable.
  if (kernel != nullptr && kernel->plays(fd) && level == SOL_SOCKET && name == SO_RCVLOWAT) return 0;
  return __real_setsockopt(fd, level, name, value, length);
}
}

namespace {

// Is done between being asked whether it is and being told whom to tell: the callback comes inside the call.
class MeanwhileDevice final : public Device {
 public:
  std::string_view name() const override { return "meanwhile"; }
  std::string_view uuid() const override { return "meanwhile"; }
  absl::StatusOr<std::shared_ptr<DeviceMemory>> Allocate(uint64_t bytes, const AllocateOptions& options) override {
    return cpu_->Allocate(bytes, options);
  }
  absl::StatusOr<std::shared_ptr<DeviceMemory>> Import(ExportedHandle handle, std::string_view name) override {
    return cpu_->Import(std::move(handle), name);
  }
  absl::StatusOr<Event> Gather(DeviceMemory& to, DeviceMemory& from, std::span<const Fragment> fragments) override {
    return Meanwhile(cpu_->Gather(to, from, fragments));
  }
  absl::StatusOr<Event> Cast(DeviceSpan to, DeviceSpan from, const CastSpec& spec) override {
    return cpu_->Cast(to, from, spec);
  }
  absl::StatusOr<Event> GatherCast(DeviceSpan to, DeviceMemory& from, std::span<const Fragment> fragments,
                                   const GatherCastSpec& spec) override {
    return Meanwhile(cpu_->GatherCast(to, from, fragments, spec));
  }
  absl::StatusOr<Event> GatherChecksum(DeviceMemory& to, DeviceMemory& from, std::span<const Fragment> fragments, Checksum kind,
                                       std::span<uint64_t> sums) override {
    return Meanwhile(cpu_->GatherChecksum(to, from, fragments, kind, sums));
  }
  absl::StatusOr<Event> Peek(std::span<const PeekPiece> pieces) override { return Meanwhile(cpu_->Peek(pieces)); }
  absl::StatusOr<Event> Poke(std::span<const PokePiece> pieces) override { return Meanwhile(cpu_->Poke(pieces)); }
  absl::StatusOr<std::shared_ptr<DeviceMemory>> AllocateStaging(uint64_t bytes, std::string_view name) override {
    return cpu_->AllocateStaging(bytes, name);
  }
  absl::StatusOr<Event> After(void* stream) override { return cpu_->After(stream); }

 private:
  struct Ended final : Event::Impl {
    bool Done() override { return false; }
    absl::Status Wait(Time) override { return absl::OkStatus(); }
    void WhenDone(std::function<void(absl::Status)> call) override { call(absl::OkStatus()); }
  };
  static absl::StatusOr<Event> Meanwhile(const absl::StatusOr<Event>& done) {
    if (!done.ok()) return done;
    return Event(std::make_shared<Ended>());
  }
  std::unique_ptr<Device> cpu_ = MakeCpuDevice();
};

enum class When { kAtOnce, kLate, kMeanwhile };

const char* NameOf(When when) {
  constexpr std::array kNames = {"AtOnce", "Late", "Meanwhile"};
  return kNames[static_cast<size_t>(when)];
}

class Anywhere final : public FlowSteering {
 public:
  absl::Status Begin() override { return absl::OkStatus(); }
  class Somewhere final : public Lease {
   public:
    const std::string& interface() const override { return interface_; }
    size_t queue() const override { return 0; }
    absl::Status Check(uint32_t) const override { return absl::OkStatus(); }

   private:
    std::string interface_ = "lo";
  };
  absl::StatusOr<std::unique_ptr<Lease>> Steer(int, const sockaddr*, socklen_t, size_t) override {
    if (!refuse.ok()) return refuse;
    return std::unique_ptr<Lease>(std::make_unique<Somewhere>());
  }
  absl::Status refuse;
};

// One connection to a listener that sends a byte and holds still: the socket is readable for ever, and what is read is played.
class DevmemStreamTest : public testing::TestWithParam<When>, public ByteStream::Owner {
 protected:
  void SetUp() override {
    kernel = &kernel_;
    switch (GetParam()) {
      case When::kAtOnce:
        device_ = MakeCpuDevice();
        break;
      case When::kLate:
        device_ = std::make_unique<LateDevice>();
        break;
      case When::kMeanwhile:
        device_ = std::make_unique<MeanwhileDevice>();
    }
    pool_ = *device_->Allocate(kPool, {.name = "pool"});
    other_nics_ = *device_->Allocate(kPool, {.name = "other NIC's pool"});
    slab_ = *device_->Allocate(kPool, {.name = "slab"});
    other_ = *device_->Allocate(kPool, {.name = "other"});
    auto reactor = Reactor::Create("test", Reactor::Backend::kEpoll);
    ASSERT_TRUE(reactor.ok());
    reactor_ = *std::move(reactor);
    staging_.resize(256 << 10);
    control_.resize(4 << 10);  // about 100 fragments: less than some receives could bring
    queue_ = {.reactor = reactor_.get(),
              .device = device_.get(),
              .steering = &steering_,
              .receive_buffer = 256 << 10,
              .max_steered = 2,
              .counters = &counters_,
              .fell_back = [this](const absl::Status& why) { fell_back_ = why; },
              .landing = [this](uint32_t id) { return Landing(id); },
              .staging = staging_,
              .control = control_};
    listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(::listen(listener_.get(), 1), 0);
    ASSERT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    thread_ = std::thread([this] { reactor_->Run(); });
    OnLoop([&] {
      stream_ = std::make_unique<DevmemStream>(queue_, *this);
      stream_->Connect(reinterpret_cast<sockaddr*>(&address), length);
    });
    ASSERT_TRUE(Next("connected").ok());
    peer_ = UniqueFd(::accept(listener_.get(), nullptr, nullptr));
    ASSERT_EQ(::send(peer_.get(), "x", 1, 0), 1);
  }

  void TearDown() override {
    if (stream_ != nullptr) CloseStream();
    reactor_->Stop();
    thread_.join();
    device_.reset();
    kernel = nullptr;
  }

  DeviceMemory* Landing(uint32_t id) {
    if (id == kOtherNics) return other_nics_.get();
    return id == kDmabuf ? pool_.get() : nullptr;
  }

  void CloseStream() {
    OnLoop([&] { stream_->Close(); });
    ASSERT_TRUE(Next("closed").ok());
    kernel_.Forget();
    OnLoop([&] { stream_.reset(); });
    EXPECT_EQ(counters_.tokens.load(), 0u);
    EXPECT_EQ(queue_.steered, 0u);
  }

  void OnLoop(const std::function<void()>& task) {
    std::promise<void> ran;
    reactor_->Post([&] {
      task();
      ran.set_value();
    });
    ASSERT_EQ(ran.get_future().wait_for(kPatience), std::future_status::ready);
  }

  void Say(const std::string& what, absl::Status status) {
    std::lock_guard lock(mutex_);
    said_.emplace_back(what, std::move(status));
    changed_.notify_all();
  }
  absl::Status Next(const std::string& what) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [this] { return !said_.empty(); })) return absl::DeadlineExceededError(what);
    auto [name, status] = said_.front();
    said_.pop_front();
    EXPECT_EQ(name, what);
    return status;
  }

  void OnConnected(absl::Status status) override { Say("connected", std::move(status)); }
  void OnSent(absl::Status status) override { Say("sent", std::move(status)); }
  void OnPeek(absl::Status status) override { Say("peek", std::move(status)); }
  void OnProgress(uint64_t bytes, uint64_t copied) override {
    progress_ += bytes;
    copied_ += copied;
  }
  void OnMoved(absl::Status status) override { Say("moved", std::move(status)); }
  void OnClosed() override { Say("closed", absl::OkStatus()); }

  // In place of the stream there is.
  void ConnectWithoutALease() {
    CloseStream();
    steering_.refuse = absl::ResourceExhaustedError("no rule left");
    sockaddr_in address{};
    socklen_t length = sizeof address;
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length);
    OnLoop([&] {
      stream_ = std::make_unique<DevmemStream>(queue_, *this);
      stream_->Connect(reinterpret_cast<sockaddr*>(&address), length);
    });
    ASSERT_TRUE(Next("connected").ok());
  }

  int SocketOfStream() const {  // the one that is connected to our peer
    sockaddr_in mine{};
    socklen_t length = sizeof mine;
    getpeername(peer_.get(), reinterpret_cast<sockaddr*>(&mine), &length);
    for (int fd = 3; fd < 1024; ++fd) {
      sockaddr_in name{};
      socklen_t size = sizeof name;
      if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) == 0 && name.sin_port == mine.sin_port &&
          name.sin_family == AF_INET && fd != peer_.get() && fd != listener_.get()) {
        return fd;
      }
    }
    return -1;
  }

  // Skbs for the bytes [0, total), of sizes and kinds at random.
  static std::vector<std::vector<PlayedKernel::Part>> Skbs(uint64_t total, int host_percent, std::minstd_rand& rng) {
    std::vector<std::vector<PlayedKernel::Part>> skbs;
    const auto percent = [&rng](int p) { return static_cast<int>(rng() % 100) < p; };
    for (uint64_t at = 0; at < total;) {
      auto& skb = skbs.emplace_back();
      const bool host = percent(host_percent);
      const size_t parts = 1 + rng() % 4;
      for (size_t i = 0; i < parts && at < total; ++i) {
        const auto size = static_cast<uint32_t>(std::min<uint64_t>(1 + rng() % kPage, total - at));
        skb.push_back({.device = !host && !percent(host_percent / 2), .at = at, .size = size});
        at += size;
      }
    }
    return skbs;
  }

  PlayedKernel kernel_;
  std::unique_ptr<Device> device_;
  std::shared_ptr<DeviceMemory> pool_, other_nics_, slab_, other_;
  std::unique_ptr<Reactor> reactor_;
  DevmemCounters counters_;
  Anywhere steering_;
  std::vector<std::byte> staging_, control_;
  DevmemQueue queue_;
  absl::Status fell_back_;
  UniqueFd listener_, peer_;
  std::unique_ptr<DevmemStream> stream_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<std::string, absl::Status>> said_;
  uint64_t progress_ = 0, copied_ = 0;
};

// Gaps are thrown into one place; bytes through host memory must not be thrown there on their way to theirs.
TEST_P(DevmemStreamTest, BytesThroughHostMemoryBetweenGaps) {
  kernel_.Play(SocketOfStream(), pool_.get(),
               {{{.device = false, .at = 0, .size = 200}},
                {{.device = true, .at = 200, .size = 4096}, {.device = false, .at = 4296, .size = 200}}});
  const std::vector<DeviceSpan> places = {{.memory = slab_.get(), .offset = 0, .bytes = 200},
                                          {.bytes = 10},
                                          {.memory = slab_.get(), .offset = 200, .bytes = 50},
                                          {.bytes = 10},
                                          {.memory = slab_.get(), .offset = 250, .bytes = 4226}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  ASSERT_TRUE(Next("moved").ok());
  uint64_t position = 0;
  for (const DeviceSpan& place : places) {
    if (place.memory != nullptr) {
      const auto bytes = Look(*place.memory, place.offset, place.bytes);
      for (uint64_t i = 0; i < place.bytes; ++i) {
        ASSERT_EQ(static_cast<char>(bytes[i]), PatternAt(position + i)) << "at " << position + i;
      }
    }
    position += place.bytes;
  }
}

TEST_P(DevmemStreamTest, EveryByteInItsPlaceWhateverWayItCame) {
  for (unsigned seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    std::minstd_rand rng(seed * 7919);
    const uint64_t head = 1 + rng() % 700, body = 1 + rng() % 300'000;
    kernel_.Play(SocketOfStream(), pool_.get(), Skbs(head + body, static_cast<int>(seed % 4) * 20, rng));
    progress_ = copied_ = 0;
    // The head: as many peeks as it takes.
    while (true) {
      OnLoop([&] { stream_->Peek(); });
      ASSERT_TRUE(Next("peek").ok());
      bool enough = false;
      OnLoop([&] { enough = stream_->held().size() >= head; });
      if (enough) break;
    }
    OnLoop([&] {
      for (uint64_t i = 0; i < stream_->held().size(); ++i) ASSERT_EQ(stream_->held()[i], PatternAt(i)) << i;
      stream_->Skip(head);
    });
    // The body: into pieces of two memories and gaps that are thrown away.
    std::vector<DeviceSpan> places;
    uint64_t left = body, in_slab = 0, in_other = 0;
    while (left > 0) {
      const uint64_t size = std::min<uint64_t>(1 + rng() % 20'000, left);
      switch (rng() % 3) {
        case 0:
          places.push_back({.memory = slab_.get(), .offset = in_slab, .bytes = size});
          in_slab += size;
          break;
        case 1:
          places.push_back({.memory = other_.get(), .offset = in_other, .bytes = size});
          in_other += size;
          break;
        default:
          places.push_back({.bytes = size});
      }
      left -= size;
    }
    for (DeviceMemory* memory : {slab_.get(), other_.get()}) std::memset(Look(*memory, 0, kPool).data(), 0x55, kPool);
    Scatter scatter(places, 0);
    OnLoop([&] { stream_->MoveTo(scatter); });
    ASSERT_TRUE(Next("moved").ok());
    EXPECT_EQ(progress_, body);
    EXPECT_LE(copied_, body);
    uint64_t position = head;
    for (const DeviceSpan& place : places) {
      if (place.memory != nullptr) {
        const auto bytes = Look(*place.memory, place.offset, place.bytes);
        for (uint64_t i = 0; i < place.bytes; ++i)
          ASSERT_EQ(static_cast<char>(bytes[i]), PatternAt(position + i)) << position + i;
      }
      position += place.bytes;
    }
    EXPECT_EQ(Look(*slab_, in_slab, 1).front(), std::byte{0x55});
    EXPECT_EQ(kernel_.outstanding(), 0u);
    EXPECT_EQ(counters_.tokens.load(), 0u);
    EXPECT_EQ(counters_.tokens_refused.load(), 0u);
    OnLoop([&] { EXPECT_TRUE(stream_->held().empty()); });
  }
  EXPECT_GT(counters_.device_bytes.load(), counters_.head_bytes.load());
  EXPECT_GT(counters_.host_bytes.load(), 0u);
}

// What a head brought along may be all there is; a device that is done at once or later must not report it twice.
TEST_P(DevmemStreamTest, BodiesThatCameWithTheirHeads) {
  constexpr uint64_t kHead = 100, kBody = 200;
  const int fd = SocketOfStream();
  for (int i = 0; i < 300; ++i) {
    kernel_.Play(fd, pool_.get(), {{{.device = true, .at = 0, .size = kHead + kBody}}});
    while (true) {
      OnLoop([&] { stream_->Peek(); });
      ASSERT_TRUE(Next("peek").ok()) << i;
      bool enough = false;
      OnLoop([&] { enough = stream_->held().size() == kHead + kBody; });
      if (enough) break;
    }
    const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 7, .bytes = kBody}};
    Scatter scatter(places, 0);
    OnLoop([&] {
      stream_->Skip(kHead);
      stream_->MoveTo(scatter);
    });
    ASSERT_TRUE(Next("moved").ok()) << i;
    OnLoop([] {});
    OnLoop([] {});
    std::lock_guard lock(mutex_);
    ASSERT_TRUE(said_.empty()) << "'" << said_.front().first << "' was said again in round " << i;
  }
}

TEST_P(DevmemStreamTest, OnlyFragmentsMeansNoCopy) {
  std::minstd_rand rng(5);
  kernel_.Play(SocketOfStream(), pool_.get(), Skbs(200'000, 0, rng));
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 3, .bytes = 200'000}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  ASSERT_TRUE(Next("moved").ok());
  EXPECT_EQ(copied_, 0u);
  EXPECT_EQ(counters_.host_bytes.load(), 0u);
  EXPECT_EQ(counters_.device_bytes.load(), 200'000u);
}

// Under a bond: two NICs have the same pages of their pools for the same connection.
TEST_P(DevmemStreamTest, AFragmentIsGatheredFromTheMemoryOfItsNic) {
  constexpr uint64_t kBody = 64 * kPage;
  std::vector<std::vector<PlayedKernel::Part>> skbs;
  for (uint64_t at = 0; at < kBody; at += kPage) {
    skbs.push_back({{.device = true, .at = at, .size = kPage, .other_nics = at / kPage % 3 == 1}});
  }
  kernel_.Play(SocketOfStream(), pool_.get(), skbs, kDmabuf, other_nics_.get());
  OnLoop([&] { stream_->Peek(); });
  ASSERT_TRUE(Next("peek").ok());
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 0, .bytes = kBody}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  ASSERT_TRUE(Next("moved").ok());
  const auto bytes = Look(*slab_, 0, kBody);
  for (uint64_t i = 0; i < kBody; ++i) ASSERT_EQ(static_cast<char>(bytes[i]), PatternAt(i)) << i;
}

// What it holds is one receive at most: the landing pool's size is reckoned so.
TEST_P(DevmemStreamTest, NothingIsReceivedWhileTheDeviceMoves) {
  std::minstd_rand rng(9);
  kernel_.Play(SocketOfStream(), pool_.get(), Skbs(200'000, 0, rng));
  OnLoop([&] { stream_->Peek(); });
  ASSERT_TRUE(Next("peek").ok());
  kernel_.WantAllBackFirst();
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 0, .bytes = 200'000}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  ASSERT_TRUE(Next("moved").ok());
  EXPECT_EQ(counters_.device_bytes.load(), 200'000u);
}

TEST_P(DevmemStreamTest, TheEndInMidBodyIsUnavailable) {
  std::minstd_rand rng(6);
  kernel_.Play(SocketOfStream(), pool_.get(), Skbs(50'000, 10, rng));
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 0, .bytes = 60'000}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  EXPECT_TRUE(absl::IsUnavailable(Next("moved")));
}

TEST_P(DevmemStreamTest, AnothersDmaBufIsNeverGathered) {
  std::minstd_rand rng(6);
  kernel_.Play(SocketOfStream(), pool_.get(), Skbs(5'000, 0, rng), kDmabuf + 9);
  std::memset(Look(*slab_, 0, kPool).data(), 0x55, kPool);
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 0, .bytes = 5'000}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  const absl::Status status = Next("moved");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(Look(*slab_, 0, 1).front(), std::byte{0x55});
  CloseStream();  // with its tokens outstanding
}

TEST_P(DevmemStreamTest, CloseWaitsForTheDevice) {
  std::minstd_rand rng(8);
  kernel_.Play(SocketOfStream(), pool_.get(), Skbs(300'000, 0, rng));
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 0, .bytes = 400'000}};
  Scatter scatter(places, 0);
  OnLoop([&] {
    stream_->MoveTo(scatter);
    reactor_->Post([&] { stream_->Close(); });
  });
  while (Next("closed").code() == absl::StatusCode::kUnavailable) {
  }
  OnLoop([&] { stream_.reset(); });
  kernel_.Forget();
  EXPECT_EQ(counters_.tokens.load(), 0u);
}

TEST_P(DevmemStreamTest, NoLeaseMeansAnOrdinaryConnection) {
  ConnectWithoutALease();
  EXPECT_EQ(counters_.fallen_back.load(), 1u);
  EXPECT_EQ(fell_back_.message(), "no rule left");
  peer_ = UniqueFd(::accept(listener_.get(), nullptr, nullptr));
  ASSERT_EQ(::send(peer_.get(), "hello, world", 12, 0), 12);
  const std::vector<DeviceSpan> places{
      {.memory = slab_.get(), .offset = 100, .bytes = 5}, {.bytes = 2}, {.memory = slab_.get(), .offset = 9, .bytes = 5}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  ASSERT_TRUE(Next("moved").ok());
  EXPECT_EQ(copied_, 12u);
  EXPECT_EQ(std::memcmp(Look(*slab_, 100, 5).data(), "hello", 5), 0);
  EXPECT_EQ(std::memcmp(Look(*slab_, 9, 5).data(), "world", 5), 0);
  EXPECT_EQ(stream_->why_copied(), "no rule left");
  OnLoop([&] {
    queue_.steer_again = Time::max();
    EXPECT_TRUE(stream_->WorthKeeping()) << "a new one would fare no better yet";
    queue_.steer_again = reactor_->Now();
    EXPECT_FALSE(stream_->WorthKeeping());
  });
}

// What others steer into the landing pool cannot be placed where gaps were to be thrown away: another connection is asked.
TEST_P(DevmemStreamTest, FragmentsOfAnOrdinaryConnectionAreGivenBack) {
  ConnectWithoutALease();
  peer_ = UniqueFd(::accept(listener_.get(), nullptr, nullptr));
  ASSERT_EQ(::send(peer_.get(), "x", 1, 0), 1);
  kernel_.Play(SocketOfStream(), pool_.get(), {{{.device = true, .at = 0, .size = 100}}});
  const std::vector<DeviceSpan> places{{.memory = slab_.get(), .offset = 0, .bytes = 500}};
  Scatter scatter(places, 0);
  OnLoop([&] { stream_->MoveTo(scatter); });
  const absl::Status status = Next("moved");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(counters_.tokens.load(), 0u);
  CloseStream();
}

INSTANTIATE_TEST_SUITE_P(Devices, DevmemStreamTest, testing::Values(When::kAtOnce, When::kLate, When::kMeanwhile),
                         [](const auto& param) { return NameOf(param.param); });

}  // namespace
}  // namespace devmem
