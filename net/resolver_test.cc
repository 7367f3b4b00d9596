// SPDX-License-Identifier: Apache-2.0
#include "net/resolver.h"

#include <future>
#include <set>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::HasSubstr;

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr Duration kNever = std::chrono::hours(1);

// A name server: answers from a table, and not at all for names that begin with "dead" until Revive(). Lives as long as a
// look-up does, which may be longer than the test.
struct NameServer {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::vector<std::string>> names;
  std::multiset<std::string> asked;
  size_t running = 0, most = 0;
  bool revived = false;

  absl::StatusOr<std::vector<SocketAddress>> LookUp(const std::string& host) {
    std::unique_lock lock(mutex);
    asked.insert(host);
    most = std::max(most, ++running);
    changed.notify_all();
    changed.wait(lock, [&] { return revived || !host.starts_with("dead"); });
    --running;
    changed.notify_all();
    std::vector<SocketAddress> found;
    for (const std::string& address : names[host]) found.push_back(*ParseAddress(address, 0));
    return found;
  }
  void Set(const std::string& host, std::vector<std::string> addresses) {
    std::lock_guard lock(mutex);
    names[host] = std::move(addresses);
  }
  void Revive() {
    std::lock_guard lock(mutex);
    revived = true;
    changed.notify_all();
  }
  void AwaitRunning(size_t count) {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, kPatience, [&] { return running == count; })) << running;
  }
  size_t Asked(const std::string& host) {
    std::lock_guard lock(mutex);
    return asked.count(host);
  }
};

class ResolverTest : public testing::Test {
 protected:
  ~ResolverTest() override { server_->Revive(); }
  std::unique_ptr<Resolver> Make(Duration slow = kNever) {
    return std::make_unique<Resolver>([server = server_](const std::string& host) { return server->LookUp(host); }, slow);
  }
  static std::future<Resolver::Result> Ask(Resolver& resolver, const std::string& host, Time no_older_than = {}) {
    auto promise = std::make_shared<std::promise<Resolver::Result>>();
    std::future<Resolver::Result> answer = promise->get_future();
    resolver.Resolve(host, 80, no_older_than, [promise](Resolver::Result result) { promise->set_value(std::move(result)); });
    return answer;
  }
  static std::string First(std::future<Resolver::Result> answer) {
    if (answer.wait_for(kPatience) != std::future_status::ready) return "no answer";
    const Resolver::Result result = answer.get();
    return result.ok() ? AddressText(result->addresses.front()) : Text(result.status());
  }
  static bool IsReady(const std::future<Resolver::Result>& answer) {
    return answer.wait_for(Duration::zero()) == std::future_status::ready;
  }

  std::shared_ptr<NameServer> server_ = std::make_shared<NameServer>();
};

TEST_F(ResolverTest, AddressesAreAnsweredAtOnceWhateverTheNameServerDoes) {
  const auto resolver = Make();
  for (int i = 0; i < 10; ++i) (void)Ask(*resolver, "dead" + std::to_string(i));
  for (const char* host : {"127.0.0.1", "::1", "10.1.2.3", "fe80::1%lo"}) {
    std::future<Resolver::Result> answer = Ask(*resolver, host);
    ASSERT_TRUE(IsReady(answer)) << host;
    EXPECT_EQ(answer.get()->addresses.front(), *ParseAddress(host, 80)) << host;
  }
}

TEST_F(ResolverTest, ADeadNameHoldsUpNoOther) {
  server_->Set("fine", {"10.0.0.1"});
  const auto resolver = Make();
  const auto dead = Ask(*resolver, "dead");
  server_->AwaitRunning(1);
  EXPECT_EQ(First(Ask(*resolver, "fine")), "10.0.0.1:80");
  EXPECT_FALSE(IsReady(dead));
}

TEST_F(ResolverTest, NorDoMoreDeadNamesThanAreLookedUpAtATime) {
  server_->Set("fine", {"10.0.0.1"});
  const auto resolver = Make(std::chrono::milliseconds(10));
  for (int i = 0; i < 20; ++i) (void)Ask(*resolver, "dead" + std::to_string(i));
  EXPECT_EQ(First(Ask(*resolver, "fine")), "10.0.0.1:80");
}

TEST_F(ResolverTest, FourAtATime) {
  const auto resolver = Make();
  std::vector<std::future<Resolver::Result>> answers;
  for (int i = 0; i < 20; ++i) {
    server_->Set("dead" + std::to_string(i), {"10.0.0." + std::to_string(i)});
    answers.push_back(Ask(*resolver, "dead" + std::to_string(i)));
  }
  server_->AwaitRunning(Resolver::kParallel);
  server_->Revive();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(First(std::move(answers[i])), "10.0.0." + std::to_string(i) + ":80");
  EXPECT_EQ(server_->most, Resolver::kParallel);
}

TEST_F(ResolverTest, ANameIsLookedUpOnceHoweverManyAsk) {
  server_->Set("dead", {"10.0.0.1"});
  const auto resolver = Make();
  std::vector<std::future<Resolver::Result>> answers;
  for (int i = 0; i < 100; ++i) answers.push_back(Ask(*resolver, "dead"));
  server_->AwaitRunning(1);
  server_->Revive();
  for (auto& answer : answers) EXPECT_EQ(First(std::move(answer)), "10.0.0.1:80");
  EXPECT_EQ(server_->Asked("dead"), 1u);
}

