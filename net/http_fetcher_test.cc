// SPDX-License-Identifier: Apache-2.0
// What HttpFetcher does about connections and memory that are short; what it does with answers is copy_transport_test's and
// tests/e2e's. One nginx is two origins: by IPv4 and by IPv6.
#include "net/http_fetcher.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <future>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gtest/gtest.h"
#include "net/copy_stream.h"
#include "net/object_store.h"
#include "net/testing/nginx.h"

namespace devmem {
namespace {

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr size_t kObject = 100'000;

class Waiter final : public RangeRead {
 public:
  void Done() override { done_.set_value(); }
  [[nodiscard]] bool Wait() { return done_.get_future().wait_for(kPatience) == std::future_status::ready; }

 private:
  std::promise<void> done_;
};

// An ordinary stream that knows how many of its kind there are, and that may be told to be worth nothing.
class Counted final : public ByteStream {
 public:
  struct Tally {
    std::atomic<size_t> made{0}, open{0}, most{0};
    std::atomic<bool> worth_keeping{true};
  };
  Counted(Reactor& loop, Owner& owner, Tally& tally) : stream_(loop, owner), tally_(tally) {
    ++tally_.made;
    tally_.most = std::max<size_t>(tally_.most, ++tally_.open);
  }
  ~Counted() override { --tally_.open; }
  void Connect(const sockaddr* address, socklen_t length) override { stream_.Connect(address, length); }
  void Send(std::string_view data) override { stream_.Send(data); }
  void Peek() override { stream_.Peek(); }
  [[nodiscard]] std::string_view held() const override { return stream_.held(); }
  void Skip(size_t bytes) override { stream_.Skip(bytes); }
  void MoveTo(Scatter& scatter) override { stream_.MoveTo(scatter); }
  void Nudge() override { stream_.Nudge(); }
  [[nodiscard]] std::string_view why_copied() const override { return stream_.why_copied(); }
  [[nodiscard]] bool WorthKeeping() const override { return tally_.worth_keeping; }
  void Close() override { stream_.Close(); }

 private:
  CopyStream stream_;
  Tally& tally_;
};

class HttpFetcherTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/devmem-fetcher-XXXXXX";
    root_ = mkdtemp(folder);
    std::ofstream(root_ / "object.bin", std::ios::binary) << std::string(kObject, 'x');
    auto nginx = NginxServer::Start({.root = root_, .server_config = "location = /busy.bin { return 503; }"});
    ASSERT_TRUE(nginx.ok()) << nginx.status();
    nginx_ = *std::move(nginx);
    for (const std::string& url : {nginx_->url(), nginx_->url6()}) {
      auto store = OpenStore(url, {});
      ASSERT_TRUE(store.ok()) << store.status();
      stores_.push_back(*std::move(store));
    }
    memory_ = *device_->Allocate(kObject, {.name = "test"});
    loop_ = *Reactor::Create("test", Reactor::Backend::kEpoll);
    thread_ = std::thread([this] { loop_->Run(); });
  }
  void TearDown() override {
    if (fetcher_ != nullptr) {
      std::promise<void> closed;
      loop_->Post([&] { fetcher_->Shutdown([&] { closed.set_value(); }); });
      ASSERT_EQ(closed.get_future().wait_for(kPatience), std::future_status::ready);
    }
    if (thread_.joinable()) {
      loop_->Stop();
      thread_.join();
    }
    fetcher_.reset();
    if (!root_.empty()) std::filesystem::remove_all(root_);
  }

  void Make(size_t connections, size_t in_all, const ReadPolicy& policy = {}) {
    fetcher_ = std::make_unique<HttpFetcher>(
        *loop_, resolver_, [this](ByteStream::Owner& owner) { return std::make_unique<Counted>(*loop_, owner, tally_); },
        policy, connections, in_all, counters_,
        [this](const RangeRead& read, const absl::Status& status, std::optional<Duration> wait) {
          said_.push_back({read.number, Text(status), wait});
        });
  }
  std::unique_ptr<Waiter> Read(size_t store) {
    auto read = std::make_unique<Waiter>();
    read->store = stores_[store].get();
    read->object = "object.bin";
    read->object_size = kObject;
    read->length = kObject;
    read->destinations = {{memory_.get(), 0, kObject}};
    const auto request = stores_[store]->PrepareGet("object.bin");
    EXPECT_TRUE(request.ok()) << request.status();
    loop_->Post([this, raw = read.get(), request = *request] { fetcher_->Start(raw, request); });
    return read;
  }
  void ExpectDone(Waiter& read) {
    ASSERT_TRUE(read.Wait());
    ASSERT_TRUE(read.status.ok()) << read.status;
    ASSERT_EQ(read.received, kObject);
  }

