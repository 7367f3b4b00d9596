// SPDX-License-Identifier: Apache-2.0
// The client against a daemon that misbehaves (service/testing/fake_daemon.h). Where a daemon must die, this binary is started
// again as that daemon, and killed.
#include "client/cpp/client.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "devmem_loader/v1/handle_socket.pb.h"
#include "service/testing/fake_daemon.h"
#include "service/unix_socket.h"

extern char** environ;

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;
using testing::FakeDaemon;
using testing::FakeDaemonOptions;
using ::testing::HasSubstr;
using testing::kWords;
using testing::Word;

constexpr Duration kLong = std::chrono::seconds(30);
Time Soon() { return Clock::now() + kLong; }

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "devmem-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/loader.sock";
  }
  ~ClientTest() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<FakeDaemon> Serve(FakeDaemonOptions options = {}) {
    options.path = path_;
    return FakeDaemon::Start(std::move(options));
  }

  std::unique_ptr<Client> Connect() {
    auto client = Client::Connect("unix:" + path_, {});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? std::move(*client) : nullptr;
  }

  std::unique_ptr<Stream> Open(Client& client, const StreamOptions& options = {}) {
    auto stream = client.OpenStream({}, options);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? std::move(*stream) : nullptr;
  }

  std::string directory_;
  std::string path_;
};

void ExpectBatch(const Batch& batch, uint64_t epoch, uint64_t k) {
  ASSERT_EQ(batch.info().epoch(), epoch);
  ASSERT_EQ(batch.info().sample_ids(0), k);
  ASSERT_EQ(batch.tensors(), 1u);
  const TensorView tensor = batch.tensor(0);
  ASSERT_EQ(tensor.bytes().size(), kWords * 8);
  ASSERT_THAT(std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end()), ::testing::ElementsAre(1, kWords));
  uint64_t words[kWords];
  std::memcpy(words, tensor.bytes().data(), sizeof words);
  for (uint64_t i = 0; i < kWords; ++i) ASSERT_EQ(words[i], Word(epoch, k, i)) << "batch " << k << " word " << i;
}

// Reads to the end, and expects every batch and epoch end exactly once and in order, from `epoch`, `k` on.
void ExpectAll(Stream& stream, uint64_t epochs, uint64_t batches, uint64_t epoch = 0, uint64_t k = 0) {
  for (; epoch < epochs; ++epoch, k = 0) {
    for (; k < batches; ++k) {
      auto event = stream.Next(Soon());
      ASSERT_TRUE(event.ok()) << event.status();
      ASSERT_EQ(event->kind, client::Event::kBatch);
      ASSERT_NO_FATAL_FAILURE(ExpectBatch(event->batch, epoch, k));
      ASSERT_EQ(stream.cursor().position(), k + 1);
    }
    auto event = stream.Next(Soon());
    ASSERT_TRUE(event.ok()) << event.status();
    ASSERT_EQ(event->kind, client::Event::kEpochEnd);
    ASSERT_EQ(event->epoch_end.epoch(), epoch);
    ASSERT_EQ(stream.cursor().epoch(), epoch + 1);
  }
  auto event = stream.Next(Soon());
  ASSERT_TRUE(event.ok()) << event.status();
  ASSERT_EQ(event->kind, client::Event::kStreamEnd);
  EXPECT_EQ(stream.Next(Soon()).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(ClientTest, ReadsEverythingOnce) {
  struct Row {
    uint64_t batches, epochs, per_message, slots;
    uint32_t slabs;
  };
  for (const Row& row : std::vector<Row>{{1, 1, 1, 1, 1},
                                         {0, 2, 1, 1, 1},
                                         {40, 2, 1, 1, 1},
                                         {40, 3, 7, 2, 1},
                                         {100, 2, 64, 16, 1},
                                         {1000, 1, 64, 64, 5},
                                         {1000, 1, 3, 64, 1}}) {
    SCOPED_TRACE(
        ::testing::PrintToString(std::vector<uint64_t>{row.batches, row.epochs, row.per_message, row.slots, row.slabs}));
    auto daemon = Serve(
        {.batches = row.batches, .epochs = row.epochs, .per_message = row.per_message, .slots = row.slots, .slabs = row.slabs});
    auto client = Connect();
    ASSERT_NE(client, nullptr);
    int progress = 0;
    auto stream = Open(*client, {.progress = [&](const v1::OpenProgress&) { ++progress; }});
    ASSERT_NE(stream, nullptr);
    EXPECT_EQ(progress, 1);
    EXPECT_EQ(stream->opened().path().name(), "copy");
    ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, row.epochs, row.batches));
    EXPECT_TRUE(daemon->WaitForReleases(row.batches * row.epochs));
    EXPECT_TRUE(daemon->WaitForStreamsToEnd());
  }
}

