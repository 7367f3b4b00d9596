// SPDX-License-Identifier: Apache-2.0
// DataStream against real files and the real transport, on the CPU and on a device that hides its memory and works later; the
// sink plays the trainer. Sample i of the data set is
// kRow bytes of the pattern Pattern(i), so that a byte out of place shows.
#include "service/stream.h"

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/testing/counted_memory.h"
#include "base/testing/error_text.h"
#include "client/cpp/rpc_error.h"
#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gpu/testing/late_device.h"
#include "gtest/gtest.h"
#include "net/copy_transport.h"
#include "service/dataset_builder.h"
#include "service/digest.h"
#include "service/open_stream.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr uint64_t kRow = 96;

std::string Pattern(uint64_t sample) {
  std::string row(kRow, '\0');
  for (uint64_t i = 0; i < kRow; ++i) row[i] = static_cast<char>(sample * 131 + i * 7);
  return row;
}

// Collects what the stream says; a test takes batches from it and releases them as it likes.
class Trainer final : public StreamSink {
 public:
  void OnEvent(v1::OpenStreamResponse event) override {
    std::lock_guard lock(mutex_);
    if (event.has_batches()) {
      for (v1::Batch& batch : *event.mutable_batches()->mutable_batches()) {
        v1::OpenStreamResponse one;
        *one.mutable_batches()->add_batches() = std::move(batch);
        events_.push_back(std::move(one));
      }
    } else {
      events_.push_back(std::move(event));
    }
    changed_.notify_all();
  }
  void OnFailed(absl::Status status) override {
    std::lock_guard lock(mutex_);
    failed_ = std::move(status);
    changed_.notify_all();
  }
  void OnAllReleased() override {
    std::lock_guard lock(mutex_);
    all_released_ = true;
    changed_.notify_all();
  }
  void OnClosed(std::optional<KeptSlab> kept) override {
    std::lock_guard lock(mutex_);
    kept_ = std::move(kept);
    closed_ = true;
    changed_.notify_all();
  }

  // The next event; nothing if the stream failed or patience ran out.
  std::optional<v1::OpenStreamResponse> Next() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [this] { return !events_.empty() || !failed_.ok(); });
    if (events_.empty()) return std::nullopt;
    v1::OpenStreamResponse event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  absl::Status Failure() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [this] { return !failed_.ok(); });
    return failed_;
  }
  bool WaitClosed() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [this] { return closed_; });
  }
  bool WaitAllReleased() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [this] { return all_released_; });
  }
  bool closed() {
    std::lock_guard lock(mutex_);
    return closed_;
  }
  std::optional<KeptSlab> kept() {
    std::lock_guard lock(mutex_);
    return kept_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::OpenStreamResponse> events_;
  absl::Status failed_;
  bool all_released_ = false;
  bool closed_ = false;
  std::optional<KeptSlab> kept_;
};

// Starts so many reads and no more: the others are done, as cancelled, when the test says so and not before.
class StuckTransport final : public Transport {
 public:
  StuckTransport(Transport& real, size_t starts) : real_(real), starts_(starts) {}
  PathInfo path() override { return real_.path(); }
  size_t workers() const override { return real_.workers(); }
  Reactor& reactor(size_t worker) override { return real_.reactor(worker); }
  void Start(size_t worker, RangeRead* read) override {
    std::lock_guard lock(mutex_);
    if (starts_ > 0) {
      --starts_;
      return real_.Start(worker, read);
    }
    stuck_.emplace_back(worker, read);
    if (let_go_) End();  // it was on its way to another worker's loop
  }
  void Cancel(size_t worker, RangeRead* read) override {
    std::lock_guard lock(mutex_);
    const bool ours = std::any_of(stuck_.begin(), stuck_.end(), [read](const auto& each) { return each.second == read; });
    if (!ours) real_.Cancel(worker, read);
  }
  void SetPolicy(const ReadPolicy& policy) override { real_.SetPolicy(policy); }
  size_t stuck() {
    std::lock_guard lock(mutex_);
    return stuck_.size();
  }
  void LetGo() {
    std::lock_guard lock(mutex_);
    let_go_ = true;
    End();
  }

 private:
  void End() {
    for (const auto& [worker, read] : std::exchange(stuck_, {})) {
      real_.reactor(worker).Post([read = read] {
        read->status = absl::CancelledError("let go");
        read->Done();
      });
    }
  }

  Transport& real_;
  std::mutex mutex_;
  size_t starts_;
  bool let_go_ = false;
  std::vector<std::pair<size_t, RangeRead*>> stuck_;
};

// What a transport says of an object, whatever is stored; the rest goes the real way.
class FailingTransport final : public Transport {
 public:
  // Fails reads of `object` with the error that this makes of it; OK means that the real one may try.
  using Judge = std::function<absl::Status(const RangeRead&)>;
  FailingTransport(Transport& real, Judge judge) : real_(real), judge_(std::move(judge)) {}
  PathInfo path() override { return real_.path(); }
  size_t workers() const override { return real_.workers(); }
  Reactor& reactor(size_t worker) override { return real_.reactor(worker); }
  void Start(size_t worker, RangeRead* read) override {
    absl::Status status;
    {
      std::lock_guard lock(mutex_);
      asked_.push_back(read->object);
      status = judge_(*read);
    }
    if (status.ok()) return real_.Start(worker, read);
    real_.reactor(worker).Post([read, status] {
      read->status = status;
      read->Done();
    });
  }
  void Cancel(size_t worker, RangeRead* read) override { real_.Cancel(worker, read); }
  void SetPolicy(const ReadPolicy& policy) override { real_.SetPolicy(policy); }
  std::vector<std::string> asked() {
    std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  Transport& real_;
  std::mutex mutex_;
  Judge judge_;
  std::vector<std::string> asked_;
};

absl::Status Forbidden(const RangeRead& read) {
  return MakeError(absl::StatusCode::kPermissionDenied, "the server answered 403",
                   {.object = read.object, .fault = Fault::kForbidden, .http_status = 403});
}

class StreamTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/devmem-stream-XXXXXX";
    root_ = mkdtemp(folder);
    if (GetParam()) {
      late_ = std::make_shared<LateDevice>();
      device_ = late_;
    }
    auto transport = MakeCopyTransport({.workers = 2, .device = device_}, "a test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    transport_ = *std::move(transport);
    spec_.set_bucket("file://" + root_.string());
    spec_.set_format(v1::FORMAT_RAW);
    spec_.add_tensors()->set_dtype(v1::DTYPE_UINT8);
    spec_.mutable_tensors(0)->add_shape(kRow);
    spec_.set_tail(v1::TAIL_UNEVEN);
    spec_.set_seed(5);
  }
  void TearDown() override {
    if (stream_ != nullptr) {
      stream_->Close();
      EXPECT_TRUE(trainer_->WaitClosed());
      stream_.reset();
    }
    trainer_.reset();  // with the slab kept for it
    transport_.reset();
    EXPECT_EQ(budget_.used(), 0u) << "slab memory was not given back";
    EXPECT_EQ(memory_.used(), 0u) << "what is no slab was not given back";
    std::filesystem::remove_all(root_);
  }

