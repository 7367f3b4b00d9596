// SPDX-License-Identifier: Apache-2.0
#include "service/cli/notify.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace devmem::cli {
namespace {

// systemd's end of the notification socket.
class NotifyTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/notify-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = folder_ + "/notify";
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    socket_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  void TearDown() override {
    for (const char* const name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"})
      ::unsetenv(name);
    ::unlink((folder_ + "/notify").c_str());
    ::rmdir(folder_.c_str());
  }

  // The next message; empty if none came yet and `wait` is false.
  std::string Next(bool wait = true) {
    std::array<char, 1024> text{};
    const ssize_t length = ::recv(socket_.get(), text.data(), text.size(), wait ? 0 : MSG_DONTWAIT);
    return {text.data(), length > 0 ? static_cast<size_t>(length) : 0};
  }

  std::string folder_;
  UniqueFd socket_;
};

TEST_F(NotifyTest, SaysWhatItDoes) {
  NotifyReady("path copy (asked for)");
  EXPECT_EQ(Next(), "READY=1\nSTATUS=path copy (asked for)");
  NotifyReloading("handing over");
  const std::string reloading = Next();
  EXPECT_EQ(reloading.substr(0, reloading.find("USEC=")), "RELOADING=1\nMONOTONIC_");
  EXPECT_EQ(reloading.substr(reloading.rfind('\n')), "\nSTATUS=handing over");
  NotifyStopping("draining");
  EXPECT_EQ(Next(), "STOPPING=1\nSTATUS=draining");
  NotifySuccessor(4711);
  EXPECT_EQ(Next(), "MAINPID=4711");
}

TEST_F(NotifyTest, StatusCannotAddAField) {
  NotifyReady("two\nMAINPID=1");
  EXPECT_EQ(Next(), "READY=1\nSTATUS=two MAINPID=1");
}

TEST_F(NotifyTest, SaysNothingToNobody) {
  ::unsetenv("NOTIFY_SOCKET");
  NotifyReady("");
  NotifyStopping("");
  EXPECT_EQ(Next(/*wait=*/false), "");
}

TEST_F(NotifyTest, WatchdogIsToldOnlyWhatWasSeen) {
  ::setenv("WATCHDOG_USEC", "40000", 1);
  std::mutex mutex;
  int asked = 0;
  Watchdog watchdog([&](Time deadline) {
    EXPECT_GT(deadline, Clock::now() - std::chrono::hours(1));
    std::lock_guard lock(mutex);
    // Three times it does not answer; were that told, the message would have come before the fourth question.
    if (++asked <= 3) return absl::DeadlineExceededError("no answer");
    if (asked == 4) {
      EXPECT_EQ(Next(/*wait=*/false), "");
    }
    return absl::OkStatus();
  });
  EXPECT_EQ(Next(), "WATCHDOG=1");
  std::lock_guard lock(mutex);
  EXPECT_GE(asked, 4);
}

TEST_F(NotifyTest, NobodyIsAskedWhereNobodyWatches) {
  ::setenv("WATCHDOG_USEC", "1000", 1);
  ::setenv("WATCHDOG_PID", "1", 1);  // another process's
  {
    Watchdog watchdog([](Time) {
      ADD_FAILURE() << "asked";
      return absl::OkStatus();
    });
  }
  EXPECT_EQ(Next(/*wait=*/false), "");
}

TEST_F(NotifyTest, SocketsOfAnotherProcessAreNotOurs) {
  ::setenv("LISTEN_FDS", "2", 1);
  ::setenv("LISTEN_PID", "1", 1);
  EXPECT_TRUE(InheritedSockets().empty());
}

TEST_F(NotifyTest, SocketsAreOursAlone) {
  ::setenv("LISTEN_FDS", "1", 1);
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  const UniqueFd kept(::fcntl(3, F_DUPFD_CLOEXEC, 100));  // whatever the test program has there
  ASSERT_EQ(::dup2(socket_.get(), 3), 3);
  EXPECT_EQ(InheritedSockets(), std::vector<int>{3});
  EXPECT_EQ(::fcntl(3, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(std::getenv("LISTEN_FDS"), nullptr);
  if (kept.valid()) {
    ::dup2(kept.get(), 3);
  } else if (socket_.get() != 3) {
    ::close(3);
  }
}

}  // namespace
}  // namespace devmem::cli