TEST_F(ResolverTest, EndsThoughALookUpHangs) {
  auto resolver = Make();
  auto answer = Ask(*resolver, "dead");
  auto queued = Ask(*resolver, "dead2");
  server_->AwaitRunning(2);
  resolver.reset();  // a test that hangs here fails by its time limit
  EXPECT_THROW(answer.get(), std::future_error) << "dropped, and not told";
  EXPECT_THROW(queued.get(), std::future_error);
  server_->Revive();  // what is told now is told to nobody
  server_->AwaitRunning(0);
}

TEST_F(ResolverTest, TooManyNamesAreRefused) {
  const auto resolver = Make();
  for (size_t i = 0; i < Resolver::kMostNames; ++i) (void)Ask(*resolver, "dead" + std::to_string(i));
  auto refused = Ask(*resolver, "one-more");
  ASSERT_TRUE(IsReady(refused));
  const absl::Status status = refused.get().status();
  EXPECT_EQ(FaultOf(status), Fault::kNoNameServer) << status;
  EXPECT_TRUE(MayPass(FaultOf(status))) << "to be tried again";
  EXPECT_THAT(Text(status), HasSubstr("too many names"));
}

TEST_F(ResolverTest, AnAnswerIsRememberedUnlessANewerOneIsWanted) {
  server_->Set("store", {"10.0.0.1"});
  const auto resolver = Make();
  EXPECT_EQ(First(Ask(*resolver, "store")), "10.0.0.1:80");
  const uint64_t changes = resolver->changes();
  auto remembered = Ask(*resolver, "store");
  ASSERT_TRUE(IsReady(remembered));
  server_->Set("store", {"10.0.0.2"});
  EXPECT_EQ(First(Ask(*resolver, "store")), "10.0.0.1:80");
  EXPECT_EQ(First(Ask(*resolver, "store", Clock::now())), "10.0.0.2:80");
  EXPECT_EQ(resolver->changes(), changes + 1);
  EXPECT_EQ(server_->Asked("store"), 2u);
  server_->Set("store", {"10.0.0.3", "10.0.0.2"});
  EXPECT_EQ(First(Ask(*resolver, "store", Clock::now())), "10.0.0.3:80");
  EXPECT_EQ(resolver->changes(), changes + 2);
  server_->Set("store", {"10.0.0.2", "10.0.0.3", "10.0.0.2"});
  EXPECT_EQ(First(Ask(*resolver, "store", Clock::now())), "10.0.0.2:80");
  EXPECT_EQ(resolver->changes(), changes + 2) << "the same in another order, one of them twice";
}

TEST_F(ResolverTest, NamesThatAreNotThere) {
  const auto resolver = Make();
  EXPECT_THAT(First(Ask(*resolver, "nowhere")), HasSubstr("has no address"));
  Resolver real;
  EXPECT_THAT(First(Ask(real, "no-such-host.invalid")), HasSubstr("no address for host 'no-such-host.invalid'"));
}

TEST_F(ResolverTest, ChoosesInTurnAndAvoidsTheDead) {
  const auto resolver = Make();
  const std::vector<SocketAddress> all = {*ParseAddress("10.0.0.1", 80), *ParseAddress("10.0.0.2", 80),
                                          *ParseAddress("10.0.0.3", 80)};
  const auto choices = [&](const SocketAddress* last) {
    std::vector<size_t> chosen;
    for (size_t turn = 0; turn < 4; ++turn) chosen.push_back(resolver->Choose(all, turn, last));
    return chosen;
  };
  EXPECT_EQ(choices(nullptr), (std::vector<size_t>{0, 1, 2, 0}));
  EXPECT_EQ(choices(&all[1]), (std::vector<size_t>{0, 2, 2, 0}));
  resolver->DidNotAnswer(all[0]);
  EXPECT_EQ(choices(nullptr), (std::vector<size_t>{1, 1, 2, 1}));
  EXPECT_EQ(choices(&all[1]), (std::vector<size_t>{2, 2, 2, 2}));
  resolver->DidNotAnswer(all[2]);
  EXPECT_EQ(choices(&all[1]), (std::vector<size_t>{1, 1, 1, 1})) << "where it failed, rather than where nobody answers";
  resolver->DidNotAnswer(all[1]);
  EXPECT_EQ(choices(nullptr), (std::vector<size_t>{0, 0, 0, 0})) << "all are dead: the one that has been for longest";
  resolver->Answered(all[1]);
  EXPECT_EQ(choices(nullptr), (std::vector<size_t>{1, 1, 1, 1}));
  EXPECT_EQ(resolver->Choose(std::span(all).first(1), 7, &all[0]), 0u) << "the only one";
}

TEST_F(ResolverTest, WorkersBeginAtDifferentAddresses) {
  const auto resolver = Make();
  std::set<size_t> turns;
  for (int worker = 0; worker < 8; ++worker) turns.insert(resolver->NextTurn() % 8);
  EXPECT_EQ(turns.size(), 8u);
}

}  // namespace
}  // namespace devmem
