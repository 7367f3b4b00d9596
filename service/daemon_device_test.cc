// SPDX-License-Identifier: Apache-2.0
// A daemon whose device hides its memory and works later, as a GPU does, and trainers on a device of their own that imports
// its slabs: everything between a bucket and a tensor but CUDA itself. Sample i is kRow bytes of Pattern(i).
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "client/cpp/client.h"
#include "gmock/gmock.h"
#include "gpu/testing/late_device.h"
#include "gtest/gtest.h"
#include "net/testing/nginx.h"
#include "service/daemon.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;
using testing::HasSubstr;

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr uint64_t kRow = 5000;
Time Soon() { return Clock::now() + kPatience; }

std::string Pattern(uint64_t sample) {
  std::string row(kRow, '\0');
  for (uint64_t i = 0; i < kRow; ++i) row[i] = static_cast<char>(sample * 131 + i * 7 + i / 251);
  return row;
}

std::string BytesOf(const TensorView& tensor) {
  std::string bytes(tensor.size_bytes(), '\0');
  const absl::Status copied = tensor.CopyTo(std::as_writable_bytes(std::span(bytes)));
  EXPECT_TRUE(copied.ok()) << copied;
  return bytes;
}

class DaemonDeviceTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/devmem-device-XXXXXX";
    root_ = mkdtemp(folder);
    std::filesystem::create_directory(root_ / "data");
    auto daemon = Daemon::Start({.socket = socket(),
                                 .transport = TransportChoice::kCopy,
                                 .journal_folder = root_ / "journals",
                                 .workers = 2,
                                 .policy = {.max_retries = 2}},
                                daemons_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    auto client = Client::Connect(socket(), {}, trainers_);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    spec_.set_format(v1::FORMAT_RAW);
    spec_.add_tensors()->set_dtype(v1::DTYPE_UINT8);
    spec_.mutable_tensors(0)->add_shape(kRow);
    spec_.set_tail(v1::TAIL_UNEVEN);
    spec_.set_seed(3);
  }
  void TearDown() override {
    client_.reset();
    daemon_.reset();
    std::filesystem::remove_all(root_);
  }

  [[nodiscard]] std::string socket() const { return root_ / "loader.sock"; }

  void WriteShards(std::initializer_list<uint64_t> counts) {
    int shard = 0;
    uint64_t sample = 0;
    for (const uint64_t count : counts) {
      std::ofstream file(root_ / "data" / ("shard-" + std::to_string(shard++) + ".bin"), std::ios::binary);
      for (uint64_t i = 0; i < count; ++i) file << Pattern(sample++);
    }
    if (GetParam()) {
      auto nginx = NginxServer::Start({.root = root_ / "data"});
      ASSERT_TRUE(nginx.ok()) << nginx.status();
      nginx_ = *std::move(nginx);
    }
    spec_.set_bucket(GetParam() ? nginx_->url() : "file://" + (root_ / "data").string());
  }

  std::unique_ptr<Stream> Open() {
    auto stream = client_->OpenStream(spec_, {});
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? *std::move(stream) : nullptr;
  }

  client::Event NextBatch(Stream& stream) {
    auto event = stream.Next(Soon());
    EXPECT_TRUE(event.ok()) << event.status();
    if (!event.ok()) return {};
    EXPECT_EQ(event->kind, client::Event::kBatch);
    return *std::move(event);
  }

  void ExpectNoSlabLeft() {
    const Time until = Soon();
    while (true) {
      const auto status = client_->GetNodeStatus(Soon());
      ASSERT_TRUE(status.ok()) << status.status();
      if (status->pools(0).bytes_used() == 0) return;
      ASSERT_LT(Clock::now(), until) << "slab memory was not given back";
      std::this_thread::yield();
    }
  }

  std::filesystem::path root_;
  std::shared_ptr<LateDevice> daemons_ = std::make_shared<LateDevice>(1), trainers_ = std::make_shared<LateDevice>(2);
  std::unique_ptr<NginxServer> nginx_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Client> client_;
  StreamSpec spec_;
};