// Which a daemon of before expect_fingerprint does not look at.
TEST_F(ClientTest, AStreamOfAnotherListingThanIsExpectedDoesNotOpen) {
  auto daemon = Serve({.edit = [](v1::OpenStreamResponse& message) {
    if (message.has_opened()) message.mutable_opened()->mutable_cursor()->set_listing_fingerprint(0xabc);
  }});
  auto client = Connect();
  ASSERT_NE(client, nullptr);
  auto first = Open(*client);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->fingerprint(), 0xabcu);
  first.reset();
  StreamSpec spec;
  spec.set_expect_fingerprint(0xabc);
  EXPECT_TRUE(client->OpenStream(spec, {}).ok());
  spec.set_expect_fingerprint(0xabd);
  const absl::Status other = client->OpenStream(spec, {}).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition) << other;
  EXPECT_EQ(FaultOf(other), Fault::kListingChanged);
  EXPECT_THAT(Text(other), ::testing::AllOf(HasSubstr("0000000000000abc"), HasSubstr("0000000000000abd")));
  EXPECT_TRUE(daemon->WaitForStreamsToEnd());
}

TEST_F(ClientTest, ReleasesAreSentInLumps) {
  auto daemon = Serve({.batches = 10'000, .per_message = 64, .slots = 256});
  auto client = Connect();
  auto stream = Open(*client);
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 10'000));
  ASSERT_TRUE(daemon->WaitForReleases(10'000));
  EXPECT_LT(daemon->release_messages(), 5'000u);
}

// All slots in the trainer's hands: Next runs out its deadline and loses nothing; any order of release goes on.
TEST_F(ClientTest, HoldsEverySlotAndReleasesInAnyOrder) {
  auto daemon = Serve({.batches = 300, .per_message = 4, .slots = 8});
  auto client = Connect();
  auto stream = Open(*client);
  std::mt19937 random(7);
  std::vector<Batch> held;
  uint64_t next = 0;
  while (next < 300) {
    auto event = stream->Next(held.size() == 8 ? Clock::now() + std::chrono::milliseconds(2) : Soon());
    if (!event.ok()) {
      ASSERT_EQ(event.status().code(), absl::StatusCode::kDeadlineExceeded);
      ASSERT_EQ(held.size(), 8u);
      std::shuffle(held.begin(), held.end(), random);
      held.resize(random() % 8);
      continue;
    }
    ASSERT_NO_FATAL_FAILURE(ExpectBatch(event->batch, 0, next++));
    held.push_back(std::move(event->batch));
  }
  for (const Batch& batch : held) ASSERT_NO_FATAL_FAILURE(ExpectBatch(batch, 0, batch.info().sample_ids(0)));
}

TEST_F(ClientTest, AReleaseElsewhereWakesANextThatWaits) {
  auto daemon = Serve({.batches = 200, .slots = 1});
  auto client = Connect();
  auto stream = Open(*client);
  std::thread last;
  for (uint64_t k = 0; k < 200; ++k) {
    auto event = stream->Next(Soon());
    if (last.joinable()) last.join();
    ASSERT_TRUE(event.ok()) << event.status();
    ASSERT_NO_FATAL_FAILURE(ExpectBatch(event->batch, 0, k));
    last = std::thread([batch = std::move(event->batch)]() mutable { batch.Release(); });
  }
  last.join();
}

// While the trainer computes and does not call Next, what it releases must reach the daemon, or nothing is prefetched.
TEST_F(ClientTest, ReleasesReachTheDaemonWithoutNext) {
  auto daemon = Serve({.batches = 100, .per_message = 8, .slots = 8});
  auto client = Connect();
  auto stream = Open(*client);
  std::vector<Batch> held;
  held.reserve(8);
  for (int i = 0; i < 8; ++i) held.push_back(std::move(stream->Next(Soon())->batch));
  for (size_t i = 0; i < held.size(); ++i) held[i].Release();
  EXPECT_TRUE(daemon->WaitForReleases(1));
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 100, 0, 8));
}

TEST_F(ClientTest, BatchesOutliveStreamClientAndEnd) {
  auto daemon = Serve({.batches = 4, .slots = 4});
  auto client = Connect();
  auto stream = Open(*client);
  std::vector<Batch> held;
  held.reserve(3);
  for (int i = 0; i < 3; ++i) held.push_back(std::move(stream->Next(Soon())->batch));
  stream.reset();
  client.reset();
  for (uint64_t k = 0; k < 3; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(held[k], 0, k));
  held.clear();
  EXPECT_TRUE(daemon->WaitForStreamsToEnd());

  client = Connect();
  stream = Open(*client);
  for (int i = 0; i < 4; ++i) held.push_back(std::move(stream->Next(Soon())->batch));
  EXPECT_EQ(stream->Next(Soon())->kind, client::Event::kEpochEnd);
  EXPECT_EQ(stream->Next(Soon())->kind, client::Event::kStreamEnd);
  stream.reset();
  client.reset();
  for (uint64_t k = 0; k < 4; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(held[k], 0, k));
  Batch moved = std::move(held[1]);
  held.clear();
  ASSERT_NO_FATAL_FAILURE(ExpectBatch(moved, 0, 1));
  moved = Batch();
  EXPECT_TRUE(daemon->WaitForStreamsToEnd());
}

TEST_F(ClientTest, ManyStreamsAtOnce) {
  auto daemon = Serve({.batches = 200, .per_message = 5, .slots = 3, .slabs = 2});
  auto client = Connect();
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      auto stream = Open(*client);
      ASSERT_NE(stream, nullptr);
      ExpectAll(*stream, 1, 200);
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST_F(ClientTest, ErrorsArriveWithTheirDetails) {
  const ErrorInfo info{
      .object = "http://store/a.npy", .offset = 4096, .length = 512, .cause = "truncated body", .action = "check the store"};
  for (absl::StatusCode code : {absl::StatusCode::kDataLoss, absl::StatusCode::kNotFound, absl::StatusCode::kUnavailable}) {
    const absl::Status failure = MakeError(code, "body ended early", info);
    auto daemon = Serve({.batches = 10, .slots = 10, .fail_after = 3, .failure = failure});
    auto client = Connect();
    auto stream = Open(*client);
    for (uint64_t k = 0; k < 3; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(stream->Next(Soon())->batch, 0, k));
    for (int repeat = 0; repeat < 2; ++repeat) {
      const absl::Status status = stream->Next(Soon()).status();
      EXPECT_EQ(status.code(), code);
      EXPECT_EQ(status.message(), failure.message());
      EXPECT_EQ(InfoText(GetErrorInfo(status)), InfoText(GetErrorInfo(failure)));
    }
    EXPECT_EQ(daemon->opens(), 1u) << "the daemon's own error is no reason to reconnect";
  }
}

// The daemon keeps a failed stream's slab, in which its trainer may be reading: it is told when the last batch is gone, and not
// before; of a stream that ended well there is nothing to tell. One that does not know the call changes nothing.
TEST_F(ClientTest, SaysWhenNothingOfAFailedStreamIsNeeded) {
  for (const bool known : {true, false}) {
    auto daemon = Serve({.fail_after = 3, .failure = absl::DataLossError("gone"), .releases_streams = known});
    auto client = Connect();
    for (int round = 0; round < 3; ++round) {
      SCOPED_TRACE(round);
      const auto told = static_cast<size_t>(round);
      auto stream = Open(*client);
      auto first = stream->Next(Soon());
      ASSERT_TRUE(first.ok()) << first.status();
      while (stream->Next(Soon()).ok()) continue;
      stream.reset();
      EXPECT_EQ(daemon->released_streams().size(), told) << "a batch of it is in hand";
      ASSERT_NO_FATAL_FAILURE(ExpectBatch(first->batch, 0, 0));
      first->batch.Release();
      ASSERT_EQ(daemon->released_streams().size(), told + 1);
      EXPECT_EQ(daemon->released_streams().back(), "stream-" + std::to_string(round + 1));
    }
  }
  auto daemon = Serve();
  auto client = Connect();
  auto stream = Open(*client);
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 10));
  stream.reset();
  EXPECT_THAT(daemon->released_streams(), ::testing::IsEmpty());
}

TEST_F(ClientTest, CancelEndsANextThatWaits) {
  auto daemon = Serve({.batches = 10, .slots = 1});
  auto client = Connect();
  auto stream = Open(*client);
  auto event = stream->Next(Soon());
  ASSERT_TRUE(event.ok());
  std::thread canceller([&] { stream->Cancel(); });
  EXPECT_EQ(stream->Next(Soon()).status().code(), absl::StatusCode::kCancelled);
  canceller.join();
  EXPECT_EQ(stream->Next(Soon()).status().code(), absl::StatusCode::kCancelled);
  ASSERT_NO_FATAL_FAILURE(ExpectBatch(event->batch, 0, 0));
  event->batch.Release();
  EXPECT_TRUE(daemon->WaitForStreamsToEnd());
}

TEST_F(ClientTest, OpenHasADeadline) {
  auto daemon = Serve({.answer = false});
  auto client = Connect();
  auto stream = client->OpenStream({}, {.open_timeout = std::chrono::milliseconds(30)});
  EXPECT_EQ(stream.status().code(), absl::StatusCode::kDeadlineExceeded) << stream.status();
  EXPECT_TRUE(daemon->WaitForStreamsToEnd());
}

TEST_F(ClientTest, NodeStatus) {
  auto daemon = Serve();
  auto client = Connect();
  auto status = client->GetNodeStatus(Soon());
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->version(), "fake");
  daemon.reset();
  EXPECT_EQ(client->GetNodeStatus(Soon()).status().code(), absl::StatusCode::kUnavailable);
  daemon = Serve();
  EXPECT_TRUE(client->GetNodeStatus(Soon()).ok());
}

TEST_F(ClientTest, SlabsThatCannotBeTrustedAreRefused) {
  struct Row {
    const char* description;
    FakeDaemonOptions options;
    const char* expected;
  };
  auto handle = [](std::function<void(v1::SlabHandle&)> edit) {
    FakeDaemonOptions options;
    options.edit_handle = std::move(edit);
    return options;
  };
  FakeDaemonOptions unsealed;
  unsealed.seal = false;
  for (const Row& row : std::vector<Row>{
           {"not sealed", unsealed, "no sealed memfd"},
           {"version", handle([](v1::SlabHandle& slab) { slab.set_version(2); }), "version 2, this client knows 1"},
           {"kind", handle([](v1::SlabHandle& slab) { slab.set_kind("cuda_vmm"); }), "kind 'cuda_vmm'"},
           {"device", handle([](v1::SlabHandle& slab) { slab.set_device_uuid("GPU-1"); }), "device 'GPU-1'"},
           {"size", handle([](v1::SlabHandle& slab) { slab.set_bytes(1 << 20); }), "not the one announced"},
       }) {
    SCOPED_TRACE(row.description);
    auto daemon = Serve(row.options);
    auto client = Connect();
    auto stream = client->OpenStream({}, {});
    EXPECT_EQ(stream.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Text(stream.status()), HasSubstr(row.expected));
    EXPECT_TRUE(daemon->WaitForStreamsToEnd());
  }
}

TEST_F(ClientTest, TensorsOutsideTheirSlabAreRefused) {
  struct Row {
    const char* description;
    std::function<void(v1::Tensor&)> edit;
    const char* expected;
  };
  for (const Row& row : std::vector<Row>{
           {"no such slab", [](v1::Tensor& tensor) { tensor.set_slab(9); }, "was not announced"},
           {"beyond the end", [](v1::Tensor& tensor) { tensor.set_offset(1 << 20); }, "has 2048 bytes"},
           {"wraps around", [](v1::Tensor& tensor) { tensor.set_offset(~uint64_t{255}); }, "has 2048 bytes"},
           {"shape", [](v1::Tensor& tensor) { tensor.set_shape(0, 2); }, "its shape means 1024 bytes"},
           {"huge shape", [](v1::Tensor& tensor) { tensor.set_shape(0, int64_t{1} << 62); }, "impossible shape"},
           {"negative shape", [](v1::Tensor& tensor) { tensor.set_shape(0, -1); }, "impossible shape"},
           {"dtype", [](v1::Tensor& tensor) { tensor.set_dtype(static_cast<v1::DType>(77)); }, "unknown dtype 77"},
       }) {
    SCOPED_TRACE(row.description);
    auto daemon = Serve({.edit = [&](v1::OpenStreamResponse& message) {
      if (!message.has_batches()) return;
      for (auto& batch : *message.mutable_batches()->mutable_batches()) row.edit(*batch.mutable_tensors(0));
    }});
    auto client = Connect();
    auto stream = Open(*client);
    const absl::Status status = stream->Next(Soon()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(Text(status), HasSubstr(row.expected));
  }
}

// ---- Connecting ----

TEST_F(ClientTest, NoDaemon) {
  auto client = Client::Connect("unix:" + path_, {});
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Text(client.status()), HasSubstr("no daemon at " + path_));
  EXPECT_THAT(Text(client.status()), HasSubstr("start devmem-loaderd, or pass --service"));
}

TEST_F(ClientTest, BadAddresses) {
  for (const char* service : {"", "unix:", "http://host/", "localhost:50051"}) {
    EXPECT_EQ(Client::Connect(service, {}).status().code(), absl::StatusCode::kInvalidArgument) << service;
  }
}

TEST_F(ClientTest, RefusedByThePolicy) {
  auto daemon = Serve({.admit = [] { return absl::PermissionDeniedError("user 7 is not allowed"); }});
  auto client = Client::Connect(path_, {});
  EXPECT_EQ(client.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Text(client.status()), HasSubstr("user 7 is not allowed"));
}

TEST_F(ClientTest, ASocketThatMayNotBeOpened) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be somebody else for a moment";
  auto daemon = Serve();
  ::chmod(directory_.c_str(), 0755);
  const gid_t group = ::getegid();
  gid_t groups[128];
  const int count = ::getgroups(128, groups);
  ASSERT_GE(count, 0);
  ASSERT_TRUE(::setgroups(0, nullptr) == 0 && ::setegid(65534) == 0 && ::seteuid(65534) == 0);
  auto client = Client::Connect(path_, {});
  ASSERT_TRUE(::seteuid(0) == 0 && ::setegid(group) == 0 && ::setgroups(static_cast<size_t>(count), groups) == 0);
  EXPECT_EQ(client.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Text(client.status()), HasSubstr("mode 0660, owner root, group root"));
  EXPECT_THAT(Text(client.status()), HasSubstr("join group root"));
}