  void WriteShards(std::initializer_list<uint64_t> counts) {
    int shard = 0;
    uint64_t sample = 0;
    for (const uint64_t count : counts) {
      std::ofstream file(root_ / ("shard-" + std::to_string(shard++) + ".bin"), std::ios::binary);
      for (uint64_t i = 0; i < count; ++i) file << Pattern(sample++);
    }
  }

  absl::Status Open() {
    auto opened = PrepareStream(spec_, {.device = device_,
                                        .budget = &budget_,
                                        .memory = memory_.Account(),
                                        .quota = quota_,
                                        .default_prefetch = 64 << 10,
                                        .reads = reads_,
                                        .deadline = Clock::now() + kPatience,
                                        .listings = listings_});
    if (!opened.ok()) return opened.status();
    slab_ = opened->setup.slab;
    opened_ = opened->opened;
    opened->setup.counters = &node_.OfWorker(0);
    opened->setup.say_failed = [this](const RangeRead& read, const absl::Status& status, std::optional<Duration> wait) {
      EXPECT_FALSE(wait.has_value());
      said_.push_back(absl::StrCat(std::string(read.stream_id), "/", read.number, " ", GetErrorInfo(status).object));
    };
    opened->setup.id = "it";
    opened->setup.device_deadline = device_deadline_;
    trainer_ = std::make_shared<Trainer>();
    stream_ = std::make_shared<DataStream>(std::move(opened->setup), UsedTransport(), 0, trainer_,
                                           [](const std::function<void()>& task) { task(); });
    stream_cursor_ = stream_->CursorAt(Position{});
    return absl::OkStatus();
  }

  Transport& UsedTransport() {
    if (failing_ != nullptr) return *failing_;
    return stuck_ != nullptr ? static_cast<Transport&>(*stuck_) : *transport_;
  }

  std::string Row(const v1::Batch& batch, int row, int tensor = 0) {
    const v1::Tensor& t = batch.tensors(tensor);
    const uint64_t bytes = t.bytes() / static_cast<uint64_t>(std::max<int64_t>(1, t.shape(0)));
    const auto span = LateDevice::Look(*slab_, t.offset() + static_cast<uint64_t>(row) * bytes, bytes);
    return {reinterpret_cast<const char*>(span.data()), span.size()};
  }

  std::filesystem::path root_;
  std::shared_ptr<Device> device_ = MakeCpuDevice();
  std::shared_ptr<LateDevice> late_;  // device_, where that is it
  ReadOptions reads_;
  Duration device_deadline_ = kPatience;
  MemoryBudget budget_{uint64_t{64} << 20};
  CountedMemory memory_{uint64_t{256} << 20};
  std::function<absl::StatusOr<MemoryBudget::Reservation>(uint64_t)> quota_;
  std::shared_ptr<ListingCache> listings_;
  v1::StreamOpened opened_;
  v1::Cursor stream_cursor_;  // of its start
  NodeCounters node_;
  std::vector<std::string> said_;  // the loop's, until the stream is closed
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<StuckTransport> stuck_;  // used where there is one
  std::unique_ptr<FailingTransport> failing_;
  v1::StreamSpec spec_;
  std::shared_ptr<DeviceMemory> slab_;
  std::shared_ptr<Trainer> trainer_;
  std::shared_ptr<DataStream> stream_;
};

// Every mode, odd sizes, more batches than slots, releases in random order: each sample once an epoch, in its place.
TEST_P(StreamTest, DeliversEverySampleOnceAnEpochWhateverTheOrder) {
  WriteShards({100, 1, 777, 322});
  for (const auto mode : {v1::Shuffle::NONE, v1::Shuffle::BLOCK, v1::Shuffle::WINDOW, v1::Shuffle::GLOBAL}) {
    SCOPED_TRACE(v1::Shuffle::Mode_Name(mode));
    spec_.mutable_shuffle()->set_mode(mode);
    spec_.mutable_shuffle()->set_window(50);
    spec_.mutable_shuffle()->set_block_samples(16);
    spec_.set_batch_size(7);
    spec_.set_epochs(2);
    spec_.set_prefetch_bytes(9216);
    ASSERT_TRUE(Open().ok());
    stream_->Start();
    std::mt19937 random(3);
    std::vector<uint64_t> held;
    std::multiset<uint64_t> seen;
    uint64_t sequence = 0;
    uint64_t epoch = 0;
    while (true) {
      auto event = trainer_->Next();
      ASSERT_TRUE(event.has_value()) << trainer_->Failure();
      if (event->has_stream_end()) break;
      if (event->has_epoch_end()) {
        EXPECT_EQ(event->epoch_end().epoch(), epoch++);
        EXPECT_EQ(event->epoch_end().samples(), 1200u);
        EXPECT_EQ(seen.size(), 1200u);
        EXPECT_EQ(std::set<uint64_t>(seen.begin(), seen.end()).size(), 1200u);
        seen.clear();
        continue;
      }
      const v1::Batch& batch = event->batches().batches(0);
      EXPECT_EQ(batch.sequence(), sequence++);
      EXPECT_EQ(batch.epoch(), epoch);
      EXPECT_EQ(batch.tensors(0).offset() % kTensorAlignment, 0u);
      for (int row = 0; row < batch.sample_ids_size(); ++row) {
        ASSERT_EQ(Row(batch, row), Pattern(batch.sample_ids(row))) << "sample " << batch.sample_ids(row);
        seen.insert(batch.sample_ids(row));
      }
      held.push_back(batch.sequence());
      while (held.size() > 9 || (!held.empty() && random() % 2 == 0)) {
        std::swap(held[random() % held.size()], held.back());
        stream_->Release({held.back()});
        held.pop_back();
      }
    }
    EXPECT_EQ(epoch, 2u);
    stream_->Release(held);
    EXPECT_TRUE(trainer_->WaitAllReleased());
    stream_->Close();
    ASSERT_TRUE(trainer_->WaitClosed());
    stream_.reset();
  }
}

TEST_P(StreamTest, StopsWithAllSlotsHeldAndGoesOnWithOne) {
  WriteShards({100});
  spec_.set_batch_size(1);
  spec_.set_prefetch_bytes(1024);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  std::vector<uint64_t> held;
  held.reserve(4);
  for (int i = 0; i < 4; ++i) held.push_back(trainer_->Next()->batches().batches(0).sequence());
  // One slot at a time, the rest held for good: far below a wave, and still every batch comes.
  uint64_t last = held.back();
  for (uint64_t next = 4; next < 100; ++next) {
    // It says that it waits, or (three times) the stream must find out by itself.
    stream_->Release({last}, next > 6);
    auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value());
    last = event->batches().batches(0).sequence();
    EXPECT_EQ(last, next);
    EXPECT_EQ(Row(event->batches().batches(0), 0), Pattern(next));
  }
}

