// SPDX-License-Identifier: Apache-2.0
// What HttpFetcher does about connections and memory that are short, addresses, redirects and versions; what it does with
// answers besides is copy_transport_test's and tests/e2e's. One nginx is two origins: by IPv4 and by IPv6.
#include "net/http_fetcher.h"

#include <netinet/in.h>
#include <sys/socket.h>
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
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gtest/gtest.h"
#include "net/copy_stream.h"
#include "net/object_store.h"
#include "net/testing/http_script.h"
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
  [[nodiscard]] bool Quiet() const override { return stream_.Quiet(); }
  void Close() override { stream_.Close(); }

 private:
  CopyStream stream_;
  Tally& tally_;
};

// The name server; silent about names that begin with "dead".
struct Names {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::vector<std::string>> addresses;
  bool ended = false;

  absl::StatusOr<std::vector<SocketAddress>> LookUp(const std::string& host) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ended || !host.starts_with("dead"); });
    std::vector<SocketAddress> found;
    for (const std::string& address : addresses[host]) found.push_back(*ParseAddress(address, 0));
    return found;
  }
  void Set(const std::string& host, std::vector<std::string> to) {
    std::lock_guard lock(mutex);
    addresses[host] = std::move(to);
  }
  void End() {
    std::lock_guard lock(mutex);
    ended = true;
    changed.notify_all();
  }
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
    resolver_.reset();  // before the fetcher: its answers are posted to the loop
    names_->End();
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
        *loop_, *resolver_, [this](ByteStream::Owner& owner) { return std::make_unique<Counted>(*loop_, owner, tally_); },
        policy, connections, in_all, counters_,
        [this](const RangeRead& read, const absl::Status& status, std::optional<Duration> wait) {
          said_.push_back({read.number, Text(status), wait});
        });
  }
  std::unique_ptr<Waiter> Read(size_t store) { return Read(*stores_[store]); }
  // The range from `offset` to the object's end.
  std::unique_ptr<Waiter> Read(const ObjectStore& store, uint64_t offset = 0, ObjectPins* pins = nullptr) {
    auto read = std::make_unique<Waiter>();
    read->store = &store;
    read->object = "object.bin";
    read->object_size = kObject;
    read->offset = offset;
    read->length = kObject - offset;
    read->pins = pins;
    read->destinations = {{memory_.get(), offset, kObject - offset}};
    const auto request = store.PrepareGet("object.bin");
    EXPECT_TRUE(request.ok()) << request.status();
    loop_->Post([this, raw = read.get(), request = *request] { fetcher_->Start(raw, request); });
    return read;
  }
  std::unique_ptr<ObjectStore> Open(const std::string& url, std::shared_ptr<const RedirectPolicy> redirects = nullptr) {
    auto store = OpenStore(url, {.redirects = std::move(redirects)});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  // After all that is posted to the loop by now.
  void Settle() {
    std::promise<void> settled;
    loop_->Post([&] { settled.set_value(); });
    settled.get_future().wait();
  }
  char ByteAt(uint64_t offset) { return static_cast<char>((*memory_->HostSpan(offset, 1))[0]); }
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
  std::shared_ptr<Names> names_ = std::make_shared<Names>();
  std::unique_ptr<Resolver> resolver_ =
      std::make_unique<Resolver>([names = names_](const std::string& host) { return names->LookUp(host); });
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

// --- addresses ---

const std::string& Object() {
  static const std::string object(kObject, 'x');
  return object;
}

TEST_F(HttpFetcherTest, ConnectionsTakeAHostsAddressesInTurn) {
  std::promise<void> all_came;
  std::atomic<size_t> came = 0;
  const std::shared_future<void> go = all_came.get_future().share();
  HttpScript server(
      [&](const HttpScript::Request& request) {
        if (++came == 6) all_came.set_value();
        go.wait();
        return HttpScript::Part(request, Object());
      },
      "0.0.0.0");
  names_->Set("multi.test", {"127.0.0.1", "127.0.0.2", "127.0.0.3"});
  const auto store = Open(server.url("multi.test"));
  Make(6, 6);
  std::vector<std::unique_ptr<Waiter>> reads;
  for (int i = 0; i < 6; ++i) reads.push_back(Read(*store));
  for (const auto& read : reads) ExpectDone(*read);
  std::map<std::string, size_t> connections;
  for (const HttpScript::Request& request : server.requests()) ++connections[request.address];
  EXPECT_THAT(connections, testing::ElementsAre(testing::Pair("127.0.0.1", 2), testing::Pair("127.0.0.2", 2),
                                                testing::Pair("127.0.0.3", 2)));
}

TEST_F(HttpFetcherTest, ADeadAddressIsMetOnce) {
  HttpScript server([](const HttpScript::Request& request) { return HttpScript::Part(request, Object()); });
  names_->Set("multi.test", {"127.0.0.9", "127.0.0.1", "127.0.0.8"});  // nobody listens at .8 and .9
  const auto store = Open(server.url("multi.test"));
  Make(1, 1, {.backoff_first = std::chrono::milliseconds(1)});
  tally_.worth_keeping = false;  // a connection a read
  uint32_t retries = 0;
  for (int i = 0; i < 20; ++i) {
    const auto read = Read(*store);
    ExpectDone(*read);
    EXPECT_LE(read->retries, 2u);
    retries += read->retries;
  }
  EXPECT_EQ(retries, 2u) << "each dead address once, whoever asks";
}

TEST_F(HttpFetcherTest, AHostThatMovedIsFollowedWhenItsOldAddressFails) {
  const auto serve = [](const HttpScript::Request& request) { return HttpScript::Part(request, Object()); };
  HttpScript old_home(serve, "127.0.0.1");
  HttpScript new_home(serve, "127.0.0.2", old_home.port());
  names_->Set("moves.test", {"127.0.0.1"});
  const auto store = Open(old_home.url("moves.test"));
  Make(1, 1,
       {.max_retries = 1000, .backoff_first = std::chrono::milliseconds(1), .backoff_max = std::chrono::milliseconds(50)});
  ExpectDone(*Read(*store));
  names_->Set("moves.test", {"127.0.0.2"});
  old_home.Close();
  const Time failed = Clock::now();
  ExpectDone(*Read(*store));
  EXPECT_EQ(new_home.requests().size(), 1u);
  EXPECT_LT(Clock::now() - failed, kPatience / 2) << "by its failure, and not because the addresses became old";
}

TEST_F(HttpFetcherTest, AHostThatMovedIsFollowedWhenAnotherWorkerFoundOut) {
  const auto serve = [](const HttpScript::Request& request) { return HttpScript::Part(request, Object()); };
  HttpScript old_home(serve, "127.0.0.1");
  HttpScript new_home(serve, "127.0.0.2", old_home.port());
  names_->Set("moves.test", {"127.0.0.1"});
  const auto store = Open(old_home.url("moves.test"));
  Make(1, 1);
  ExpectDone(*Read(*store));
  names_->Set("moves.test", {"127.0.0.2"});
  std::promise<void> found_out;
  resolver_->Resolve("moves.test", 80, Clock::now(), [&](const Resolver::Result& result) {
    EXPECT_TRUE(result.ok()) << result.status();
    found_out.set_value();
  });
  ASSERT_EQ(found_out.get_future().wait_for(kPatience), std::future_status::ready);
  ExpectDone(*Read(*store));  // may go on by the idle connection, and asks meanwhile
  Settle();
  ExpectDone(*Read(*store));
  EXPECT_EQ(new_home.requests().size(), 1u) << "the idle connection to the old address is not used any more";
}

TEST_F(HttpFetcherTest, ANameThatIsNotAnsweredFailsItsOwnReadsInTheirTime) {
  Make(1, 1,
       {.connect_timeout = std::chrono::milliseconds(20), .max_retries = 1, .backoff_first = std::chrono::milliseconds(1)});
  const auto dead_store = Open("http://dead.test/");
  const auto dead = Read(*dead_store);
  ASSERT_TRUE(dead->Wait());
  EXPECT_EQ(dead->status.code(), absl::StatusCode::kUnavailable) << dead->status;
  EXPECT_THAT(Text(dead->status), testing::HasSubstr("for the address of host 'dead.test'"));
  EXPECT_EQ(FaultOf(dead->status), Fault::kNoNameServer);
}

TEST_F(HttpFetcherTest, ANameThatIsNotAnsweredCountsFromTheReadsStart) {
  Make(1, 1, {.connect_timeout = kPatience, .total_timeout = std::chrono::milliseconds(50)});
  const auto dead_store = Open("http://dead.test/");
  const auto dead = Read(*dead_store);
  ASSERT_TRUE(dead->Wait());
  EXPECT_EQ(dead->status.code(), absl::StatusCode::kDeadlineExceeded) << dead->status;
}

// --- idle connections ---

TEST_F(HttpFetcherTest, AnAnswerThatNobodyAskedForIsNobodys) {
  HttpScript server([](const HttpScript::Request& request) { return HttpScript::Part(request, Object()); });
  const auto store = Open(server.url());
  Make(1, 1);
  ExpectDone(*Read(*store));
  Settle();
  const std::string other(kObject, 'y');
  server.Send(0, HttpScript::Part(server.requests()[0], other));  // what the next request could have been answered with
  ExpectDone(*Read(*store));
  EXPECT_EQ(ByteAt(0), 'x');
  EXPECT_EQ(server.connections(), 2u);
}

// What signs a request may not be good any more when its turn comes.
TEST_F(HttpFetcherTest, ARequestIsPreparedWhenItIsSent) {
  class Signed final : public ObjectStore {
   public:
    explicit Signed(const ObjectStore& store) : store_(store) {}
    const std::string& uri() const override { return store_.uri(); }
    absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const override {
      return store_.List(deadline, progress);
    }
    absl::Status ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline, const ProgressFn& progress) const override {
      return store_.ReadSmall(reads, parallel, deadline, progress);
    }
    absl::StatusOr<PayloadRequest> PrepareGet(std::string_view object) const override {
      absl::StatusOr<PayloadRequest> request = store_.PrepareGet(object);
      if (request.ok()) request->headers.emplace_back("X-Signed", std::to_string(hour));
      return request;
    }
    std::atomic<int> hour = 1;

   private:
    const ObjectStore& store_;
  };
  HttpScript server([](const HttpScript::Request& request) { return HttpScript::Part(request, Object()); });
  const auto store = Open(server.url());
  Signed signing(*store);
  Make(1, 1);
  loop_->Post([this] { fetcher_->Hold(true); });
  const auto read = Read(signing);
  Settle();
  signing.hour = 2;
  loop_->Post([this] { fetcher_->Hold(false); });
  ExpectDone(*read);
  ASSERT_EQ(server.requests().size(), 1u);
  EXPECT_EQ(server.requests()[0].Field("X-Signed"), "2");
}