TEST_F(ClientTest, ADaemonThatDoesNotAnswer) {
  auto mute = UnixListener::Listen(path_ + ".fd", SOCK_SEQPACKET, {});
  ASSERT_TRUE(mute.ok());
  auto client = Client::Connect(path_, {.timeout = std::chrono::milliseconds(50)});
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Text(client.status()), HasSubstr("does not answer"));
}

// ---- The daemon dies ----

// This binary, as a daemon: see main.
class DaemonProcess {
 public:
  DaemonProcess(const std::string& path, uint64_t batches, uint64_t epochs, uint64_t kill_after, uint64_t slots = 4) {
    const std::vector<std::string> arguments = {"client_test",           "--fake-daemon",        path,
                                                std::to_string(batches), std::to_string(epochs), std::to_string(kill_after),
                                                std::to_string(slots)};
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    int ready[2];
    EXPECT_EQ(::pipe2(ready, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ready[1], 3);
    EXPECT_EQ(::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ready[1]);
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
  }
  ~DaemonProcess() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    Wait();
  }
  void Wait() {
    if (pid_ > 0) ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

// Killed over and over, at every place of a message and an epoch: every batch and epoch end arrives exactly once.
TEST_F(ClientTest, ResumesOnNewDaemonsWithoutLossOrRepeat) {
  constexpr uint64_t kBatches = 5, kEpochs = 3;
  for (const uint64_t life : {1, 3, 5, 6}) {
    SCOPED_TRACE(life);
    // The daemons follow one another; each dies after `life` batches of its own, the last one does not.
    std::thread daemons([&] {
      for (uint64_t left = kBatches * kEpochs; left > life; left -= std::min(left, life)) {
        DaemonProcess daemon(path_, kBatches, kEpochs, life);
        daemon.Wait();
        if (life > 4) break;  // those that die with batches undelivered make less way: one death, then a good one
      }
    });
    std::unique_ptr<DaemonProcess> good;
    std::unique_ptr<Client> client;
    for (const Time until = Soon(); client == nullptr && Clock::now() < until;) {
      auto connected = Client::Connect(path_, {});
      if (connected.ok()) client = std::move(*connected);
    }
    ASSERT_NE(client, nullptr);
    std::thread finisher([&] {
      daemons.join();
      good = std::make_unique<DaemonProcess>(path_, kBatches, kEpochs, 0);
    });
    int reconnects = 0;
    auto stream = client->OpenStream({}, {.on_reconnect = [&](const absl::Status&) { ++reconnects; }});
    if (stream.ok()) ExpectAll(**stream, kEpochs, kBatches);
    finisher.join();
    ASSERT_TRUE(stream.ok()) << stream.status();
    EXPECT_GT(reconnects, 0);
  }
}

TEST_F(ClientTest, BatchesInHandSurviveTheDaemon) {
  auto daemon = std::make_unique<DaemonProcess>(path_, 10, 1, 0);
  auto client = Connect();
  auto stream = Open(*client);
  std::vector<Batch> held;
  held.reserve(3);
  for (int i = 0; i < 3; ++i) held.push_back(std::move(stream->Next(Soon())->batch));
  daemon->Kill();
  DaemonProcess next(path_, 10, 1, 0);
  auto event = stream->Next(Soon());
  ASSERT_TRUE(event.ok()) << event.status();
  ASSERT_NO_FATAL_FAILURE(ExpectBatch(event->batch, 0, 3));
  for (uint64_t k = 0; k < 3; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(held[k], 0, k));
  held.clear();
  event->batch.Release();
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 10, 0, 4));
}

