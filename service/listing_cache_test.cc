// SPDX-License-Identifier: Apache-2.0
#include "service/listing_cache.h"

#include <gmock/gmock.h>

#include <thread>
#include <vector>

#include "base/error.h"
#include "service/index.h"

namespace devmem {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

constexpr Duration kPatience = seconds(60);
Time Soon() { return Clock::now() + kPatience; }

// A bucket whose objects a test adds, and which answers a listing only while its gate is open.
class GatedStore final : public ObjectStore {
 public:
  const std::string& uri() const override { return uri_; }
  absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const override {
    std::unique_lock lock(mutex_);
    ++lists_;
    changed_.notify_all();
    while (!open_) {
      changed_.wait_for(lock, std::chrono::milliseconds(5));
      if (Clock::now() > deadline) return absl::DeadlineExceededError("late");
      lock.unlock();
      const bool go_on = progress == nullptr || progress(7, 0);
      lock.lock();
      if (!go_on) return absl::CancelledError("cancelled");
    }
    if (!fault_.ok()) return std::exchange(fault_, absl::OkStatus());
    ObjectTable objects;
    for (const std::string& name : names_) objects.Add(name, 10, "\"v\"");
    return objects;
  }
  absl::Status ReadSmall(std::span<SmallRead> reads, int, Time, const ProgressFn&) const override {
    std::lock_guard lock(mutex_);
    for (SmallRead& read : reads) {
      ++reads_;
      if (index_.empty() || read.object != kIndexName) {
        read.status = absl::NotFoundError("404");
        continue;
      }
      read.bytes = index_.substr(read.offset, read.length);
      read.object_size = index_.size();
      read.object_validator = "\"" + index_ + "\"";
    }
    return absl::OkStatus();
  }
  absl::StatusOr<PayloadRequest> PrepareGet(std::string_view) const override { return absl::UnimplementedError("not here"); }

  void Add(const std::string& name) {
    std::lock_guard lock(mutex_);
    names_.push_back(name);
  }
  void WriteIndex(const std::string& bytes) {
    std::lock_guard lock(mutex_);
    index_ = bytes;
  }
  void Fail(absl::Status fault) {
    std::lock_guard lock(mutex_);
    fault_ = std::move(fault);
  }
  void SetOpen(bool open) {
    std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  // Until so many listings were asked for, since the start.
  bool WaitAsked(int lists) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return lists_ >= lists; });
  }
  int lists() const {
    std::lock_guard lock(mutex_);
    return lists_;
  }
  int reads() const {
    std::lock_guard lock(mutex_);
    return reads_;
  }

 private:
  const std::string uri_ = "memory://bucket/";
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<std::string> names_{"a"};
  std::string index_;
  mutable absl::Status fault_;
  bool open_ = true;
  mutable int lists_ = 0;
  mutable int reads_ = 0;
};

class ListingCacheTest : public testing::Test {
 protected:
  ListedStore Open(const std::string& peer = "1000:1000:") const { return {cache_, store_, ListingKey("b", "", peer)}; }
  // What an open finds that begins and ends now.
  size_t Objects(const std::string& peer = "1000:1000:") const {
    const auto objects = Open(peer).List(Soon(), nullptr);
    EXPECT_TRUE(objects.ok()) << objects.status();
    return objects.ok() ? objects->size() : 0;
  }
  void AwaitWaiting(size_t openers) const {
    const Time deadline = Soon();
    while (cache_->waiting() != openers && Clock::now() < deadline) std::this_thread::yield();
    ASSERT_EQ(cache_->waiting(), openers);
  }

  Time now_ = Clock::now();
  MemoryBudget budget_{1 << 20};
  std::shared_ptr<GatedStore> store_ = std::make_shared<GatedStore>();
  std::shared_ptr<ListingCache> cache_ = std::make_shared<ListingCache>(&budget_, seconds(60), [this] { return now_; });
};

TEST_F(ListingCacheTest, ABucketThatGrowsBetweenTwoOpensIsTheSameToBothForAMinute) {
  EXPECT_EQ(Objects(), 1u);
  store_->Add("b");
  now_ += seconds(59);
  EXPECT_EQ(Objects(), 1u);
  EXPECT_EQ(store_->lists(), 1);
  now_ += seconds(1);
  EXPECT_EQ(Objects(), 2u);
  EXPECT_EQ(store_->lists(), 2);
}