TEST_P(StreamTest, CountsWhatItDoes) {
  WriteShards({20});
  spec_.set_batch_size(5);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  std::vector<uint64_t> held;
  for (int i = 0; i < 4; ++i) held.push_back(trainer_->Next()->batches().batches(0).sequence());
  stream_->Release({held[0], held[2]});
  stream_->Close();
  ASSERT_TRUE(trainer_->WaitClosed());
  const StreamTotals totals = node_.Sum();
  const auto& delivered = totals.delivered[Index(BytePath::kCopy)][Index(DatasetFormat::kRaw)];
  EXPECT_EQ(delivered.batches, 4u);
  EXPECT_EQ(delivered.samples, 20u);
  EXPECT_EQ(delivered.bytes, 20 * kRow);
  EXPECT_EQ(totals.delivered[Index(BytePath::kDevmem)][Index(DatasetFormat::kRaw)].batches, 0u);
  EXPECT_EQ(totals.received_bytes[Index(BytePath::kCopy)][Index(StoreKind::kFile)], 20 * kRow);
  EXPECT_EQ(totals.credits_taken, 4u);
  EXPECT_EQ(totals.credits_back, 4u) << "two were released, two given up";
  EXPECT_GE(totals.requests[Index(StoreKind::kFile)], 1u);
  EXPECT_THAT(said_, testing::IsEmpty());
}

TEST_P(StreamTest, CountsAndSaysWhatFailed) {
  WriteShards({20});
  ASSERT_TRUE(Open().ok());
  for (const auto& entry : std::filesystem::directory_iterator(root_)) std::filesystem::remove(entry);
  stream_->Start();
  EXPECT_EQ(trainer_->Failure().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(StatisticsOf(trainer_->Failure()).has_value());
  ASSERT_TRUE(trainer_->WaitClosed());
  EXPECT_EQ(node_.Sum().errors[Index(StoreKind::kFile)][static_cast<size_t>(absl::StatusCode::kNotFound)], 1u);
  ASSERT_EQ(said_.size(), 1u);
  EXPECT_THAT(said_[0], testing::StartsWith("it/0 "));
}

TEST_P(StreamTest, WhatATrainerSaysBeforeTheStartChangesNothing) {
  WriteShards({20});
  spec_.set_batch_size(5);
  ASSERT_TRUE(Open().ok());
  stream_->Release({}, /*waiting=*/true);
  stream_->Release({7});
  stream_->Start();
  for (int i = 0; i < 4; ++i) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value() && event->has_batches()) << trainer_->Failure();
  }
  EXPECT_EQ(trainer_->Next()->epoch_end().samples(), 20u);
}

// A slow trainer's slots come back one by one. Reading them one by one would tear shuffle groups apart.
TEST_P(StreamTest, ASlowTrainersGroupsAreReadWhole) {
  WriteShards({1024});
  reads_.max_gap = 0;
  spec_.set_signals_waiting(true);
  spec_.set_batch_size(4);
  spec_.set_prefetch_bytes(16384);
  spec_.mutable_shuffle()->set_block_samples(16);
  spec_.mutable_shuffle()->set_group_blocks(4);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  for (uint64_t next = 0; next < 256; ++next) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value());
    stream_->Release({event->batches().batches(0).sequence()});
  }
  ASSERT_TRUE(trainer_->Next()->has_epoch_end());
  const auto end = trainer_->Next();
  ASSERT_TRUE(end.has_value());
  // 64 blocks of one object, some of them neighbours.
  EXPECT_LE(end->stream_end().statistics().requests(), 64u);
  EXPECT_EQ(end->stream_end().statistics().bytes_received(), end->stream_end().statistics().bytes());
}

TEST_P(StreamTest, SkipsWhatIsBadAndKeepsTheOrderOfTheRest) {
  WriteShards({10, 10, 10});
  spec_.set_batch_size(6);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_samples(10);
  spec_.set_with_sources(true);
  ASSERT_TRUE(Open().ok());
  std::filesystem::remove(root_ / "shard-1.bin");
  stream_->Start();
  std::vector<uint64_t> order;
  std::vector<uint64_t> skipped;
  std::vector<int> sizes;
  for (int i = 0; i < 5; ++i) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value()) << trainer_->Failure();
    const v1::Batch& batch = event->batches().batches(0);
    sizes.push_back(batch.sample_ids_size());
    EXPECT_EQ(batch.tensors(0).shape(0), batch.sample_ids_size());
    EXPECT_EQ(batch.sources_size(), batch.sample_ids_size());
    for (int row = 0; row < batch.sample_ids_size(); ++row) {
      order.push_back(batch.sample_ids(row));
      EXPECT_EQ(Row(batch, row), Pattern(batch.sample_ids(row)));
      EXPECT_THAT(batch.sources(row).object(), testing::AnyOf("shard-0.bin", "shard-2.bin"));
    }
    for (const auto& s : batch.skipped()) {
      skipped.push_back(s.sample_id());
      EXPECT_EQ(s.error().object(), "shard-1.bin");
      EXPECT_EQ(s.error().code(), "NOT_FOUND");
    }
  }
  EXPECT_THAT(sizes, ElementsAre(6, 4, 0, 4, 6));
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29));
  EXPECT_THAT(skipped, ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 18, 19));
  EXPECT_EQ(node_.Sum().skipped_samples, 10u);
  ASSERT_TRUE(trainer_->Next()->has_epoch_end());
  const auto end = trainer_->Next();
  ASSERT_TRUE(end->has_stream_end());
  EXPECT_EQ(end->stream_end().statistics().skipped_samples(), 10u);
}

TEST_P(StreamTest, FailsWhereMoreWouldBeSkippedThanMay) {
  WriteShards({10, 10, 10});
  spec_.set_batch_size(5);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_samples(9);
  ASSERT_TRUE(Open().ok());
  std::filesystem::remove(root_ / "shard-1.bin");
  stream_->Start();
  const absl::Status failure = trainer_->Failure();
  EXPECT_EQ(FaultOf(failure), Fault::kTooManySkipped) << failure;
  EXPECT_EQ(ScopeOf(failure), Scope::kPolicy);
  EXPECT_EQ(GetErrorInfo(failure).object, "shard-1.bin");
}

