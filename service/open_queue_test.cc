// SPDX-License-Identifier: Apache-2.0
#include "service/open_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <optional>
#include <string>

#include "base/clock.h"

namespace devmem {
namespace {

constexpr Duration kLong = std::chrono::seconds(30);

// Opens that run until they are let go, and say that they began.
class OpenQueueTest : public ::testing::Test {
 protected:
  ~OpenQueueTest() override {
    LetGo();
    pool_.Stop();
  }

  // Without a user each trainer is one of its own.
  absl::Status Open(const std::string& trainer, std::optional<uid_t> user = {}) {
    return opens_.Submit(trainer, user.value_or(static_cast<uid_t>(trainer[0])), [this, trainer] {
      std::unique_lock lock(mutex_);
      began_ += trainer;
      changed_.notify_all();
      changed_.wait(lock, [this] { return let_go_; });
    });
  }
  void LetGo() {
    std::lock_guard lock(mutex_);
    let_go_ = true;
    changed_.notify_all();
  }
  // What began, once `count` did; sorted, since they begin on several threads.
  std::string Began(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kLong, [&] { return began_.size() >= count; })) << began_;
    std::string began = began_;
    std::sort(began.begin(), began.end());
    return began;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string began_;
  bool let_go_ = false;
  WorkerPool pool_{5};
  OpenQueue opens_{&pool_, {.of_trainer = 2, .waiting_of_trainer = 3}};
};

TEST_F(OpenQueueTest, ATrainerHasItsShareOfTheThreads) {
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Open("a").ok());
  const absl::Status refused = Open("a");
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(Began(2), "aa");
  EXPECT_TRUE(Open("b").ok());
  EXPECT_EQ(Began(3), "aab") << "another's does not wait behind them";
  LetGo();
  EXPECT_EQ(Began(6), "aaaaab");
}

TEST_F(OpenQueueTest, AUserWithManyTrainersLeavesAThread) {
  for (const char* trainer : {"a", "b", "c"}) {
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(Open(trainer, 1000).ok());
  }
  EXPECT_EQ(Began(4), "aabb") << "four of the five threads";
  EXPECT_TRUE(Open("d", 1001).ok());
  EXPECT_EQ(Began(5), "aabbd");
  EXPECT_TRUE(Open("e", 1002).ok()) << "waits for a thread";
  LetGo();
  EXPECT_EQ(Began(8), "aabbccde");
}

// One that has much to open is not always the first to be asked, whatever its name.
TEST_F(OpenQueueTest, TrainersTakeTurns) {
  WorkerPool one(1);
  OpenQueue opens(&one, {});
  std::string order;  // written by the one thread
  std::promise<void> go;
  const std::shared_future<void> gate = go.get_future().share();
  for (const char trainer : std::string("aaabbc")) {
    EXPECT_TRUE(opens
                    .Submit(std::string(1, trainer), 1000,
                            [&order, gate, trainer] {
                              gate.wait();
                              order += trainer;
                            })
                    .ok());
  }
  go.set_value();
  one.Stop();
  EXPECT_EQ(order, "abcaba");
}

TEST_F(OpenQueueTest, NothingBeginsWhileAnythingHolds) {
  LetGo();
  std::shared_ptr<void> hold = opens_.Hold("a"), another = opens_.Hold("a");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Open("a").ok());
  EXPECT_EQ(Open("a").code(), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Open("b").ok());
  EXPECT_EQ(Began(4), "bbbb");
  hold.reset();
  EXPECT_TRUE(Open("c").ok());
  EXPECT_EQ(Began(5), "bbbbc");
  another.reset();
  EXPECT_EQ(Began(8), "aaabbbbc");
}

}  // namespace
}  // namespace devmem
