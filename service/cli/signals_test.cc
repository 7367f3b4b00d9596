// SPDX-License-Identifier: Apache-2.0
#include "service/cli/signals.h"

#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, for kill
#include <unistd.h>

#include <future>

namespace devmem::cli {
namespace {

TEST(SignalWatcher, CallsOnItsOwnThreadAndCounts) {
  std::promise<std::pair<int, int>> first;
  std::promise<std::pair<int, int>> second;
  std::thread::id thread;
  SignalWatcher watcher({SIGTERM, SIGINT}, [&](int signal, int count) {
    thread = std::this_thread::get_id();
    (count == 1 ? first : second).set_value({signal, count});
  });
  ASSERT_EQ(::kill(::getpid(), SIGTERM), 0);
  EXPECT_EQ(first.get_future().get(), std::make_pair(SIGTERM, 1));
  ASSERT_EQ(::kill(::getpid(), SIGINT), 0);
  EXPECT_EQ(second.get_future().get(), std::make_pair(SIGINT, 2));
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(SignalWatcher, BrokenPipesAreErrorsOfWrite) {
  SignalWatcher watcher({SIGINT}, [](int, int) {});
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  ::close(fds[0]);
  EXPECT_EQ(::write(fds[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  ::close(fds[1]);
}

}  // namespace
}  // namespace devmem::cli
