// SPDX-License-Identifier: Apache-2.0
// Ranges from a real nginx and from files, on both receive loops, to memory that the CPU can write and that it cannot. Faults
// that nginx cannot provoke are the end-to-end tests' (tests/e2e/fault_server.py).
#include "net/copy_transport.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gpu/testing/late_device.h"
#include "gtest/gtest.h"
#include "net/http_fields.h"
#include "net/staging_pool.h"
#include "net/testing/nginx.h"

namespace devmem {
namespace {

constexpr Duration kPatience = std::chrono::seconds(60);

class Waiter final : public RangeRead {
 public:
  void Done() override {
    if (on_done) on_done();
    done_.set_value();
  }
  std::function<void()> on_done;
  [[nodiscard]] bool Wait() { return done_.get_future().wait_for(kPatience) == std::future_status::ready; }

 private:
  std::promise<void> done_;
};

struct Backend {
  Reactor::Backend loop;
  bool file;
  const char* name;
  bool hidden = false;  // the destinations are memory that the CPU cannot write
};

class CopyTransportTest : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (GetParam().loop == Reactor::Backend::kIoUring) {
      if (const auto probe = Reactor::Create("probe", Reactor::Backend::kIoUring); !probe.ok())
        GTEST_SKIP() << "io_uring is refused here: " << probe.status();
    }
    char folder[] = "/tmp/devmem-transport-XXXXXX";
    root_ = mkdtemp(folder);
    std::mt19937_64 random(1);
    content_.resize(3'000'000);
    for (char& c : content_) c = static_cast<char>(random());
    Write(content_);
    auto nginx = NginxServer::Start({.root = root_});
    ASSERT_TRUE(nginx.ok()) << nginx.status();
    nginx_ = *std::move(nginx);
    ReadPolicy policy{
        .max_retries = 3, .backoff_first = std::chrono::milliseconds(1), .backoff_max = std::chrono::milliseconds(20)};
    if (GetParam().hidden) {
      late_ = std::make_shared<LateDevice>();
      device_ = late_;
    }
    auto transport =
        MakeCopyTransport({.connections = 3, .backend = GetParam().loop, .policy = policy, .device = device_}, "a test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
    auto store = OpenStore(GetParam().file ? "file://" + root_.string() : nginx_->url(), {});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    auto listing = store_->List(Clock::now() + kPatience, nullptr);
    ASSERT_TRUE(listing.ok()) << listing.status();
    listing_ = *std::move(listing);
    auto memory = device_->Allocate(4 << 20, {.name = "test"});
    ASSERT_TRUE(memory.ok());
    memory_ = *std::move(memory);
  }
  void TearDown() override {
    transport_.reset();
    if (!root_.empty()) std::filesystem::remove_all(root_);
  }

  void Write(const std::string& content) { std::ofstream(root_ / "object.bin", std::ios::binary) << content; }

  // With pins as a range of a stream whose listing says nothing of versions.
  std::unique_ptr<Waiter> Read(uint64_t offset, std::vector<DeviceSpan> destinations, ObjectPins* pins = nullptr) {
    auto read = std::make_unique<Waiter>();
    read->store = store_.get();
    read->object = "object.bin";
    read->pins = pins;
    if (pins == nullptr) read->validator = listing_[0].validator;
    read->object_size = listing_[0].size;
    read->offset = offset;
    for (const DeviceSpan& span : destinations) read->length += span.bytes;
    read->destinations = std::move(destinations);
    transport_->reactor(0).Post([this, raw = read.get()] { transport_->Start(0, raw); });
    return read;
  }
  std::string Memory(uint64_t offset, uint64_t bytes) {
    const auto span = LateDevice::Look(*memory_, offset, bytes);
    return {reinterpret_cast<const char*>(span.data()), span.size()};
  }