// Who resumes in the middle of an epoch does not begin to count anew; who begins another does.
TEST_P(StreamTest, WhatWasSkippedBeforeCountsForWhoResumes) {
  WriteShards({10, 10, 10});
  spec_.set_batch_size(5);
  spec_.set_epochs(2);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_samples(10);
  failing_ = std::make_unique<FailingTransport>(*transport_, [](const RangeRead& read) {
    if (read.object != "shard-1.bin") return absl::OkStatus();
    return MakeError(absl::StatusCode::kNotFound, "gone", {.object = read.object, .fault = Fault::kObjectGone});
  });
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  std::vector<v1::Cursor> cursors;  // after each batch and epoch
  while (true) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value()) << trainer_->Failure();
    if (event->has_stream_end()) break;
    if (event->has_epoch_end()) {
      cursors.push_back(event->epoch_end().cursor());
      continue;
    }
    cursors.push_back(event->batches().batches(0).cursor());
    stream_->Release({event->batches().batches(0).sequence()});
  }
  std::vector<uint64_t> skipped;
  for (const v1::Cursor& cursor : cursors) skipped.push_back(cursor.skipped());
  EXPECT_THAT(skipped, ElementsAre(0, 0, 5, 10, 10, 10, 0, 0, 0, 5, 10, 10, 10, 0));

  stream_->Close();
  ASSERT_TRUE(trainer_->WaitClosed());
  stream_.reset();
  *spec_.mutable_resume() = cursors[2];
  spec_.mutable_resume()->set_skipped(6);  // one more than what may be, with the five that follow; the next epoch's ten may be
  const auto failure = [&] {
    EXPECT_TRUE(Open().ok());
    stream_->Start();
    while (const auto event = trainer_->Next()) {
      if (event->has_batches()) stream_->Release({event->batches().batches(0).sequence()});
      if (event->has_stream_end()) return Fault::kUnspecified;
    }
    return FaultOf(trainer_->Failure());
  };
  const auto close = [&] {
    stream_->Close();
    EXPECT_TRUE(trainer_->WaitClosed());
    stream_.reset();
  };
  EXPECT_EQ(failure(), Fault::kTooManySkipped);
  close();
  spec_.mutable_resume()->set_world_size(2);  // what another rank left out is not this one's
  EXPECT_EQ(failure(), Fault::kUnspecified);
  close();
  *spec_.mutable_resume() = cursors[2];
  spec_.mutable_resume()->set_skipped(1000);
  spec_.mutable_max_skipped()->set_share(1);
  EXPECT_EQ(failure(), Fault::kUnspecified) << "all of it may be missing";
}

// One object that may not be read is skipped, for others are read since.
TEST_P(StreamTest, SkipsAForbiddenObjectBecauseOthersAreReadSince) {
  WriteShards({10, 10, 10});
  spec_.set_batch_size(5);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_share(1);
  failing_ = std::make_unique<FailingTransport>(
      *transport_, [](const RangeRead& read) { return read.object == "shard-1.bin" ? Forbidden(read) : absl::OkStatus(); });
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  std::vector<uint64_t> order;
  uint64_t skipped = 0;
  while (true) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value()) << trainer_->Failure();
    if (event->has_stream_end()) break;
    if (event->has_epoch_end()) continue;
    const v1::Batch& batch = event->batches().batches(0);
    for (int row = 0; row < batch.sample_ids_size(); ++row) {
      order.push_back(batch.sample_ids(row));
      EXPECT_EQ(Row(batch, row), Pattern(batch.sample_ids(row)));
    }
    for (const auto& sample : batch.skipped()) {
      ++skipped;
      EXPECT_EQ(sample.error().scope(), v1::SCOPE_OBJECT);
      EXPECT_EQ(sample.error().fault(), v1::FAULT_FORBIDDEN);
    }
    stream_->Release({batch.sequence()});
  }
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29));
  EXPECT_EQ(skipped, 10u);
}

// A store that turns everybody away after a while, as with credentials that expired: nothing is skipped for it.
TEST_P(StreamTest, AStoreThatForbidsAllAfterAWhileFailsTheStream) {
  WriteShards({10, 10, 10, 10, 10, 10});
  spec_.set_batch_size(10);
  spec_.set_prefetch_bytes(2 * 10 * kRow);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_share(1);
  failing_ = std::make_unique<FailingTransport>(
      *transport_, [served = 0](const RangeRead& read) mutable { return ++served > 2 ? Forbidden(read) : absl::OkStatus(); });
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  uint64_t samples = 0;
  while (const auto event = trainer_->Next()) {
    if (!event->has_batches()) continue;
    const v1::Batch& batch = event->batches().batches(0);
    EXPECT_EQ(batch.skipped_size(), 0);
    samples += static_cast<uint64_t>(batch.sample_ids_size());
    stream_->Release({batch.sequence()});
  }
  const absl::Status failure = trainer_->Failure();
  EXPECT_EQ(failure.code(), absl::StatusCode::kPermissionDenied) << failure;
  EXPECT_EQ(ScopeOf(failure), Scope::kStore);
  EXPECT_THAT(Text(failure), HasSubstr("nor could another object be read since"));
  // The third read follows the first batch; the second may still be on its way when the stream fails.
  EXPECT_THAT(samples, testing::AnyOf(10u, 20u));
}

// Faults of the store and of policy end the stream whatever may be skipped.
TEST_P(StreamTest, SkipsNothingThatIsNotTheObjects) {
  struct Row {
    Fault fault;
    size_t shards;
    const char* words;
  };
  for (const auto& row : {Row{Fault::kBadAnswer, 3, ""}, Row{Fault::kNoZeroCopy, 3, ""}, Row{Fault::kServerError, 3, ""},
                          Row{Fault::kCredentials, 3, ""}, Row{Fault::kUnspecified, 3, ""},
                          Row{Fault::kForbidden, 1, "no other object to tell by"}}) {
    SCOPED_TRACE(Name(row.fault));
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    if (row.shards == 1) {
      WriteShards({30});
    } else {
      WriteShards({10, 10, 10});
    }
    spec_.set_batch_size(5);
    spec_.set_on_error(v1::ON_ERROR_SKIP);
    spec_.mutable_max_skipped()->set_share(1);
    failing_ = std::make_unique<FailingTransport>(*transport_, [fault = row.fault](const RangeRead& read) {
      return read.object == "shard-0.bin"
                 ? MakeError(absl::StatusCode::kFailedPrecondition, "no", {.object = read.object, .fault = fault})
                 : absl::OkStatus();
    });
    ASSERT_TRUE(Open().ok());
    stream_->Start();
    const absl::Status failure = trainer_->Failure();
    EXPECT_EQ(FaultOf(failure), row.fault) << failure;
    EXPECT_THAT(Text(failure), HasSubstr(row.words));
    ASSERT_TRUE(trainer_->WaitClosed());
    stream_.reset();
  }
}