TEST_F(ClientTest, WithoutReconnectTheDaemonsDeathIsAnErrorAtOnce) {
  DaemonProcess daemon(path_, 1000, 1, 0, 1);
  auto client = Connect();
  auto stream = Open(*client, {.reconnect = false});
  auto event = stream->Next(Soon());
  ASSERT_TRUE(event.ok());
  std::thread killer([&] { daemon.Kill(); });
  const Time before = Clock::now();
  EXPECT_EQ(stream->Next(Soon()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(Clock::now() - before, std::chrono::seconds(5)) << "not by its deadline";
  killer.join();
}

TEST_F(ClientTest, GivesUpWhenNoDaemonComesBack) {
  DaemonProcess daemon(path_, 1000, 1, 0, 1);
  auto client = Connect();
  auto stream = Open(*client, {.reconnect_timeout = std::chrono::milliseconds(200)});
  ASSERT_TRUE(stream->Next(Soon()).ok());
  daemon.Kill();
  absl::Status status;
  do {
    status = stream->Next(Clock::now() + std::chrono::milliseconds(20)).status();
  } while (status.ok() || status.code() == absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Text(status), HasSubstr("did not come back"));
  EXPECT_THAT(Text(status), HasSubstr("no daemon at " + path_));
}

TEST_F(ClientTest, ResumesAfterADaemonThatDrained) {
  auto daemon = Serve({.batches = 20, .slots = 1});
  auto client = Connect();
  auto stream = Open(*client);
  for (uint64_t k = 0; k < 5; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(stream->Next(Soon())->batch, 0, k));
  daemon.reset();
  daemon = Serve({.batches = 20, .slots = 1});
  // Perhaps one was on its way when the daemon stopped; ExpectAll finds out whether any was lost or repeated.
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 20, 0, 5));
}