TEST_F(HttpFetcherTest, AConnectionThatIsNotMadeNamesItsAddress) {
  const UniqueFd full(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(full.get(), any, length), 0);
  ASSERT_EQ(::listen(full.get(), 0), 0);
  ASSERT_EQ(::getsockname(full.get(), any, &length), 0);
  const UniqueFd only(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));  // nobody accepts it, and no other has room
  ASSERT_EQ(::connect(only.get(), any, length), 0);
  const std::string where = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  const auto store = Open("http://" + where + "/");
  Make(1, 1,
       {.connect_timeout = std::chrono::milliseconds(20), .max_retries = 1, .backoff_first = std::chrono::milliseconds(1)});
  const auto read = Read(*store);
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(read->status.code(), absl::StatusCode::kUnavailable) << read->status;
  EXPECT_THAT(Text(read->status), testing::HasSubstr("for a connection to " + where));
}

// --- redirects ---

TEST_F(HttpFetcherTest, ARetryBeginsAtTheStoreAgain) {
  std::atomic<int> asked = 0;
  HttpScript mirror([](const HttpScript::Request& request) {
    // The first target breaks off in mid-body, and would for ever.
    const std::string answer = HttpScript::Part(request, Object());
    return request.target == "/first?signature=secret" ? answer.substr(0, 50'000) : answer;
  });
  HttpScript server([&](const HttpScript::Request&) {
    return HttpScript::Found(mirror.url() + (++asked == 1 ? "first" : "second") + "?signature=secret");
  });
  const auto store = Open(server.url());
  Make(1, 1, {.stall_timeout = std::chrono::milliseconds(200), .backoff_first = std::chrono::milliseconds(1)});
  const auto read = Read(*store);
  ASSERT_TRUE(read->Wait());
  ASSERT_TRUE(read->status.ok()) << read->status;
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(mirror.requests().back().target, "/second?signature=secret");
  for (const Said& said : said_) EXPECT_THAT(said.status, testing::Not(testing::HasSubstr("secret")));
}

TEST_F(HttpFetcherTest, ARedirectThatExpiredIsAskedForAnewOnce) {
  std::atomic<int> asked = 0;
  std::atomic<bool> for_ever = false;
  HttpScript mirror([&](const HttpScript::Request& request) {
    if (for_ever || request.target == "/?n=1") return HttpScript::Status(403);
    return HttpScript::Part(request, Object());
  });
  HttpScript server(
      [&](const HttpScript::Request&) { return HttpScript::Found(mirror.url() + "?n=" + std::to_string(++asked)); });
  const auto store = Open(server.url());
  Make(1, 1, {.max_retries = 5, .backoff_first = std::chrono::milliseconds(1)});
  ExpectDone(*Read(*store));
  EXPECT_EQ(asked, 2);
  for_ever = true;
  const auto refused = Read(*store);
  ASSERT_TRUE(refused->Wait());
  EXPECT_EQ(refused->status.code(), absl::StatusCode::kPermissionDenied) << refused->status;
  EXPECT_EQ(asked, 4) << "once, and no more";
  EXPECT_THAT(Text(refused->status), testing::Not(testing::HasSubstr("n=")));
}

TEST_F(HttpFetcherTest, ARedirectLeadsToNoLinkLocalAddressNorIsItsQuerySaid) {
  std::string to;
  HttpScript server([&](const HttpScript::Request&) { return HttpScript::Found(to); });
  const auto store = Open(server.url());
  Make(1, 1, {.connect_timeout = kPatience});
  names_->Set("metadata.test", {"169.254.169.254"});
  names_->Set("mapped.test", {"::ffff:169.254.169.254"});
  for (const char* host : {"169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "metadata.test", "mapped.test"}) {
    to = std::string("http://") + host + "/latest/meta-data?signature=secret";
    const auto read = Read(*store);
    ASSERT_TRUE(read->Wait()) << host;
    EXPECT_EQ(read->status.code(), absl::StatusCode::kPermissionDenied) << host << ": " << read->status;
    EXPECT_EQ(ScopeOf(read->status), Scope::kPolicy) << host;
    EXPECT_EQ(GetErrorInfo(read->status).object, "object.bin");
    EXPECT_THAT(Text(read->status), testing::HasSubstr("redirected to http://")) << host;
    EXPECT_THAT(Text(read->status), testing::Not(testing::HasSubstr("secret"))) << host;
    EXPECT_EQ(read->retries, 0u) << host;
    EXPECT_EQ(read->requests, 1u) << host;
  }
  EXPECT_TRUE(said_.empty());
}

// Names one URL.
class OneRule final : public RedirectPolicy {
 public:
  explicit OneRule(std::string below) : below_(std::move(below)) {}
  absl::StatusOr<Verdict> Judge(std::string_view url) const override {
    if (url.starts_with(below_)) return Verdict::kNamed;
    return absl::PermissionDeniedError("no rule");
  }

 private:
  std::string below_;
};

TEST_F(HttpFetcherTest, WithRulesARedirectNeedsOne) {
  HttpScript mirror([](const HttpScript::Request& request) { return HttpScript::Part(request, Object()); });
  std::string to;
  HttpScript server([&](const HttpScript::Request& request) {
    return request.target == "/a/y" ? HttpScript::Part(request, Object()) : HttpScript::Found(to);
  });
  const auto store = Open(server.url() + "a/", std::make_shared<OneRule>(mirror.url() + "allowed/"));
  Make(1, 1);
  to = mirror.url() + "allowed/x?signature=secret";
  ExpectDone(*Read(*store));
  to = "/a/y";
  ExpectDone(*Read(*store));
  const size_t asked = mirror.requests().size();
  for (const std::string& refused : {mirror.url() + "x", std::string("/b/x"), std::string("/a/../b/x")}) {
    to = refused;
    const auto read = Read(*store);
    ASSERT_TRUE(read->Wait());
    EXPECT_EQ(FaultOf(read->status), Fault::kAccess) << refused << ": " << read->status;
  }
  EXPECT_EQ(mirror.requests().size(), asked);
}

TEST_F(HttpFetcherTest, HowLongATargetIsIsNotSaid) {
  HttpScript mirror(
      [](const HttpScript::Request& request) { return HttpScript::Part(request, std::string(kObject + 4242, 'z')); });
  HttpScript server([&](const HttpScript::Request&) { return HttpScript::Found(mirror.url()); });
  const auto store = Open(server.url());
  Make(1, 1);
  const auto read = Read(*store);
  ASSERT_TRUE(read->Wait());
  EXPECT_EQ(FaultOf(read->status), Fault::kObjectChanged) << read->status;
  EXPECT_THAT(Text(read->status), testing::Not(testing::HasSubstr("4242")));
}

// --- versions ---

TEST_F(HttpFetcherTest, RangesOfAStreamAreOfOneVersion) {
  std::string fields;
  HttpScript server([&](const HttpScript::Request& request) { return HttpScript::Part(request, Object(), fields); });
  const auto store = Open(server.url());
  Make(1, 1);
  const std::string monday = "Last-Modified: Mon, 07 Nov 1994 08:49:37 GMT\r\n";
  const std::string sunday = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
  struct Case {
    std::string first, then;
    bool same;
    std::string if_match;
  };
  for (const Case& row : {
           Case{"ETag: \"a\"\r\n", "ETag: \"a\"\r\n", true, "\"a\""},
           Case{"ETag: \"a\"\r\n", "ETag: \"b\"\r\n", false, "\"a\""},
           Case{"ETag: \"a\"\r\n" + sunday, "ETag: \"b\"\r\n" + sunday, false, "\"a\""},
           Case{"ETag: \"a\"\r\n" + sunday, "ETag: \"a\"\r\n" + monday, true, "\"a\""},
           Case{"ETag: W/\"a\"\r\n", "ETag: W/\"b\"\r\n", false, ""},
           Case{"ETag: W/\"a\"\r\n" + sunday, "ETag: W/\"a\"\r\n" + monday, false, ""},
           Case{"ETag: W/\"a\"\r\n", "ETag: \"a\"\r\n", true, ""},
           Case{sunday, monday, false, ""},
           Case{sunday, sunday, true, ""},
           Case{"", "ETag: \"a\"\r\n", true, ""},
           Case{"ETag: \"a\"\r\n", "", false, "\"a\""},  // what tells no version any more may be another
           Case{"ETag: \"" + std::string(120, 'a') + "1\"\r\n" + sunday,
                "ETag: \"" + std::string(120, 'a') + "2\"\r\n" + sunday, false, ""},
           Case{"ETag: \"" + std::string(120, 'a') + "1\"\r\n" + sunday,
                "ETag: \"" + std::string(120, 'a') + "1\"\r\n" + sunday, true, ""},
           Case{"ETag: \"" + std::string(200, 'a') + "\"\r\n", "ETag: \"" + std::string(200, 'b') + "\"\r\n", false, ""},
       }) {
    ObjectPins pins(1);
    fields = row.first;
    ASSERT_TRUE(Read(*store, 0, &pins)->Wait());
    fields = row.then;
    const auto second = Read(*store, 1000, &pins);
    ASSERT_TRUE(second->Wait());
    EXPECT_EQ(second->status.ok(), row.same) << row.first << row.then << second->status;
    if (!row.same) {
      EXPECT_EQ(second->status.code(), absl::StatusCode::kAborted);
      EXPECT_EQ(FaultOf(second->status), Fault::kObjectChanged);
    }
    EXPECT_EQ(server.requests().back().Field("If-Match"), row.if_match) << row.first;
  }
}

}  // namespace
}  // namespace devmem
