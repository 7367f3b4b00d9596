// SPDX-License-Identifier: Apache-2.0
#include "service/worker_pool.h"

#include <atomic>
#include <future>
#include <latch>

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

}  // namespace
}  // namespace devmem