TEST_P(StreamTest, FailsByNameWithoutSkip) {
  WriteShards({10, 10});
  spec_.set_batch_size(5);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  ASSERT_TRUE(Open().ok());
  std::filesystem::remove(root_ / "shard-1.bin");
  stream_->Start();
  const absl::Status failure = trainer_->Failure();
  EXPECT_EQ(failure.code(), absl::StatusCode::kNotFound) << failure;
  EXPECT_EQ(GetErrorInfo(failure).object, "shard-1.bin");
}

TEST_P(StreamTest, CastsAndScales) {
  WriteShards({9});
  spec_.set_batch_size(4);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.mutable_tensors(0)->set_cast(v1::DTYPE_FLOAT32);
  spec_.mutable_tensors(0)->set_scale(1.0 / 255);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  uint64_t sample = 0;
  for (const int rows : {4, 4, 1}) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value());
    const v1::Batch& batch = event->batches().batches(0);
    EXPECT_EQ(batch.tensors(0).dtype(), v1::DTYPE_FLOAT32);
    EXPECT_EQ(batch.tensors(0).bytes(), static_cast<uint64_t>(rows) * kRow * 4);
    for (int row = 0; row < rows; ++row, ++sample) {
      const std::string bytes = Row(batch, row);
      const std::string stored = Pattern(sample);
      for (uint64_t i = 0; i < kRow; ++i) {
        float value = 0;
        std::memcpy(&value, bytes.data() + i * 4, 4);
        ASSERT_FLOAT_EQ(value, static_cast<float>(static_cast<uint8_t>(stored[i])) / 255.0F);
      }
    }
  }
}

TEST_P(StreamTest, PadsFromTheStartAndFlagsIt) {
  WriteShards({5});
  spec_.set_batch_size(2);
  spec_.set_world_size(2);
  spec_.set_rank(1);
  spec_.set_tail(v1::TAIL_PAD);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  const auto first = trainer_->Next();
  const auto second = trainer_->Next();
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_THAT(first->batches().batches(0).sample_ids(), ElementsAre(2, 3));
  EXPECT_EQ(first->batches().batches(0).padding_size(), 0);
  const v1::Batch& padded = second->batches().batches(0);
  EXPECT_THAT(padded.sample_ids(), ElementsAre(1, 2));
  EXPECT_THAT(padded.padding(), ElementsAre(true, true));
  EXPECT_EQ(Row(padded, 0), Pattern(1));
}

// A data set far smaller than its padded batch is read once; the device makes the other rows, also where they are cast, and
// what is bad is left out wherever it is repeated.
TEST_P(StreamTest, RepeatedRowsShareTheirRequest) {
  for (const bool cast : {false, true}) {
    for (const bool skip : {false, true}) {
      SCOPED_TRACE(testing::Message() << "cast " << cast << " skip " << skip);
      WriteShards({3, 2});
      spec_.set_batch_size(997);
      spec_.set_tail(v1::TAIL_PAD);
      spec_.mutable_shuffle()->set_mode(cast ? v1::Shuffle::NONE : v1::Shuffle::GLOBAL);
      spec_.mutable_tensors(0)->set_cast(cast ? v1::DTYPE_FLOAT32 : v1::DTYPE_UNSPECIFIED);
      spec_.set_on_error(skip ? v1::ON_ERROR_SKIP : v1::ON_ERROR_FAIL);
      spec_.mutable_max_skipped()->set_share(1);
      spec_.set_prefetch_bytes(4 << 20);
      ASSERT_TRUE(Open().ok());
      if (skip) std::filesystem::remove(root_ / "shard-1.bin");
      stream_->Start();
      const auto event = trainer_->Next();
      ASSERT_TRUE(event.has_value()) << trainer_->Failure();
      const v1::Batch& batch = event->batches().batches(0);
      EXPECT_EQ(batch.sample_ids_size() + batch.skipped_size(), 997);
      EXPECT_EQ(batch.skipped_size() > 0, skip);
      for (const auto& skipped : batch.skipped()) EXPECT_GE(skipped.sample_id(), 3u);
      for (int row = 0; row < batch.sample_ids_size(); ++row) {
        const std::string stored = Pattern(batch.sample_ids(row)), bytes = Row(batch, row);
        if (!cast) {
          ASSERT_EQ(bytes, stored) << row;
          continue;
        }
        for (uint64_t i = 0; i < kRow; ++i) {
          float value = 0;
          std::memcpy(&value, bytes.data() + i * 4, 4);
          ASSERT_EQ(value, static_cast<float>(static_cast<uint8_t>(stored[i]))) << row;
        }
      }
      stream_->Release({0});
      ASSERT_TRUE(trainer_->Next()->has_epoch_end());
      const auto end = trainer_->Next();
      ASSERT_TRUE(end->has_stream_end());
      EXPECT_LE(end->stream_end().statistics().requests(), 2u);
      EXPECT_EQ(end->stream_end().statistics().bytes_received(), (skip ? 3 : 5) * kRow);
      stream_->Close();
      ASSERT_TRUE(trainer_->WaitClosed());
      stream_.reset();
    }
  }
}

TEST_P(StreamTest, ResumesAfterABatchUnderAnotherWorldSize) {
  WriteShards({64});
  spec_.set_batch_size(4);
  spec_.set_world_size(2);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  const v1::Batch batch = trainer_->Next()->batches().batches(0);
  EXPECT_EQ(batch.cursor().position(), 8u);
  std::set<uint64_t> rest;
  stream_->Close();
  ASSERT_TRUE(trainer_->WaitClosed());

  spec_.set_world_size(1);
  *spec_.mutable_resume() = batch.cursor();
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  while (true) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value());
    if (!event->has_batches()) break;
    const auto& ids = event->batches().batches(0).sample_ids();
    rest.insert(ids.begin(), ids.end());
  }
  EXPECT_EQ(rest.size(), 56u);
  for (const uint64_t id : batch.sample_ids()) EXPECT_FALSE(rest.contains(id));

  stream_->Close();
  ASSERT_TRUE(trainer_->WaitClosed());
  stream_.reset();
  std::ofstream(root_ / "shard-9.bin") << Pattern(0);
  const absl::Status changed = Open();
  EXPECT_EQ(changed.code(), absl::StatusCode::kFailedPrecondition) << changed;
  EXPECT_EQ(CauseText(changed), "listing changed");
}

