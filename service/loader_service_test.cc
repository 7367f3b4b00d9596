// SPDX-License-Identifier: Apache-2.0
// The service with real sockets, streams and trainers, on the CPU.
#include "service/loader_service.h"

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <set>
#include <thread>

#include "base/error.h"
#include "client/cpp/client.h"
#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gtest/gtest.h"
#include "net/copy_transport.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;
using testing::HasSubstr;

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr uint64_t kRow = 96;
Time Soon() { return Clock::now() + kPatience; }

// Remembers on which threads it was asked how its NICs stand.
class AskedTransport final : public Transport {
 public:
  explicit AskedTransport(std::unique_ptr<Transport> real) : real_(std::move(real)) {}
  PathInfo path() override {
    std::lock_guard lock(mutex_);
    ++asked_;
    asked_on_.insert(std::this_thread::get_id());
    return last_ = real_->path();
  }
  PathInfo last_path() override {
    std::lock_guard lock(mutex_);
    return last_;
  }
  size_t workers() const override { return real_->workers(); }
  Reactor& reactor(size_t worker) override { return real_->reactor(worker); }
  void Start(size_t worker, RangeRead* read) override { real_->Start(worker, read); }
  void Cancel(size_t worker, RangeRead* read) override { real_->Cancel(worker, read); }
  void SetPolicy(const ReadPolicy& policy) override { real_->SetPolicy(policy); }

  int asked() {
    std::lock_guard lock(mutex_);
    return asked_;
  }
  std::set<std::thread::id> asked_on() {
    std::lock_guard lock(mutex_);
    return asked_on_;
  }

 private:
  const std::unique_ptr<Transport> real_;
  std::mutex mutex_;
  int asked_ = 0;
  std::set<std::thread::id> asked_on_;
  PathInfo last_;
};

class LoaderServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/devmem-service-XXXXXX";
    root_ = mkdtemp(folder);
    std::filesystem::create_directory(root_ / "data");
    auto transport = MakeCopyTransport({.workers = 2, .device = device_}, "a test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    transport_ = std::make_unique<AskedTransport>(*std::move(transport));
    auto listener = GrpcListener::Create(socket(), {});
    auto handles =
        HandleSocket::Create(socket(), {.gone = [this](const HandleSocket::Peer& peer) { service_->PeerGone(peer.token); }});
    ASSERT_TRUE(listener.ok() && handles.ok()) << listener.status() << handles.status();
    listener_ = *std::move(listener);
    handles_ = *std::move(handles);
    service_ = std::make_unique<LoaderService>(LoaderService::Parts{.options = &options_,
                                                                    .handles = handles_.get(),
                                                                    .listener = listener_.get(),
                                                                    .transport = transport_.get(),
                                                                    .device = device_,
                                                                    .budget = &budget_,
                                                                    .ledger = &ledger_,
                                                                    .openers = &openers_,
                                                                    .status = &status_,
                                                                    .upkeep = &upkeep_});
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    listener_->Serve(server_.get());
    auto client = Client::Connect(socket(), {});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    spec_.set_bucket("file://" + (root_ / "data").string());
    spec_.set_format(v1::FORMAT_RAW);
    spec_.add_tensors()->set_dtype(v1::DTYPE_UINT8);
    spec_.mutable_tensors(0)->add_shape(kRow);
    spec_.set_batch_size(10);
    spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
    spec_.set_prefetch_bytes(kRow * 10 * 20);
    for (int shard = 0; shard < 8; ++shard) WriteShard(shard);
  }
  void TearDown() override {
    client_.reset();
    listener_->Stop();
    service_->EndAll(Soon());
    server_->Shutdown();
    server_->Wait();
    for (WorkerPool* const pool : {&openers_, &status_, &upkeep_}) pool->Stop();
    transport_.reset();
    handles_.reset();
    std::filesystem::remove_all(root_);
  }

  [[nodiscard]] std::string socket() const { return root_ / "loader.sock"; }
  [[nodiscard]] std::filesystem::path Shard(int shard) const { return root_ / "data" / (std::to_string(shard) + ".bin"); }
  void WriteShard(int shard) const { std::ofstream(Shard(shard)) << std::string(1000 * kRow, static_cast<char>('a' + shard)); }

  // Reads until the stream fails, because an object vanished; the first batch, which may be held longer.
  Batch ReadToFailure(Stream& stream) {
    Batch first;
    for (uint64_t batches = 0;; ++batches) {
      auto event = stream.Next(Soon());
      if (!event.ok()) {
        EXPECT_EQ(event.status().code(), absl::StatusCode::kNotFound) << event.status();
        return first;
      }
      if (batches == 0) first = std::move(event->batch);
      if (batches == 2) std::filesystem::remove(Shard(7));
    }
  }
  v1::GetNodeStatusResponse Status() {
    auto status = client_->GetNodeStatus(Soon());
    EXPECT_TRUE(status.ok()) << status.status();
    return status.value_or(v1::GetNodeStatusResponse());
  }

  std::filesystem::path root_;
  const std::shared_ptr<Device> device_ = MakeCpuDevice();
  DaemonOptions options_;
  MemoryBudget budget_{uint64_t{1} << 20};
  AccessLedger ledger_;
  WorkerPool openers_{8}, status_{1}, upkeep_{2};
  std::unique_ptr<AskedTransport> transport_;
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<HandleSocket> handles_;
  std::unique_ptr<LoaderService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
  StreamSpec spec_;
};

