// SPDX-License-Identifier: Apache-2.0
#include "service/cli/signals.h"

#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, for kill
#include <unistd.h>

#include <array>
#include <future>
#include <vector>

namespace devmem::cli {
namespace {

TEST(SignalWatcher, CallsOnItsOwnThread) {
  std::array<std::promise<std::pair<int, Time>>, 2> calls;
  size_t next = 0;
  std::thread::id thread;
  SignalWatcher watcher({SIGTERM, SIGINT}, [&](int signal, Time at) {
    thread = std::this_thread::get_id();
    calls.at(next++).set_value({signal, at});
  });
  const Time begin = Clock::now();
  ASSERT_EQ(::kill(::getpid(), SIGTERM), 0);
  const auto [first, first_at] = calls[0].get_future().get();
  EXPECT_EQ(first, SIGTERM);
  EXPECT_GE(first_at, begin);
  ASSERT_EQ(::kill(::getpid(), SIGINT), 0);
  const auto [second, second_at] = calls[1].get_future().get();
  EXPECT_EQ(second, SIGINT);
  EXPECT_GE(second_at, first_at);
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(EndRequests, ASecondSignalCountsOnlyLater) {
  using std::chrono::microseconds;
  using std::chrono::milliseconds;
  const Time start = Clock::now();
  const struct {
    const char* who;
    std::vector<Duration> signals;  // since the first
    std::vector<bool> again;
  } kRows[] = {
      {"a person, once", {Duration::zero()}, {false}},
      {"timeout(1): the process, and its group", {Duration::zero(), microseconds(3)}, {false, false}},
      {"read at once, sent one after the other", {Duration::zero(), Duration::zero()}, {false, false}},
      {"half a second is still one", {Duration::zero(), milliseconds(500)}, {false, false}},
      {"a person, twice", {Duration::zero(), milliseconds(501)}, {false, true}},
      {"timeout(1), then a person", {Duration::zero(), microseconds(3), milliseconds(700)}, {false, false, true}},
      {"a person who hammers",
       {Duration::zero(), milliseconds(200), milliseconds(400), milliseconds(600)},
       {false, false, false, true}},
  };
  for (const auto& row : kRows) {
    EndRequests requests;
    for (size_t i = 0; i < row.signals.size(); ++i) {
      EXPECT_EQ(requests.Again(start + row.signals[i]), row.again[i]) << row.who << ", signal " << i;
    }
  }
}

TEST(SignalWatcher, BrokenPipesAreErrorsOfWrite) {
  SignalWatcher watcher({SIGINT}, [](int, Time) {});
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  ::close(fds[0]);
  EXPECT_EQ(::write(fds[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  ::close(fds[1]);
}

}  // namespace
}  // namespace devmem::cli