// Two ranks of a bucket that grows in between. One daemon gives both the same samples; of two, the second must be told which.
TEST_P(StreamTest, RanksThatFindOtherListingsDoNotOpen) {
  WriteShards({64});
  const auto cache_of_one = std::make_shared<ListingCache>(&budget_);
  listings_ = cache_of_one;
  spec_.set_world_size(2);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 64u);
  const uint64_t of_rank_0 = opened_.listing_fingerprint();
  const auto close = [&] {
    stream_->Close();
    ASSERT_TRUE(trainer_->WaitClosed());
    stream_.reset();
  };
  close();
  std::ofstream(root_ / "shard-9.bin") << Pattern(0);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 64u) << "one daemon";
  close();
  // Who asks for what is in no listing takes this one from nobody, and who is alone reads what the bucket holds now.
  spec_.mutable_tensors(0)->set_glob("nothing*");
  EXPECT_EQ(Open().code(), absl::StatusCode::kNotFound);
  spec_.mutable_tensors(0)->clear_glob();
  spec_.set_world_size(1);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 65u);
  close();
  spec_.set_world_size(2);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 64u);
  EXPECT_EQ(opened_.listing_fingerprint(), of_rank_0);
  close();
  listings_ = std::make_shared<ListingCache>(&budget_);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 65u) << "another daemon, which was told nothing";
  const uint64_t of_now = opened_.listing_fingerprint();
  close();
  spec_.set_expect_fingerprint(of_rank_0);
  const absl::Status refused = Open();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_EQ(FaultOf(refused), Fault::kListingChanged);
  EXPECT_EQ(ScopeOf(refused), Scope::kPolicy);
  EXPECT_THAT(Text(refused), testing::AllOf(HasSubstr(FingerprintText(of_rank_0)), HasSubstr(FingerprintText(of_now)),
                                            HasSubstr("rank 0's fingerprint")));
  // A listing kept from before refuses nobody: the store is asked first.
  listings_ = cache_of_one;
  spec_.set_expect_fingerprint(of_now);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 65u);
  close();
  // The same for a cursor: another daemon's, of after it grew.
  const v1::Cursor later = stream_cursor_;
  std::ofstream(root_ / "shard-8.bin") << Pattern(0);
  spec_.clear_expect_fingerprint();
  listings_ = std::make_shared<ListingCache>(&budget_);
  ASSERT_TRUE(Open().ok());
  const v1::Cursor latest = stream_cursor_;
  EXPECT_NE(latest.listing_fingerprint(), later.listing_fingerprint());
  close();
  listings_ = cache_of_one;
  *spec_.mutable_resume() = latest;
  EXPECT_TRUE(Open().ok());
  EXPECT_EQ(opened_.samples(), 66u);
  close();
  listings_.reset();
}