// gRPC ends the calls of a server that shuts down with a bare CANCELLED, while the daemon's handle socket still lives.
TEST_F(ClientTest, ResumesWhenADyingDaemonCancelsItsCalls) {
  auto daemon = Serve({.batches = 10, .slots = 10, .fail_after = 3, .failure = absl::CancelledError("CANCELLED")});
  auto client = Connect();
  int reconnects = 0;
  auto stream = Open(*client, {.on_reconnect = [&](const absl::Status&) { ++reconnects; }});
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 10));  // each life delivers three more
  EXPECT_EQ(reconnects, 3);
  EXPECT_EQ(daemon->opens(), 4u);

  stream = Open(*client, {.reconnect = false});
  for (uint64_t k = 0; k < 3; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(stream->Next(Soon())->batch, 0, k));
  EXPECT_EQ(stream->Next(Soon()).status().code(), absl::StatusCode::kUnavailable);
}

// Daemons up to 0.1.0 say no fault: that they drain is told by their words, and any other UNAVAILABLE is final, as it was.
TEST_F(ClientTest, ResumesAfterAnOldDaemonThatDrained) {
  const absl::Status draining = MakeError(absl::StatusCode::kUnavailable, "the daemon is about to end", {.cause = "draining"});
  auto daemon = Serve({.batches = 10, .slots = 10, .fail_after = 3, .failure = draining, .knows_faults = false});
  auto client = Connect();
  int reconnects = 0;
  auto stream = Open(*client, {.on_reconnect = [&](const absl::Status&) { ++reconnects; }});
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 10));
  EXPECT_EQ(reconnects, 3);
  stream.reset();
  daemon.reset();

  const absl::Status refused =
      MakeError(absl::StatusCode::kUnavailable, "no store", {.object = "o", .cause = "connection refused"});
  daemon = Serve({.batches = 10, .slots = 10, .fail_after = 3, .failure = refused, .knows_faults = false});
  stream = Open(*client);
  for (uint64_t k = 0; k < 3; ++k) ASSERT_NO_FATAL_FAILURE(ExpectBatch(stream->Next(Soon())->batch, 0, k));
  EXPECT_EQ(stream->Next(Soon()).status().message(), refused.message());
}

