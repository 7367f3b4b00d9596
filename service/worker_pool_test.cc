// SPDX-License-Identifier: Apache-2.0
#include "service/worker_pool.h"

#include <pthread.h>
#include <sys/resource.h>

#include <atomic>
#include <future>
#include <latch>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(WorkerPool, BlockedTasksDoNotHoldUpOthersBelowTheLimit) {
  WorkerPool pool(4);
  std::promise<void> go;
  const std::shared_future<void> gate = go.get_future().share();
  std::latch blocked(3);
  for (int i = 0; i < 3; ++i) {
    pool.Submit([&blocked, gate] {
      blocked.count_down();
      gate.wait();
    });
  }
  blocked.wait();
  std::promise<void> ran;
  pool.Submit([&ran] { ran.set_value(); });
  EXPECT_EQ(ran.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  go.set_value();
}

TEST(WorkerPool, StopRunsWhatWasSubmittedAndLaterTasksRunAtOnce) {
  WorkerPool pool(2);
  std::atomic<int> ran = 0;
  for (int i = 0; i < 100; ++i) pool.Submit([&ran] { ++ran; });
  pool.Stop();
  EXPECT_EQ(ran, 100);
  std::thread::id where;
  pool.Submit([&where] { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST(WorkerPool, ItsThreadsGiveWayAndNobodyElseDoes) {
  const int before = getpriority(PRIO_PROCESS, 0);
  if (before > 16) GTEST_SKIP() << "this process is as nice as can be, nearly";
  const auto look = [] {
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    return std::make_pair(getpriority(PRIO_PROCESS, 0), std::string(name));
  };
  std::promise<std::pair<int, std::string>> found, of_second, of_third;
  {
    WorkerPool second(1, {.name = "second", .niceness = 3}), third(1, {.name = "third", .from_start = true});
    WorkerPool first(1, {.name = "first", .niceness = 3});
    first.Submit([&] {
      found.set_value(look());
      second.Submit([&] { of_second.set_value(look()); });  // its thread is started by one that is nice already
      third.Submit([&] { of_third.set_value(look()); });
    });
    EXPECT_EQ(found.get_future().get(), std::make_pair(before + 3, std::string("first")));
    EXPECT_EQ(of_second.get_future().get(), std::make_pair(before + 3, std::string("second")));
    EXPECT_EQ(of_third.get_future().get(), std::make_pair(before, std::string("third")));
  }
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), before);
}

}  // namespace
}  // namespace devmem