// Whether the format was asked for or found, it is the same order, and either cursor resumes the other.
TEST_P(StreamTest, ACursorOfAFormatThatWasFoundIsOneOfThatFormat) {
  {
    std::ofstream file(root_ / "a.npy", std::ios::binary);
    std::string dict = "{'descr': '|u1', 'fortran_order': False, 'shape': (10, 4), }";
    file << std::string("\x93NUMPY\x01\x00", 8) << static_cast<char>(dict.size()) << '\0' << dict << std::string(40, 'x');
  }
  spec_.clear_tensors();
  const auto cursor_of = [&](v1::Format format) {
    spec_.set_format(format);
    spec_.clear_resume();
    EXPECT_TRUE(Open().ok());
    const v1::Cursor cursor = stream_cursor_;
    stream_->Close();
    EXPECT_TRUE(trainer_->WaitClosed());
    stream_.reset();
    return cursor;
  };
  const v1::Cursor of_found = cursor_of(v1::FORMAT_UNSPECIFIED);
  const v1::Cursor of_asked = cursor_of(v1::FORMAT_NPY);
  PlanSpec plan{.samples = 10, .sample_bytes = 4, .seed = 5};
  plan.tail = TailRule::kUneven;
  // What daemons of all releases wrote and take: a rollback resumes.
  ASSERT_EQ(of_found.spec_hash(), Plan::Create(plan)->SpecHash("format=0;data:uint8[4]"));
  ASSERT_EQ(of_asked.spec_hash(), Plan::Create(plan)->SpecHash("format=2;data:uint8[4]"));
  for (const v1::Format format : {v1::FORMAT_UNSPECIFIED, v1::FORMAT_NPY}) {
    spec_.set_format(format);
    for (const v1::Cursor& cursor : {of_found, of_asked}) {
      *spec_.mutable_resume() = cursor;
      const absl::Status resumed = Open();
      ASSERT_TRUE(resumed.ok()) << resumed;
      stream_->Close();
      ASSERT_TRUE(trainer_->WaitClosed());
      stream_.reset();
    }
  }
  spec_.mutable_resume()->set_spec_hash(of_found.spec_hash() + 1);
  EXPECT_EQ(Open().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(StreamTest, ABatchLargerThanTheCapIsRefused) {
  WriteShards({10});
  spec_.set_batch_size(1 << 20);
  EXPECT_TRUE(Open().ok()) << "ten rows fit, whatever the batch size";
  slab_.reset();
  stream_.reset();
  spec_.set_tail(v1::TAIL_PAD);
  const absl::Status refused = Open();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--memory-limit"));
}

TEST_P(StreamTest, AnOpenThatRunsOutOfMemoryFailsAlone) {
  WriteShards({10});
  quota_ = [](uint64_t) -> absl::StatusOr<MemoryBudget::Reservation> { throw std::bad_alloc(); };
  const absl::Status refused = Open();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(FaultOf(refused), Fault::kMemoryLimit);
  EXPECT_EQ(memory_.used(), 0u);
  quota_ = nullptr;
  EXPECT_TRUE(Open().ok());
}

TEST_P(StreamTest, ObjectsAreNamedOnceABatchWhereTheTrainerReadsThat) {
  WriteShards({10, 10, 10});
  for (const bool names : {false, true}) {
    spec_.set_with_sources(true);
    spec_.set_source_names(names);
    spec_.set_batch_size(30);
    ASSERT_TRUE(Open().ok());
    stream_->Start();
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value());
    const v1::Batch& batch = event->batches().batches(0);
    ASSERT_EQ(batch.sources_size(), 30);
    EXPECT_EQ(batch.source_names_size(), names ? 3 : 0);
    for (int row = 0; row < 30; ++row) {
      const v1::SampleSource& source = batch.sources(row);
      EXPECT_EQ(source.object().empty(), names);
      const std::string& object = names ? batch.source_names(static_cast<int>(source.name_index())) : source.object();
      const uint64_t sample = batch.sample_ids(row);
      EXPECT_EQ(object, "shard-" + std::to_string(sample / 10) + ".bin");
      EXPECT_EQ(source.offset(), sample % 10 * kRow);
      EXPECT_EQ(source.bytes(), kRow);
    }
    stream_->Close();
    ASSERT_TRUE(trainer_->WaitClosed());
    stream_.reset();
  }
}

// What a trainer has not read is in the daemon: as much as was reserved for it, however much there is to say.
TEST_P(StreamTest, WhatIsSaidOfAWindowIsReserved) {
  for (int shard = 0; shard < 300; ++shard) {
    std::ofstream(root_ / (std::to_string(shard) + std::string(200, 'n')), std::ios::binary) << Pattern(1) << Pattern(2);
  }
  for (const bool names : {false, true}) {
    spec_.set_with_sources(true);
    spec_.set_source_names(names);
    spec_.set_batch_size(6);
    spec_.mutable_shuffle()->set_mode(v1::Shuffle::GLOBAL);
    spec_.set_prefetch_bytes(1 << 20);
    ASSERT_TRUE(Open().ok());
    const uint64_t reserved = memory_.used();
    stream_->Start();
    uint64_t said = 0;
    for (int i = 0; i < 100; ++i) {
      const auto event = trainer_->Next();
      ASSERT_TRUE(event.has_value()) << trainer_->Failure();
      said += event->batches().batches(0).SpaceUsedLong();
    }
    EXPECT_LE(said, reserved);
    EXPECT_GE(said, reserved / 4) << "and not much more than is needed";
    stream_->Close();
    ASSERT_TRUE(trainer_->WaitClosed());
    stream_.reset();
  }
}

// So large a batch can be said so much of that there are fewer slots than the slabs have room for, or none.
TEST_P(StreamTest, AWindowHasNoMoreSlotsThanCanBeToldOf) {
  std::ofstream(root_ / std::string(250, 'n'), std::ios::binary) << std::string(4 << 20, 'x');
  spec_.mutable_tensors(0)->set_shape(0, 1);
  spec_.set_batch_size(1 << 14);
  spec_.set_with_sources(true);
  spec_.set_prefetch_bytes(4 << 20);
  ASSERT_TRUE(Open().ok());
  EXPECT_LE(memory_.used(), 180u << 20) << "64 MiB of messages, and the plan";
  EXPECT_LT(slab_->bytes() >> 14, 64u) << "of 256 batches";
  stream_->Close();
  ASSERT_TRUE(trainer_->WaitClosed());
  stream_.reset();
  spec_.set_batch_size(1 << 22);
  const absl::Status refused = Open();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  EXPECT_THAT(Text(refused), HasSubstr("to tell where its samples are"));
}

TEST_P(StreamTest, NamesAndGlobsOfASpecificationHaveALimit) {
  WriteShards({10});
  spec_.mutable_tensors(0)->set_glob(std::string(1025, '*'));
  EXPECT_THAT(Text(Open()), HasSubstr("a glob has 1025 bytes"));
  spec_.mutable_tensors(0)->set_glob("*");
  spec_.mutable_tensors(0)->set_name(std::string(1025, 'n'));
  EXPECT_THAT(Text(Open()), HasSubstr("a tensor's name has 1025 bytes"));
}

TEST_P(StreamTest, ReleasingWhatIsNotHeldFailsTheStreamAlone) {
  WriteShards({10});
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  ASSERT_TRUE(trainer_->Next().has_value());
  stream_->Release({12345});
  EXPECT_EQ(CauseText(trainer_->Failure()), "bad release");
  // The trainer may still read what it holds: the slab is kept for it.
  ASSERT_TRUE(trainer_->WaitClosed());
  ASSERT_TRUE(trainer_->kept().has_value());
  EXPECT_GT(budget_.used(), 0u);
}

// The daemon ends a stream, and its call is over before its last reads are: what the trainer was sent it may still be reading.
TEST_P(StreamTest, ACallThatEndsFirstTakesNoSlabFromUnderATrainer) {
  WriteShards({200});
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
  spec_.set_batch_size(4);
  reads_.max_range = 4 * kRow;
  stuck_ = std::make_unique<StuckTransport>(*transport_, 2);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  const auto event = trainer_->Next();
  ASSERT_TRUE(event.has_value());
  while (stuck_->stuck() == 0) std::this_thread::yield();
  stream_->Fail(absl::UnavailableError("going away"));
  stream_->Close();  // as OnDone and a broken-off call do
  EXPECT_FALSE(trainer_->Failure().ok());
  stream_->Snapshot([this](const DataStream::State&) { stuck_->LetGo(); });  // after both, on the same loop
  EXPECT_TRUE(trainer_->WaitClosed());
  EXPECT_TRUE(trainer_->kept().has_value());
  EXPECT_EQ(Row(event->batches().batches(0), 0), Pattern(0));
}

TEST_P(StreamTest, AnEmptyEpochStillEnds) {
  WriteShards({3});
  spec_.set_batch_size(4);
  spec_.set_tail(v1::TAIL_DROP);
  spec_.set_epochs(3);
  ASSERT_TRUE(Open().ok());
  stream_->Start();
  for (uint64_t epoch = 0; epoch < 3; ++epoch) EXPECT_EQ(trainer_->Next()->epoch_end().epoch(), epoch);
  EXPECT_TRUE(trainer_->Next()->has_stream_end());
  EXPECT_TRUE(trainer_->WaitAllReleased());
}

TEST_P(StreamTest, ClosingAtAnyMomentGivesTheMemoryBack) {
  WriteShards({5000});
  for (int moment = 0; moment < 30; ++moment) {
    spec_.set_batch_size(3);
    ASSERT_TRUE(Open().ok());
    stream_->Start();
    for (int i = 0; i < moment % 5; ++i) ASSERT_TRUE(trainer_->Next().has_value());
    stream_->Close();
    ASSERT_TRUE(trainer_->WaitClosed());
    stream_.reset();
    slab_.reset();
    ASSERT_EQ(budget_.used(), 0u);
  }
}

// Rows are cut out in place before what is left of the batch is cast, and many batches are at it at once.
TEST_P(StreamTest, CastsWhatIsLeftInOrder) {
  WriteShards({100, 3, 100, 1, 100});
  spec_.set_batch_size(7);
  spec_.mutable_shuffle()->set_mode(v1::Shuffle::GLOBAL);
  spec_.set_on_error(v1::ON_ERROR_SKIP);
  spec_.mutable_max_skipped()->set_samples(4);  // an epoch: twelve in three
  spec_.mutable_tensors(0)->set_cast(v1::DTYPE_UINT16);
  ASSERT_FALSE(Open().ok()) << "no cast of these two";
  spec_.mutable_tensors(0)->set_cast(v1::DTYPE_FLOAT32);
  spec_.set_epochs(3);
  ASSERT_TRUE(Open().ok());
  std::filesystem::remove(root_ / "shard-1.bin");
  std::filesystem::remove(root_ / "shard-3.bin");
  stream_->Start();
  uint64_t sequence = 0, samples = 0, skipped = 0;
  while (true) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value()) << trainer_->Failure();
    if (event->has_stream_end()) break;
    if (event->has_epoch_end()) continue;
    const v1::Batch& batch = event->batches().batches(0);
    EXPECT_EQ(batch.sequence(), sequence++);
    skipped += static_cast<uint64_t>(batch.skipped_size());
    for (int row = 0; row < batch.sample_ids_size(); ++row, ++samples) {
      const std::string bytes = Row(batch, row);
      const std::string stored = Pattern(batch.sample_ids(row));
      for (uint64_t i = 0; i < kRow; ++i) {
        float value = 0;
        std::memcpy(&value, bytes.data() + i * 4, 4);
        ASSERT_EQ(value, static_cast<float>(static_cast<uint8_t>(stored[i]))) << "sample " << batch.sample_ids(row);
      }
    }
    stream_->Release({batch.sequence()});
  }
  EXPECT_EQ(samples, 900u);
  EXPECT_EQ(skipped, 12u);
}