  std::filesystem::path root_;
  std::unique_ptr<NginxServer> nginx_;
  std::vector<std::unique_ptr<ObjectStore>> stores_;
  std::unique_ptr<Device> device_ = MakeCpuDevice();
  std::shared_ptr<DeviceMemory> memory_;
  Resolver resolver_;
  TransferCounters counters_;
  struct Said {
    uint64_t number;
    std::string status;
    std::optional<Duration> wait;
  };
  std::vector<Said> said_;  // the loop's, until it stopped
  std::unique_ptr<Reactor> loop_;
  std::thread thread_;
  Counted::Tally tally_;
  std::unique_ptr<HttpFetcher> fetcher_;
};

TEST_F(HttpFetcherTest, IdleConnectionsOfOneOriginGiveWayToAnothers) {
  Make(3, 3);
  std::vector<std::unique_ptr<Waiter>> reads;
  for (int i = 0; i < 30; ++i) reads.push_back(Read(0));
  for (const auto& read : reads) ExpectDone(*read);
  EXPECT_EQ(tally_.made, 3u);
  reads.clear();
  for (int i = 0; i < 30; ++i) reads.push_back(Read(1));
  for (const auto& read : reads) ExpectDone(*read);
  EXPECT_EQ(tally_.most, 3u);
  EXPECT_EQ(tally_.made, 6u);
}

class HttpFetcherPlacesTest : public HttpFetcherTest, public testing::WithParamInterface<size_t> {};

TEST_P(HttpFetcherPlacesTest, OriginsWithWorkShareThePlaces) {
  Make(GetParam(), GetParam());
  std::vector<std::unique_ptr<Waiter>> reads;
  for (int i = 0; i < 100; ++i) reads.push_back(Read(0));
  // Behind them, and for ever if who is there kept its places.
  const auto other = Read(1);
  ExpectDone(*other);
  for (const auto& read : reads) ExpectDone(*read);
  EXPECT_LE(tally_.most, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Places, HttpFetcherPlacesTest, testing::Values(1, 2, 5));

TEST_F(HttpFetcherTest, WhatIsNotWorthKeepingIsNotKept) {
  Make(1, 1);
  tally_.worth_keeping = false;
  for (int i = 0; i < 3; ++i) ExpectDone(*Read(0));
  EXPECT_EQ(tally_.made, 3u);
  tally_.worth_keeping = true;
  for (int i = 0; i < 3; ++i) ExpectDone(*Read(0));
  EXPECT_EQ(tally_.made, 4u);
}

TEST_F(HttpFetcherTest, HeldRequestsWaitAndThenGoOn) {
  Make(2, 2);
  loop_->Post([this] { fetcher_->Hold(true); });
  const auto read = Read(0);
  std::promise<size_t> made;
  loop_->Post([&] { made.set_value(tally_.made); });
  EXPECT_EQ(made.get_future().get(), 0u);
  loop_->Post([this] { fetcher_->Hold(false); });
  ExpectDone(*read);
}

TEST_F(HttpFetcherTest, RetriesAreCountedAndSaid) {
  Make(1, 1, {.max_retries = 2, .backoff_first = std::chrono::milliseconds(1)});
  const auto read = std::make_unique<Waiter>();
  read->store = stores_[0].get();
  read->object = "busy.bin";
  read->object_size = read->length = kObject;
  read->destinations = {{memory_.get(), 0, kObject}};
  read->number = 7;
  loop_->Post([this, raw = read.get(), request = *stores_[0]->PrepareGet("busy.bin")] { fetcher_->Start(raw, request); });
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kUnavailable) << read->status;
  EXPECT_EQ(counters_.retries[Index(StoreKind::kHttp)][Index(RetryCode::kHttp503)].get(), 2);
  LatencyHistogram::Totals answers;
  answers += counters_.first_byte[Index(StoreKind::kHttp)];
  EXPECT_EQ(std::accumulate(answers.counts.begin(), answers.counts.end(), uint64_t{0}), 3u) << "a refusal is an answer";
  ASSERT_EQ(said_.size(), 2u);
  EXPECT_EQ(said_[0].number, 7u);
  EXPECT_THAT(said_[0].status, testing::HasSubstr("503"));
  EXPECT_TRUE(said_[0].wait.has_value());
}

TEST_F(HttpFetcherTest, HeldTooLongIsAnErrorThatSaysWhatIsFull) {
  Make(2, 2, {.total_timeout = std::chrono::milliseconds(50)});
  loop_->Post([this] { fetcher_->Hold(true); });
  const auto read = Read(0);
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kDeadlineExceeded) << read->status;
  EXPECT_EQ(CauseText(read->status), "landing pool full");
  EXPECT_EQ(GetErrorInfo(read->status).object, "object.bin");
  EXPECT_EQ(tally_.made, 0u);
}

}  // namespace
}  // namespace devmem