TEST_F(ListingCacheTest, OfEightWhoOpenAtOnceOneAsksTheStore) {
  store_->SetOpen(false);
  std::vector<std::thread> ranks;
  std::atomic<size_t> found = 0;
  for (int rank = 0; rank < 8; ++rank) ranks.emplace_back([&] { found += Objects(); });
  AwaitWaiting(7);
  store_->SetOpen(true);
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(found, 8u);
  EXPECT_EQ(store_->lists(), 1);
}

TEST_F(ListingCacheTest, OneWhoWaitsHasHisOwnDeadlineAndIsToldAndCancelled) {
  store_->SetOpen(false);
  std::thread leader([&] { EXPECT_EQ(Objects(), 1u); });
  ASSERT_TRUE(store_->WaitAsked(1));
  const absl::Status late = Open().List(Clock::now() + std::chrono::milliseconds(1), nullptr).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Text(late), HasSubstr("another stream of this daemon listed the bucket"));
  uint64_t told = 0;
  const absl::Status left = Open().List(Soon(), [&](uint64_t done, uint64_t) { return (told = done) == 0; }).status();
  EXPECT_EQ(left.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(told, 7u) << "of what the one who asks has found so far";
  store_->SetOpen(true);
  leader.join();
}

TEST_F(ListingCacheTest, AnOpenThatFailsOrLeavesFailsNoOther) {
  store_->SetOpen(false);
  std::atomic<bool> leave = false;
  std::thread leader([&] {
    const auto left = Open().List(Soon(), [&](uint64_t, uint64_t) { return !leave.load(); });
    EXPECT_EQ(left.status().code(), absl::StatusCode::kCancelled);
  });
  ASSERT_TRUE(store_->WaitAsked(1));
  std::vector<std::thread> others;
  std::atomic<int> fine = 0, failed = 0;
  for (int i = 0; i < 3; ++i) others.emplace_back([&] { ++(Open().List(Soon(), nullptr).ok() ? fine : failed); });
  AwaitWaiting(3);
  leave = true;
  leader.join();
  ASSERT_TRUE(store_->WaitAsked(2)) << "the next of them asks";
  store_->Fail(absl::UnavailableError("503"));
  store_->SetOpen(true);
  for (std::thread& other : others) other.join();
  EXPECT_EQ(fine, 2);
  EXPECT_EQ(failed, 1) << "whose own request it was";
  EXPECT_EQ(store_->lists(), 3);
}

TEST_F(ListingCacheTest, UsersDoNotShare) {
  EXPECT_EQ(Objects("1000:1000:"), 1u);
  store_->Add("b");
  EXPECT_EQ(Objects("1001:1001:"), 2u);
  EXPECT_EQ(Objects("1000:1000:4"), 2u) << "the same user in another group";
  EXPECT_EQ(Objects("1000:1000:"), 1u);
}

TEST_F(ListingCacheTest, ManyBucketsOfOneUserPushOutItsOwnAlone) {
  EXPECT_EQ(Objects("1000:1000:"), 1u);
  store_->Add("b");
  for (size_t i = 0; i < 2 * ListingCache::kMostListings; ++i) {
    ListedStore other(cache_, store_, ListingKey("http://h/" + std::to_string(i) + "/", "", "1001:1001:"));
    ASSERT_TRUE(other.List(Soon(), nullptr).ok());
  }
  EXPECT_LE(cache_->size(), 1 + ListingCache::kMostOfPeer);
  EXPECT_EQ(Objects("1000:1000:"), 1u) << "the other user's ranks still share theirs";
}