TEST_F(ClientTest, ACancelThatTheDaemonExplainsIsFinal) {
  const absl::Status failure = MakeError(absl::StatusCode::kCancelled, "the operator ended it", {.cause = "ended"});
  auto daemon = Serve({.batches = 10, .slots = 10, .fail_after = 1, .failure = failure});
  auto client = Connect();
  auto stream = Open(*client);
  ASSERT_TRUE(stream->Next(Soon()).ok());
  EXPECT_EQ(stream->Next(Soon()).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(daemon->opens(), 1u);
}

// The new daemon accepts and says nothing for a while: Next keeps its deadline, and however short that is, the
// connection goes on from call to call.
TEST_F(ClientTest, NextKeepsItsDeadlineWhileADaemonIsSlowToAnswer) {
  auto first = std::make_unique<DaemonProcess>(path_, 10, 1, 0, 1);
  auto client = Connect();
  auto stream = Open(*client);
  ASSERT_NO_FATAL_FAILURE(ExpectBatch(stream->Next(Soon())->batch, 0, 0));
  first->Kill();

  std::promise<void> gate;
  std::atomic<int> admitted = 0;
  auto daemon = Serve({.batches = 10, .slots = 1, .admit = [&, open = gate.get_future().share()] {
                         ++admitted;
                         return open.wait_for(kLong) == std::future_status::ready ? absl::OkStatus()
                                                                                  : absl::DeadlineExceededError("shut");
                       }});
  uint64_t next = 1;
  int late = 0;
  for (const Time until = Soon(); late < 20 && Clock::now() < until;) {
    const Time before = Clock::now();
    auto event = stream->Next(before + std::chrono::milliseconds(10));
    ASSERT_LT(Clock::now() - before, std::chrono::seconds(3)) << "a hello is waited for no longer than the deadline";
    if (event.ok()) {  // was on its way when the daemon died
      ASSERT_NO_FATAL_FAILURE(ExpectBatch(event->batch, 0, next++));
      continue;
    }
    ASSERT_EQ(event.status().code(), absl::StatusCode::kDeadlineExceeded) << event.status();
    if (admitted > 0) ++late;
  }
  EXPECT_EQ(late, 20);
  gate.set_value();
  ASSERT_NO_FATAL_FAILURE(ExpectAll(*stream, 1, 10, 0, next));
  EXPECT_EQ(admitted, 1) << "one connection, not one a call";
}

int ServeAsProcess(char** argv) {
  [[maybe_unused]] const auto daemon = FakeDaemon::Start({.path = argv[2],
                                                          .batches = std::strtoull(argv[3], nullptr, 10),
                                                          .epochs = std::strtoull(argv[4], nullptr, 10),
                                                          .per_message = 2,
                                                          .slots = std::strtoull(argv[6], nullptr, 10),
                                                          .kill_after = std::strtoull(argv[5], nullptr, 10)});
  (void)!::write(3, "r", 1);
  while (true) ::pause();
}

}  // namespace
}  // namespace devmem

int main(int argc, char** argv) {
  if (argc == 7 && std::string_view(argv[1]) == "--fake-daemon") return devmem::ServeAsProcess(argv);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