INSTANTIATE_TEST_SUITE_P(Devices, StreamTest, testing::Bool(),
                         [](const auto& param) { return std::string(param.param ? "Late" : "Cpu"); });

// While the device is busy with a batch.
class BusyDeviceTest : public StreamTest {
 protected:
  // Opens a stream whose first casts are asked for and not done.
  void StartWithCastsHeld() {
    WriteShards({40});
    spec_.set_batch_size(4);
    spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
    spec_.mutable_tensors(0)->set_cast(v1::DTYPE_FLOAT32);
    late_->Hold(LateDevice::Holds::kAllButCopies);
    ASSERT_TRUE(Open().ok());
    stream_->Start();
    const Time until = Clock::now() + kPatience;
    while (late_->computing() < 2) {
      ASSERT_LT(Clock::now(), until);
      std::this_thread::yield();
    }
  }
  // The same, of a padded batch whose repeats are not copied.
  void StartWithRepeatsHeld() {
    WriteShards({4});
    spec_.set_batch_size(40);
    spec_.set_tail(v1::TAIL_PAD);
    spec_.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
    late_->Hold(LateDevice::Holds::kAllButCopies);
    ASSERT_TRUE(Open().ok());
    stream_->Start();
    const Time until = Clock::now() + kPatience;
    while (late_->computing() < 1) {
      ASSERT_LT(Clock::now(), until);
      std::this_thread::yield();
    }
  }
  // What the stream says of itself; a worker that waited for the device would not answer.
  std::optional<DataStream::State> Ask() {
    auto promise = std::make_shared<std::promise<DataStream::State>>();
    auto answer = promise->get_future();
    stream_->Snapshot([promise](DataStream::State state) { promise->set_value(std::move(state)); });
    if (answer.wait_for(kPatience) != std::future_status::ready) return std::nullopt;
    return answer.get();
  }
};

TEST_P(BusyDeviceTest, TheWorkerGoesOnAndBatchesComeWhenTheirWorkIsDone) {
  ASSERT_NO_FATAL_FAILURE(StartWithCastsHeld());
  const auto state = Ask();
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->statistics.batches(), 0u);
  late_->Hold(LateDevice::Holds::kNothing);
  for (uint64_t sequence = 0; sequence < 10; ++sequence) {
    const auto event = trainer_->Next();
    ASSERT_TRUE(event.has_value()) << trainer_->Failure();
    EXPECT_EQ(event->batches().batches(0).sequence(), sequence);
    stream_->Release({sequence});
  }
}

TEST_P(BusyDeviceTest, ClosingWaitsForTheDevice) {
  ASSERT_NO_FATAL_FAILURE(StartWithCastsHeld());
  stream_->Close();
  ASSERT_TRUE(Ask().has_value());
  EXPECT_FALSE(trainer_->closed()) << "the slab would go while the device writes to it";
  late_->Hold(LateDevice::Holds::kNothing);
  ASSERT_TRUE(trainer_->WaitClosed());
  EXPECT_EQ(late_->computing(), 0u);
}

TEST_P(BusyDeviceTest, ADeviceThatDoesNotFinishFailsTheStream) {
  device_deadline_ = std::chrono::milliseconds(1);
  ASSERT_NO_FATAL_FAILURE(StartWithCastsHeld());
  const absl::Status failure = trainer_->Failure();
  EXPECT_EQ(failure.code(), absl::StatusCode::kDeadlineExceeded) << failure;
  EXPECT_EQ(CauseText(failure), "device deadline");
  EXPECT_THAT(std::string(failure.message()), HasSubstr("late:0"));
  EXPECT_FALSE(trainer_->closed());
  late_->Hold(LateDevice::Holds::kNothing);
  EXPECT_TRUE(trainer_->WaitClosed());
}

TEST_P(BusyDeviceTest, NoBatchComesBeforeItsRepeats) {
  ASSERT_NO_FATAL_FAILURE(StartWithRepeatsHeld());
  const auto state = Ask();
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->statistics.batches(), 0u);
  late_->Hold(LateDevice::Holds::kNothing);
  const auto event = trainer_->Next();
  ASSERT_TRUE(event.has_value()) << trainer_->Failure();
  for (int row = 0; row < 40; ++row) ASSERT_EQ(Row(event->batches().batches(0), row), Pattern(static_cast<uint64_t>(row) % 4));
}

TEST_P(BusyDeviceTest, ClosingWaitsForRepeats) {
  ASSERT_NO_FATAL_FAILURE(StartWithRepeatsHeld());
  stream_->Close();
  ASSERT_TRUE(Ask().has_value());
  EXPECT_FALSE(trainer_->closed()) << "the slab would go while the device writes to it";
  late_->Hold(LateDevice::Holds::kNothing);
  ASSERT_TRUE(trainer_->WaitClosed());
}

TEST_P(BusyDeviceTest, RepeatsThatAreLateOrFailEndTheStream) {
  for (const bool late : {true, false}) {
    device_deadline_ = late ? Duration(std::chrono::milliseconds(1)) : kPatience;
    ASSERT_NO_FATAL_FAILURE(StartWithRepeatsHeld());
    if (!late) {
      late_->FailWith(absl::InternalError("the device is lost"));
      late_->Hold(LateDevice::Holds::kNothing);
    }
    EXPECT_THAT(std::string(trainer_->Failure().message()),
                HasSubstr(late ? "has not finished a batch" : "the device is lost"));
    late_->Hold(LateDevice::Holds::kNothing);
    ASSERT_TRUE(trainer_->WaitClosed());
    EXPECT_FALSE(trainer_->Next().has_value());
    stream_.reset();
  }
}

TEST_P(BusyDeviceTest, AnErrorOfTheDeviceFailsTheStreamAndDeliversNothing) {
  ASSERT_NO_FATAL_FAILURE(StartWithCastsHeld());
  late_->FailWith(absl::InternalError("the device is lost"));
  late_->Hold(LateDevice::Holds::kNothing);
  EXPECT_EQ(trainer_->Failure().message(), "the device is lost");
  EXPECT_TRUE(trainer_->WaitClosed());
  EXPECT_FALSE(trainer_->Next().has_value());
}

INSTANTIATE_TEST_SUITE_P(Devices, BusyDeviceTest, testing::Values(true), [](const auto&) { return std::string("Late"); });

}  // namespace
}  // namespace devmem