  std::filesystem::path root_;
  std::string content_;
  std::unique_ptr<NginxServer> nginx_;
  std::shared_ptr<Device> device_ = MakeCpuDevice();
  std::shared_ptr<LateDevice> late_;  // device_, where that is hidden
  std::unique_ptr<ObjectStore> store_;
  ObjectTable listing_;
  std::shared_ptr<DeviceMemory> memory_;
  std::unique_ptr<Transport> transport_;
};

TEST_P(CopyTransportTest, ScattersARangeAndDiscardsItsGaps) {
  const auto read = Read(1000, {{memory_.get(), 500'000, 100'000},
                                {nullptr, 0, 70'000},
                                {memory_.get(), 0, 1},
                                {nullptr, 0, 1},
                                {memory_.get(), 77, 300'000}});
  ASSERT_TRUE(read->Wait());
  ASSERT_TRUE(read->status.ok()) << read->status;
  EXPECT_EQ(Memory(500'000, 100'000), content_.substr(1000, 100'000));
  EXPECT_EQ(Memory(0, 1), content_.substr(171'000, 1));
  EXPECT_EQ(Memory(77, 300'000), content_.substr(171'002, 300'000));
  EXPECT_EQ(Memory(1, 76), std::string(76, '\0')) << "bytes beside the destinations were touched";
  EXPECT_EQ(read->received, 470'002u);
  EXPECT_EQ(read->retries, 0u);
}

// Pieces of any size and order, neighbours that belong together and gaps, many more than one receive describes.
TEST_P(CopyTransportTest, EveryByteInItsPlaceWhateverThePieces) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<DeviceSpan> pieces;
    std::string expected(4 << 20, '\x55');
    std::ranges::fill(LateDevice::Look(*memory_, 0, 4 << 20), std::byte{0x55});
    uint64_t at = 0;
    for (uint64_t from = 100; from < 2'900'000;) {
      const uint64_t most = random() % 50 == 0 ? 700'000 : random() % 2 == 0 ? 3 : 500;
      const uint64_t bytes = std::min<uint64_t>(random() % most, 2'900'000 - from);
      if (random() % 4 == 0) {
        pieces.push_back({.bytes = bytes});
      } else {
        at += random() % 3;  // 0: it lies behind the one before
        pieces.push_back({.memory = memory_.get(), .offset = at, .bytes = bytes});
        expected.replace(at, bytes, content_, from, bytes);
        at += bytes;
      }
      from += bytes;
    }
    const auto read = Read(100, pieces);
    ASSERT_TRUE(read->Wait());
    ASSERT_TRUE(read->status.ok()) << read->status;
    EXPECT_TRUE(Memory(0, 4 << 20) == expected);
    EXPECT_EQ(read->copied, read->received);
  }
}

TEST_P(CopyTransportTest, ManyReadsAtOnceShareFewConnections) {
  std::vector<std::unique_ptr<Waiter>> reads;
  for (uint64_t i = 0; i < 100; ++i) reads.push_back(Read(i * 29'000, {{memory_.get(), i * 29'000, 29'000}}));
  for (const auto& read : reads) {
    ASSERT_TRUE(read->Wait());
    ASSERT_TRUE(read->status.ok()) << read->status;
  }
  EXPECT_EQ(Memory(0, 2'900'000), content_.substr(0, 2'900'000));
}

TEST_P(CopyTransportTest, LastByteAndWholeObject) {
  const auto last = Read(content_.size() - 1, {{memory_.get(), 10, 1}});
  ASSERT_TRUE(last->Wait());
  ASSERT_TRUE(last->status.ok()) << last->status;
  EXPECT_EQ(Memory(10, 1), content_.substr(content_.size() - 1));
  const auto whole = Read(0, {{memory_.get(), 0, content_.size()}});
  ASSERT_TRUE(whole->Wait());
  ASSERT_TRUE(whole->status.ok()) << whole->status;
  EXPECT_EQ(Memory(0, content_.size()), content_);
}

TEST_P(CopyTransportTest, AChangedObjectIsAnErrorThatNamesIt) {
  Write("short now");
  std::filesystem::last_write_time(root_ / "object.bin", std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  const auto read = Read(5000, {{memory_.get(), 0, 100}});
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kAborted) << read->status;
  EXPECT_EQ(GetErrorInfo(read->status).object, "object.bin");
  EXPECT_EQ(CauseText(read->status), "object changed");
}

TEST_P(CopyTransportTest, RangesOfAStreamAreOfOneVersionThoughTheListingKnowsNone) {
  ObjectPins pins(1);
  for (const uint64_t offset : {0, 5000}) {
    const auto read = Read(offset, {{memory_.get(), 0, 100}}, &pins);
    ASSERT_TRUE(read->Wait());
    ASSERT_TRUE(read->status.ok()) << read->status;
  }
  Write(std::string(content_.size(), 'z'));
  std::filesystem::last_write_time(root_ / "object.bin", std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  const auto read = Read(10'000, {{memory_.get(), 0, 100}}, &pins);
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kAborted) << read->status;
  EXPECT_EQ(FaultOf(read->status), Fault::kObjectChanged);
}

TEST_P(CopyTransportTest, AVanishedObjectIsNotFound) {
  std::filesystem::remove(root_ / "object.bin");
  const auto read = Read(0, {{memory_.get(), 0, 100}});
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kNotFound) << read->status;
  EXPECT_EQ(GetErrorInfo(read->status).object, "object.bin");
}

TEST_P(CopyTransportTest, CancelledReadsEndAndTouchNothingMore) {
  std::vector<std::unique_ptr<Waiter>> reads;
  std::promise<void> all_posted;  // the loop waits, so that no read is done before it is cancelled
  transport_->reactor(0).Post([posted = all_posted.get_future().share()] { posted.wait_for(kPatience); });
  for (uint64_t i = 0; i < 50; ++i) reads.push_back(Read(0, {{memory_.get(), 0, 2'900'000}}));
  transport_->reactor(0).Post([&] {
    for (const auto& read : reads) transport_->Cancel(0, read.get());
  });
  all_posted.set_value();
  size_t cancelled = 0;
  for (const auto& read : reads) {
    ASSERT_TRUE(read->Wait());
    if (absl::IsCancelled(read->status)) ++cancelled;
  }
  EXPECT_GT(cancelled, 40u);
  const auto after = Read(7, {{memory_.get(), 0, 1000}});
  ASSERT_TRUE(after->Wait());
  ASSERT_TRUE(after->status.ok()) << after->status;
  EXPECT_EQ(Memory(0, 1000), content_.substr(7, 1000));
}

class CopyTransportFileTest : public CopyTransportTest {
 protected:
  // Many reads in one task of the loop, so that all of them are there before the first begins.
  std::vector<std::unique_ptr<Waiter>> ReadMany(size_t count, const std::function<void(Waiter&)>& then) {
    std::vector<std::unique_ptr<Waiter>> reads;
    for (uint64_t i = 0; i < count; ++i) {
      auto read = std::make_unique<Waiter>();
      read->store = store_.get();
      read->object = "object.bin";
      read->validator = listing_[0].validator;
      read->object_size = listing_[0].size;
      read->offset = i * 100;
      read->length = 100;
      read->destinations = {{memory_.get(), i * 100, 100}};
      reads.push_back(std::move(read));
    }
    std::vector<Waiter*> started;
    started.reserve(reads.size());
    for (const auto& read : reads) started.push_back(read.get());
    transport_->reactor(0).Post([this, started, then] {
      for (Waiter* read : started) transport_->Start(0, read);
      for (Waiter* read : started) then(*read);
    });
    return reads;
  }
};

TEST_P(CopyTransportFileTest, FewFilesAreOpenHoweverManyReadsThereAre) {
  // As many descriptors as are open now, and 8: fewer than the reader would take.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next = dup(0);
  ASSERT_GE(next, 0);
  close(next);
  const rlimit few{.rlim_cur = static_cast<rlim_t>(next) + 8, .rlim_max = before.rlim_max};
  for (const bool scarce : {false, true}) {
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, scarce ? &few : &before), 0);
    size_t most = 0;  // the loop's
    const auto reads = ReadMany(400, [&most](Waiter& read) {
      read.on_done = [&most] {
        size_t open = 0;
        std::error_code gone;
        for (int fd = 0; fd < 1024; ++fd) {
          const auto target = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), gone);
          open += target.filename() == "object.bin" ? 1 : 0;
        }
        most = std::max(most, open);
      };
    });
    for (const auto& read : reads) {
      ASSERT_TRUE(read->Wait());
      EXPECT_TRUE(read->status.ok()) << read->status;
    }
    EXPECT_EQ(Memory(0, 40'000), content_.substr(0, 40'000));
    EXPECT_LE(most, 64u);
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST_P(CopyTransportFileTest, QueuedReadsCanBeCancelled) {
  const auto reads = ReadMany(400, [this](Waiter& read) { transport_->Cancel(0, &read); });
  for (const auto& read : reads) {
    ASSERT_TRUE(read->Wait());
    EXPECT_TRUE(absl::IsCancelled(read->status)) << read->status;
    EXPECT_EQ(read->requests, 0u);
  }
}

TEST_P(CopyTransportFileTest, AFifoInPlaceOfTheFileHoldsNothingUp) {
  std::filesystem::remove(root_ / "object.bin");
  ASSERT_EQ(mkfifo((root_ / "object.bin").c_str(), 0600), 0);
  const auto read = Read(0, {{memory_.get(), 0, 100}});
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kFailedPrecondition) << read->status;
  EXPECT_THAT(std::string(read->status.message()), testing::HasSubstr("not a regular file"));
  EXPECT_EQ(GetErrorInfo(read->status).object, "object.bin");
}

TEST_P(CopyTransportFileTest, AnIndexNamesAContentByItsDate) {
  struct stat file;
  ASSERT_EQ(stat((root_ / "object.bin").c_str(), &file), 0);
  for (const int later : {0, 1}) {
    auto read = std::make_unique<Waiter>();
    read->store = store_.get();
    read->object = "object.bin";
    read->validator = HttpDate(file.st_mtim.tv_sec + later);
    read->object_size = content_.size();
    read->length = 100;
    read->destinations = {{memory_.get(), 0, 100}};
    transport_->reactor(0).Post([this, raw = read.get()] { transport_->Start(0, raw); });
    ASSERT_TRUE(read->Wait());
    EXPECT_EQ(read->status.code(), later == 0 ? absl::StatusCode::kOk : absl::StatusCode::kAborted) << read->status;
  }
}

class CopyTransportServerTest : public CopyTransportTest {};

TEST_P(CopyTransportServerTest, ARestartedServerIsAskedAgain) {
  const auto first = Read(0, {{memory_.get(), 0, 1000}});
  ASSERT_TRUE(first->Wait());
  ASSERT_TRUE(nginx_->Restart().ok());  // the kept connection is dead now
  const auto again = Read(1000, {{memory_.get(), 1000, 1000}});
  ASSERT_TRUE(again->Wait());
  ASSERT_TRUE(again->status.ok()) << again->status;
  EXPECT_EQ(Memory(0, 2000), content_.substr(0, 2000));
}

TEST_P(CopyTransportServerTest, ADeadServerFailsAfterTheRetriesItSays) {
  nginx_->Stop();
  const auto read = Read(0, {{memory_.get(), 0, 1000}});
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kUnavailable) << read->status;
  EXPECT_EQ(read->retries, 3u);
  EXPECT_THAT(std::string(read->status.message()),
              testing::HasSubstr("connect to 127.0.0.1:" + std::to_string(nginx_->port()) + ": Connection refused"));
}

// What a transport with deadlines of its own makes of one range.
std::unique_ptr<Transport> MakeTransport(Reactor::Backend loop, const ReadPolicy& policy, std::shared_ptr<Device> device) {
  auto transport =
      MakeCopyTransport({.connections = 3, .backend = loop, .policy = policy, .device = std::move(device)}, "a test");
  EXPECT_TRUE(transport.ok()) << transport.status();
  return *std::move(transport);
}

// nginx sends a piece of sendfile_max_chunk, then waits for as long as the rate makes it: here 2 KiB in 100 ms.
constexpr char kThinLink[] = "limit_rate 20k; sendfile_max_chunk 2k;";

TEST_P(CopyTransportServerTest, AThinLinkIsSlowAndNotDead) {
  nginx_->SetServerConfig(kThinLink);
  ASSERT_TRUE(nginx_->Restart().ok());
  transport_ = MakeTransport(GetParam().loop, {.stall_timeout = std::chrono::seconds(1), .max_retries = 0}, device_);
  // 3 s of the link, three times the limit, and far below what is worth a wake-up.
  const auto read = Read(100, {{memory_.get(), 0, 60'000}});
  ASSERT_TRUE(read->Wait());
  ASSERT_TRUE(read->status.ok()) << read->status;
  EXPECT_EQ(Memory(0, 60'000), content_.substr(100, 60'000));
  EXPECT_EQ(read->requests, 1u);
  EXPECT_EQ(read->received, 60'000u);
}

TEST_P(CopyTransportServerTest, ABodyThatDribblesEndsAtTheDeadlineOfTheRead) {
  nginx_->SetServerConfig(kThinLink);
  ASSERT_TRUE(nginx_->Restart().ok());
  transport_ = MakeTransport(GetParam().loop, {.total_timeout = std::chrono::milliseconds(1500)}, device_);
  const Time start = Clock::now();
  const auto read = Read(100, {{memory_.get(), 0, 2'900'000}});  // 145 s of the link
  ASSERT_TRUE(read->Wait());
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(1500));
  EXPECT_EQ(read->status.code(), absl::StatusCode::kDeadlineExceeded) << read->status;
  EXPECT_THAT(std::string(read->status.message()), testing::HasSubstr("not done within 1.5 s"));
  const ErrorInfo info = GetErrorInfo(read->status);
  EXPECT_EQ(info.object, "object.bin");
  EXPECT_EQ(info.offset, 100 + read->received);
  EXPECT_EQ(info.offset + info.length, 2'900'100u);
}

TEST_P(CopyTransportServerTest, RequiredZeroCopyIsRefusedHoweverLittleWasCopied) {
  for (const uint64_t bytes : {uint64_t{10}, uint64_t{1'000'000}}) {
    auto read = std::make_unique<Waiter>();
    read->store = store_.get();
    read->object = "object.bin";
    read->validator = listing_[0].validator;
    read->object_size = listing_[0].size;
    read->length = bytes;
    read->destinations = {{memory_.get(), 0, bytes}};
    read->require_zero_copy = true;
    transport_->reactor(0).Post([this, raw = read.get()] { transport_->Start(0, raw); });
    ASSERT_TRUE(read->Wait());
    EXPECT_EQ(read->status.code(), absl::StatusCode::kFailedPrecondition) << bytes << ": " << read->status;
    EXPECT_EQ(CauseText(read->status), "no zero copy");
    EXPECT_EQ(read->requests, 1u);
  }
}

// To memory of a device that is held: what is done, and not done, until it goes on.
class CopyTransportHiddenTest : public CopyTransportTest {
 protected:
  // Waits until `there`, asked on the loop between whatever else it does.
  void WaitFor(const std::function<bool()>& there) {
    const Time until = Clock::now() + kPatience;
    for (bool is = false; !is;) {
      ASSERT_LT(Clock::now(), until);
      std::promise<bool> asked;
      transport_->reactor(0).Post([&] { asked.set_value(there()); });
      is = asked.get_future().get();
      std::this_thread::yield();
    }
  }
};

TEST_P(CopyTransportHiddenTest, TheReasonSaysTwoCopies) {
  EXPECT_THAT(transport_->path().reason, testing::HasSubstr("two copies"));
  EXPECT_THAT(transport_->path().reason, testing::HasSubstr("late:0"));
}

TEST_P(CopyTransportHiddenTest, StagingMemoryBoundsWhatIsReceived) {
  constexpr uint64_t kRing = StagingPool::kChunks * StagingPool::kChunkBytes;
  constexpr uint64_t kRead = 5 * StagingPool::kChunkBytes;
  constexpr uint64_t kReads = 8;
  static_assert(kReads * kRead > kRing);
  transport_.reset();
  auto transport = MakeCopyTransport({.connections = kReads, .backend = GetParam().loop, .device = device_}, "a test");
  ASSERT_TRUE(transport.ok()) << transport.status();
  transport_ = *std::move(transport);
  EXPECT_EQ(late_->staging_bytes(), 0u) << "pinned before it was needed";
  memory_ = *device_->Allocate(kReads * kRead, {.name = "large"});
  late_->Hold(LateDevice::Holds::kAll);
  std::vector<std::unique_ptr<Waiter>> reads;
  for (uint64_t i = 0; i < kReads; ++i) reads.push_back(Read(i, {{memory_.get(), i * kRead, kRead}}));
  ASSERT_NO_FATAL_FAILURE(WaitFor([&] { return late_->poked_bytes() >= kRing; }));
  for (int i = 0; i < 100; ++i) ASSERT_NO_FATAL_FAILURE(WaitFor([] { return true; }));
  EXPECT_EQ(late_->poked_bytes(), kRing);
  late_->Hold(LateDevice::Holds::kNothing);
  for (uint64_t i = 0; i < kReads; ++i) {
    ASSERT_TRUE(reads[i]->Wait());
    ASSERT_TRUE(reads[i]->status.ok()) << reads[i]->status;
    EXPECT_TRUE(Memory(i * kRead, kRead) == content_.substr(i, kRead)) << i;
  }
  EXPECT_EQ(late_->staging_bytes(), kRing);
}

TEST_P(CopyTransportHiddenTest, ACancelledReadIsDoneWhenTheDeviceIs) {
  late_->Hold(LateDevice::Holds::kAll);
  bool done = false;  // the loop's
  const auto read = Read(0, {{memory_.get(), 0, 2'900'000}});
  read->on_done = [&] {
    done = true;
    EXPECT_EQ(late_->under_way(), 0u);
  };
  ASSERT_NO_FATAL_FAILURE(WaitFor([&] { return late_->poked_bytes() > 0; }));
  transport_->reactor(0).Post([&] { transport_->Cancel(0, read.get()); });
  for (int i = 0; i < 100; ++i) ASSERT_NO_FATAL_FAILURE(WaitFor([&] { return !done; }));
  late_->Hold(LateDevice::Holds::kNothing);
  ASSERT_TRUE(read->Wait());
  EXPECT_TRUE(read->status.ok() || absl::IsCancelled(read->status)) << read->status;
}

TEST_P(CopyTransportHiddenTest, AFailedCopyFailsTheReadAndNoOther) {
  late_->FailWith(absl::InternalError("the device is lost"));
  const auto failed = Read(0, {{memory_.get(), 0, 2'900'000}});
  ASSERT_TRUE(failed->Wait());
  EXPECT_EQ(failed->status.code(), absl::StatusCode::kInternal) << failed->status;
  EXPECT_THAT(std::string(failed->status.message()), testing::HasSubstr("the device is lost"));
  EXPECT_EQ(GetErrorInfo(failed->status).object, "object.bin");
  late_->FailWith(absl::OkStatus());
  const auto read = Read(0, {{memory_.get(), 0, 2'900'000}});
  ASSERT_TRUE(read->Wait());
  ASSERT_TRUE(read->status.ok()) << read->status;
  EXPECT_TRUE(Memory(0, 2'900'000) == content_.substr(0, 2'900'000));
}

constexpr Backend kHttpIoUring{Reactor::Backend::kIoUring, false, "HttpIoUring"};
constexpr Backend kHttpEpoll{Reactor::Backend::kEpoll, false, "HttpEpoll"};
constexpr Backend kFileIoUring{Reactor::Backend::kIoUring, true, "FileIoUring"};
constexpr Backend kFileEpoll{Reactor::Backend::kEpoll, true, "FileEpoll"};

constexpr Backend kHiddenHttpIoUring{Reactor::Backend::kIoUring, false, "HiddenHttpIoUring", true};
constexpr Backend kHiddenHttpEpoll{Reactor::Backend::kEpoll, false, "HiddenHttpEpoll", true};
constexpr Backend kHiddenFileIoUring{Reactor::Backend::kIoUring, true, "HiddenFileIoUring", true};
constexpr Backend kHiddenFileEpoll{Reactor::Backend::kEpoll, true, "HiddenFileEpoll", true};

std::string NameOf(const testing::TestParamInfo<Backend>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(All, CopyTransportTest,
                         testing::Values(kHttpIoUring, kHttpEpoll, kFileIoUring, kFileEpoll, kHiddenHttpIoUring,
                                         kHiddenHttpEpoll, kHiddenFileIoUring, kHiddenFileEpoll),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Files, CopyTransportFileTest,
                         testing::Values(kFileIoUring, kFileEpoll, kHiddenFileIoUring, kHiddenFileEpoll), NameOf);
INSTANTIATE_TEST_SUITE_P(Servers, CopyTransportServerTest,
                         testing::Values(kHttpIoUring, kHttpEpoll, kHiddenHttpIoUring, kHiddenHttpEpoll), NameOf);
INSTANTIATE_TEST_SUITE_P(Hidden, CopyTransportHiddenTest,
                         testing::Values(kHiddenHttpIoUring, kHiddenHttpEpoll, kHiddenFileIoUring, kHiddenFileEpoll), NameOf);

}  // namespace
}  // namespace devmem