TEST_P(DaemonDeviceTest, EveryByteOfEverySample) {
  WriteShards({60, 1, 40, 99});
  spec_.set_batch_size(7);
  spec_.set_epochs(2);
  spec_.set_prefetch_bytes(500'000);
  const auto stream = Open();
  ASSERT_NE(stream, nullptr);
  EXPECT_EQ(stream->opened().slabs(0).kind(), "cuda-vmm");
  EXPECT_EQ(stream->opened().slabs(0).device_uuid(), "GPU-late");
  EXPECT_EQ(stream->opened().path().name(), "copy");
  EXPECT_THAT(stream->opened().path().reason(), HasSubstr("two copies"));
  std::multiset<uint64_t> seen;
  while (true) {
    auto event = stream->Next(Soon());
    ASSERT_TRUE(event.ok()) << event.status();
    if (event->kind == client::Event::kStreamEnd) break;
    if (event->kind == client::Event::kEpochEnd) continue;
    const TensorView tensor = event->batch.tensor(0);
    EXPECT_FALSE(tensor.host_visible());
    EXPECT_TRUE(tensor.bytes().empty());
    EXPECT_NE(tensor.address(), nullptr);
    const std::string bytes = BytesOf(tensor);
    const auto& ids = event->batch.info().sample_ids();
    ASSERT_EQ(bytes.size(), static_cast<uint64_t>(ids.size()) * kRow);
    for (int row = 0; row < ids.size(); ++row) {
      ASSERT_TRUE(bytes.substr(static_cast<uint64_t>(row) * kRow, kRow) == Pattern(ids[row])) << "sample " << ids[row];
      seen.insert(ids[row]);
    }
  }
  EXPECT_EQ(seen.size(), 400u);
  EXPECT_EQ(std::set<uint64_t>(seen.begin(), seen.end()).size(), 200u);
}

TEST_P(DaemonDeviceTest, BadSamplesAreCutOutAndTheOthersCast) {
  WriteShards({20, 20, 20});
  spec_.set_batch_size(8);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_share(1);
  spec_.mutable_tensors(0)->set_cast(v1::DTYPE_FLOAT32);
  spec_.mutable_tensors(0)->set_scale(0.5);
  spec_.set_prefetch_bytes(1);  // two slots, so that most is read after the shard is gone
  const auto stream = Open();
  ASSERT_NE(stream, nullptr);
  std::filesystem::remove(root_ / "data" / "shard-1.bin");
  uint64_t good = 0, bad = 0;
  while (true) {
    auto event = stream->Next(Soon());
    ASSERT_TRUE(event.ok()) << event.status();
    if (event->kind == client::Event::kStreamEnd) break;
    if (event->kind == client::Event::kEpochEnd) continue;
    const std::string bytes = BytesOf(event->batch.tensor(0));
    const auto& ids = event->batch.info().sample_ids();
    bad += static_cast<uint64_t>(event->batch.info().skipped_size());
    for (int row = 0; row < ids.size(); ++row, ++good) {
      const std::string stored = Pattern(ids[row]);
      for (uint64_t i = 0; i < kRow; ++i) {
        float value = 0;
        std::memcpy(&value, bytes.data() + (static_cast<uint64_t>(row) * kRow + i) * 4, 4);
        ASSERT_EQ(value, static_cast<float>(static_cast<uint8_t>(stored[i])) / 2) << "sample " << ids[row] << " byte " << i;
      }
    }
  }
  EXPECT_EQ(good + bad, 60u);
  EXPECT_GT(bad, 0u);
  EXPECT_LE(bad, 20u);
}

TEST_P(DaemonDeviceTest, CancelledInMidStreamWhileTheDeviceWorks) {
  WriteShards({300});
  spec_.set_batch_size(3);
  spec_.mutable_tensors(0)->set_cast(v1::DTYPE_FLOAT32);
  for (int round = 0; round < 10; ++round) {
    auto stream = Open();
    ASSERT_NE(stream, nullptr);
    for (int i = 0; i < round; ++i) EXPECT_EQ(NextBatch(*stream).batch.tensor(0).size_bytes(), 3 * kRow * 4);
    if (round % 2 == 0) {
      stream->Cancel();
      EXPECT_EQ(stream->Next(Soon()).status().code(), absl::StatusCode::kCancelled);
    }
    stream.reset();
  }
  ExpectNoSlabLeft();
}

// No slot is written again while a kernel still reads it.
TEST_P(DaemonDeviceTest, ABatchComesBackWhenTheTrainersStreamIsDone) {
  WriteShards({12});
  spec_.set_batch_size(1);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_prefetch_bytes(1);
  auto stream = Open();
  ASSERT_NE(stream, nullptr);
  ASSERT_EQ(stream->opened().slots(), 2u);
  int kernels = 0;  // stands for a cudaStream_t
  client::Event first = NextBatch(*stream), second = NextBatch(*stream);
  const TensorView read = first.batch.tensor(0), also = second.batch.tensor(0);
  ASSERT_TRUE(first.batch.ReleaseAfter(&kernels).ok());
  ASSERT_TRUE(second.batch.ReleaseAfter(&kernels).ok());
  EXPECT_EQ(first.batch.tensors(), 0u) << "it is given back, as far as the trainer is concerned";
  EXPECT_EQ(stream->Next(Clock::now() + std::chrono::milliseconds(50)).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(BytesOf(read) == Pattern(0));
  EXPECT_TRUE(BytesOf(also) == Pattern(1));
  trainers_->FinishStream(&kernels);
  for (uint64_t sample = 2; sample < 12; ++sample) {
    client::Event event = NextBatch(*stream);
    EXPECT_TRUE(BytesOf(event.batch.tensor(0)) == Pattern(sample));
    ASSERT_TRUE(event.batch.ReleaseAfter(nullptr).ok());
  }
  stream.reset();
  ExpectNoSlabLeft();
}

TEST_P(DaemonDeviceTest, AStreamThatGoesWaitsForWhatIsStillRead) {
  WriteShards({12});
  spec_.set_batch_size(1);
  auto stream = Open();
  ASSERT_NE(stream, nullptr);
  int kernels = 0, others = 0;
  client::Event first = NextBatch(*stream), second = NextBatch(*stream);
  ASSERT_TRUE(first.batch.ReleaseAfter(&kernels).ok());
  std::thread ends([&] { stream.reset(); });
  trainers_->FinishStream(&kernels);
  ends.join();
  std::thread releases([&] { EXPECT_TRUE(second.batch.ReleaseAfter(&others).ok()); });
  trainers_->FinishStream(&others);
  releases.join();
  EXPECT_EQ(second.batch.tensors(), 0u);
  ExpectNoSlabLeft();
}

TEST_P(DaemonDeviceTest, AnotherDeviceIsToldApart) {
  WriteShards({12});
  spec_.set_device("cuda:0");
  spec_.set_device_uuid("GPU-other");
  absl::Status refused = client_->OpenStream(spec_, {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("the daemon serves GPU-late (late:0 there), this trainer asked for cuda:0, which is GPU-other"));
  EXPECT_EQ(CauseText(refused), "another device");
  spec_.set_device_uuid("");
  EXPECT_EQ(client_->OpenStream(spec_, {}).status().code(), absl::StatusCode::kNotFound);
  // One that says nothing finds out when it is to map.
  spec_.clear_device();
  auto cpu = Client::Connect(socket(), {});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  refused = (*cpu)->OpenStream(spec_, {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("it lies on device 'GPU-late', this client is on 'cpu'"));
  EXPECT_EQ(Client::Connect(socket(), {.device = "tpu"}).status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Buckets, DaemonDeviceTest, testing::Bool(),
                         [](const auto& param) { return std::string(param.param ? "Http" : "File"); });

}  // namespace
}  // namespace devmem