TEST_F(ListingCacheTest, ThatThereIsNoIndexIsSharedAndSoIsTheIndex) {
  const auto index_of = [](const ListedStore& store) {
    SmallRead read{.object = std::string(kIndexName), .length = 100};
    EXPECT_TRUE(store.ReadSmall(std::span(&read, 1), 1, Soon(), nullptr).ok());
    return read.bytes;
  };
  EXPECT_EQ(index_of(Open()), "");
  store_->WriteIndex("one");
  ListedStore second = Open();
  EXPECT_EQ(index_of(second), "") << "or two ranks would read by different listings";
  EXPECT_TRUE(second.shared());
  second.Renew();
  EXPECT_EQ(index_of(second), "one");
  EXPECT_FALSE(second.shared());
  store_->WriteIndex("two");
  EXPECT_EQ(index_of(Open()), "one");
  EXPECT_EQ(store_->reads(), 2);
  // Other objects are each stream's own, and so is a piece of another index than the one before it.
  SmallRead header{.object = "a"};
  ASSERT_TRUE(Open().ReadSmall(std::span(&header, 1), 1, Soon(), nullptr).ok());
  EXPECT_EQ(store_->reads(), 3);
  SmallRead next{.object = std::string(kIndexName), .length = 100, .validator = "\"two\""};
  ASSERT_TRUE(Open().ReadSmall(std::span(&next, 1), 1, Soon(), nullptr).ok());
  EXPECT_EQ(next.bytes, "two");
}

TEST_F(ListingCacheTest, WhoRenewsAsksOnceForAllWhoHadTheSame) {
  EXPECT_EQ(Objects(), 1u);
  ListedStore first = Open(), second = Open();
  ASSERT_TRUE(first.List(Soon(), nullptr).ok());
  ASSERT_TRUE(second.List(Soon(), nullptr).ok());
  EXPECT_TRUE(first.shared());
  store_->Add("b");
  first.Renew();
  second.Renew();
  EXPECT_EQ(first.List(Soon(), nullptr)->size(), 2u);
  EXPECT_EQ(second.List(Soon(), nullptr)->size(), 2u);
  EXPECT_EQ(store_->lists(), 2);
}

TEST_F(ListingCacheTest, AListingThatTurnedOutStaleIsForgotten) {
  ListedStore stream = Open();
  ASSERT_TRUE(stream.List(Soon(), nullptr).ok());
  const auto forget = stream.Forgetter();
  store_->Add("b");
  forget();
  EXPECT_EQ(Objects(), 2u);
  forget();  // of the older one: it does not touch the newer
  EXPECT_EQ(Objects(), 2u);
  EXPECT_EQ(store_->lists(), 2);
}

TEST_F(ListingCacheTest, ListingsGiveTheirMemoryToWhoeverNeedsIt) {
  budget_.OnShort([this] { cache_->Clear(); });
  EXPECT_EQ(Objects(), 1u);
  EXPECT_GT(budget_.kept(), 0u);
  EXPECT_EQ(budget_.used(), 0u);
  const auto all = budget_.Reserve(budget_.limit());
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(budget_.kept(), 0u);
  EXPECT_EQ(Objects(), 1u);
  EXPECT_EQ(budget_.kept(), 0u) << "no room: it is not kept";
  EXPECT_EQ(Objects(), 1u);
  EXPECT_EQ(store_->lists(), 3);
  budget_.OnShort(nullptr);
}

TEST_F(ListingCacheTest, KeepsNoMoreThanAQuarterOfTheLimit) {
  budget_.SetLimit(4 * 40);  // an object is 24 bytes, its name and its validator
  EXPECT_EQ(Objects(), 1u);
  EXPECT_EQ(budget_.kept(), 28u);
  store_->Add("b");
  EXPECT_EQ(Objects("another"), 2u);
  EXPECT_EQ(budget_.kept(), 28u);
}

TEST_F(ListingCacheTest, KeepsSoManyListingsAndNoMore) {
  for (size_t i = 0; i < 2 * ListingCache::kMostListings; ++i) EXPECT_EQ(Objects(std::to_string(i)), 1u);
  EXPECT_LE(cache_->size(), ListingCache::kMostListings);
}

TEST_F(ListingCacheTest, WithoutACacheEachListsForItself) {
  ListedStore alone(nullptr, store_, "");
  ASSERT_TRUE(alone.List(Soon(), nullptr).ok());
  ASSERT_TRUE(alone.List(Soon(), nullptr).ok());
  EXPECT_FALSE(alone.shared());
  alone.Renew();
  alone.Forgetter()();
  EXPECT_EQ(store_->lists(), 2);
}

}  // namespace
}  // namespace devmem
