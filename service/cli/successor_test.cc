// SPDX-License-Identifier: Apache-2.0
#include "service/cli/successor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"

namespace devmem::cli {
namespace {

// How `script`, given to sh as the program, ended.
std::string Ended(const std::string& script, std::vector<std::string> more = {}) {
  std::vector<std::string> command = {"sh", "-c", script, "sh"};
  command.insert(command.end(), more.begin(), more.end());
  const absl::StatusOr<pid_t> pid = StartSuccessor(command);
  if (!pid.ok()) return Text(pid.status());
  siginfo_t info{};
  EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(*pid), &info, WEXITED | WNOWAIT), 0);  // the test's waiting; not reaped
  return EndedSuccessor(*pid).value_or("runs");
}

TEST(Successor, IsToldToTakeOverOnce) {
  EXPECT_EQ(Ended("test $# = 1 && test $1 = --take-over"), "exit status 0");
  EXPECT_EQ(Ended("test \"$*\" = '--take-over --socket x'", {"--take-over", "--socket", "x"}), "exit status 0");
}

TEST(Successor, WatchdogIsItsToo) {
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("WATCHDOG_USEC", "1000000", 1);
  EXPECT_EQ(Ended("test -z \"$WATCHDOG_PID\" && test $WATCHDOG_USEC = 1000000"), "exit status 0");
  ::unsetenv("WATCHDOG_PID");
  ::unsetenv("WATCHDOG_USEC");
}

TEST(Successor, SignalsAreANewProcesss) {
  sigset_t set;
  sigfillset(&set);
  sigset_t before;
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &set, &before), 0);
  EXPECT_EQ(Ended("grep -q 'SigBlk:.0*$' /proc/self/status"), "exit status 0");
  EXPECT_EQ(Ended("kill -KILL $$"), "Killed");
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(Successor, SaysHowItEnded) {
  EXPECT_EQ(Ended("exit 3"), "exit status 3");
  const absl::StatusOr<pid_t> pid = StartSuccessor({"sh", "-c", "read -r forever < /dev/zero", "sh"});
  ASSERT_TRUE(pid.ok()) << pid.status();
  EXPECT_EQ(EndedSuccessor(*pid), std::nullopt);
  ASSERT_EQ(::kill(*pid, SIGTERM), 0);
  ASSERT_EQ(::waitpid(*pid, nullptr, 0), *pid);
}

TEST(Successor, NoProgram) {
  const absl::StatusOr<pid_t> pid = StartSuccessor({"/nonexistent/devmem-loaderd"});
  EXPECT_EQ(pid.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GetErrorInfo(pid.status()).object, "/nonexistent/devmem-loaderd");
}

}  // namespace
}  // namespace devmem::cli