// The trainer catches the error and opens again, for ever: each time all is given back when it lets the stream go, and with the
// last batch that it holds.
TEST_F(LoaderServiceTest, AFailedStreamGivesItsMemoryBackWithItsLastBatch) {
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    WriteShard(7);
    auto stream = client_->OpenStream(spec_, {});
    ASSERT_TRUE(stream.ok()) << stream.status();
    Batch held = ReadToFailure(**stream);
    if (round % 2 == 0) held.Release();
    stream->reset();
    if (round % 2 == 1) {
      // Its daemon may not have closed the stream yet; it will keep the slab.
      const Time until = Soon();
      v1::GetNodeStatusResponse status = Status();
      for (; status.kept_slabs_size() == 0 || status.streams_size() > 0; status = Status()) ASSERT_LT(Clock::now(), until);
      ASSERT_EQ(status.kept_slabs_size(), 1);
      EXPECT_EQ(status.kept_slabs(0).bytes(), status.pools(0).bytes_used());
      EXPECT_EQ(status.kept_slabs(0).peer_pid(), getpid());
      EXPECT_THAT(status.kept_slabs(0).bucket(), HasSubstr(root_.string()));
      EXPECT_FALSE(status.kept_slabs(0).stream_id().empty());
      const NodeSnapshot node = service_->Observe(10);
      EXPECT_EQ(node.kept_slabs, 1u);
      EXPECT_EQ(node.kept_slab_bytes, status.kept_slabs(0).bytes());
      EXPECT_EQ(held.tensor(0).bytes()[0], std::byte{'a'}) << "and what it holds stays";
      held.Release();
    }
    const Time until = Soon();  // the trainer waits for it too, but for a second at most
    while (budget_.used() > 0) ASSERT_LT(Clock::now(), until) << "slab memory was not given back";
    EXPECT_EQ(Status().kept_slabs_size(), 0);
  }
}

// What a failed stream left in its trainer's hands does not keep the next one out; what those before it left counts to its
// user.
TEST_F(LoaderServiceTest, OneKeptSlabOfATrainerIsBeyondItsQuota) {
  auto first = client_->OpenStream(spec_, {});
  ASSERT_TRUE(first.ok()) << first.status();
  const uint64_t slab = (*first)->opened().slabs(0).bytes();
  first->reset();
  const auto rules = AccessRules::Create({{.memory = 3 * slab}});
  ASSERT_TRUE(rules.ok()) << rules.status();
  service_->SetAccess(*rules);
  std::vector<Batch> held;
  while (held.size() < 4) {
    SCOPED_TRACE(held.size());
    WriteShard(7);
    auto stream = client_->OpenStream(spec_, {});
    ASSERT_TRUE(stream.ok()) << stream.status();
    held.push_back(ReadToFailure(**stream));
    stream->reset();
    const Time until = Soon();
    while (static_cast<size_t>(Status().kept_slabs_size()) < held.size()) ASSERT_LT(Clock::now(), until);
  }
  WriteShard(7);
  const absl::Status refused = client_->OpenStream(spec_, {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(FaultOf(refused), Fault::kQuota);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("access rule 1 allows"));
  held.clear();
  const Time until = Soon();
  while (budget_.used() > 0) ASSERT_LT(Clock::now(), until);
  auto again = client_->OpenStream(spec_, {});
  EXPECT_TRUE(again.ok()) << again.status();
}

// A listing may be of where the old rules let a redirect lead to.
TEST_F(LoaderServiceTest, OtherRulesAreNotForListingsOfBefore) {
  spec_.set_world_size(2);
  const auto samples = [&] {
    const auto stream = client_->OpenStream(spec_, {});
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? (*stream)->opened().samples() : 0;
  };
  EXPECT_EQ(samples(), 8000u);
  WriteShard(8);
  EXPECT_EQ(samples(), 8000u);
  service_->SetAccess(AccessRules());
  EXPECT_EQ(samples(), 9000u);
}

// Asking NICs how they stand takes netlink's time: never on a loop, which has other streams to receive for.
TEST_F(LoaderServiceTest, NoLoopAsksTheNics) {
  for (int shard = 2; shard < 8; ++shard) std::filesystem::remove(Shard(shard));
  auto stream = client_->OpenStream(spec_, {});
  ASSERT_TRUE(stream.ok()) << stream.status();
  while (true) {
    auto event = (*stream)->Next(Soon());
    ASSERT_TRUE(event.ok()) << event.status();
    if (event->kind != client::Event::kStreamEnd) continue;
    EXPECT_EQ(event->stream_end.path().name(), "copy");
    break;
  }
  const Time until = Soon();  // for a stream's end that is not of the time of its opening
  while (transport_->asked() < 2) ASSERT_LT(Clock::now(), until) << "asked when it was opened, and no more";
  const std::set<std::thread::id> asked_on = transport_->asked_on();
  EXPECT_FALSE(asked_on.empty());
  for (size_t worker = 0; worker < transport_->workers(); ++worker) {
    std::promise<std::thread::id> loop;
    transport_->reactor(worker).Post([&loop] { loop.set_value(std::this_thread::get_id()); });
    EXPECT_FALSE(asked_on.contains(loop.get_future().get()));
  }
}

}  // namespace
}  // namespace devmem
