// SPDX-License-Identifier: Apache-2.0
#include "service/unix_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

class UnixSocketTest : public ::testing::Test {
 protected:
  UnixSocketTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "devmem-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/loader.sock";
  }
  ~UnixSocketTest() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] UniqueFd Connect() const {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) socket.Reset();
    return socket;
  }

  std::string directory_;
  std::string path_;
};

TEST_F(UnixSocketTest, AcceptsAndKnowsThePeer) {
  auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_FALSE(listener->Accept().fd.valid());
  UniqueFd client = Connect();
  ASSERT_TRUE(client.valid());
  auto accepted = listener->Accept();
  ASSERT_TRUE(accepted.fd.valid());
  EXPECT_FALSE(accepted.last_resort);
  auto credentials = CredentialsOfSocket(accepted.fd.get());
  ASSERT_TRUE(credentials.ok());
  EXPECT_EQ(*credentials, (PeerCredentials{.pid = ::getpid(), .uid = ::getuid(), .gid = ::getgid()}));
  std::vector<gid_t> own(static_cast<size_t>(::getgroups(0, nullptr)));
  ASSERT_EQ(::getgroups(static_cast<int>(own.size()), own.data()), static_cast<int>(own.size()));
  const auto groups = GroupsOfSocket(accepted.fd.get());
  ASSERT_TRUE(groups.ok()) << groups.status();
  EXPECT_THAT(*groups, ::testing::UnorderedElementsAreArray(own));
}

TEST_F(UnixSocketTest, KnowsMoreGroupsThanMostHave) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be in many groups for a moment";
  auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  std::vector<gid_t> own(static_cast<size_t>(::getgroups(0, nullptr)));
  ASSERT_EQ(::getgroups(static_cast<int>(own.size()), own.data()), static_cast<int>(own.size()));
  std::vector<gid_t> many(100);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<gid_t>(5000 + i);
  ASSERT_EQ(::setgroups(many.size(), many.data()), 0);
  UniqueFd client = Connect();
  ASSERT_EQ(::setgroups(own.size(), own.data()), 0);
  auto accepted = listener->Accept();
  ASSERT_TRUE(accepted.fd.valid());
  const auto groups = GroupsOfSocket(accepted.fd.get());
  ASSERT_TRUE(groups.ok()) << groups.status();
  EXPECT_THAT(*groups, ::testing::ElementsAreArray(many));
}

TEST_F(UnixSocketTest, SetsModeAndLeavesNothingBehind) {
  for (mode_t mode : {0600, 0660, 0666}) {
    auto listener = UnixListener::Listen(path_, SOCK_STREAM, {.mode = mode});
    ASSERT_TRUE(listener.ok()) << listener.status();
    struct stat file {};
    ASSERT_EQ(::stat(path_.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 07777, mode);
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(UnixSocketTest, ALivingDaemonIsNamed) {
  auto first = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(first.ok());
  const std::string expected = "another daemon serves " + path_ + " (pid " + std::to_string(::getpid()) + ")";
  auto second = UnixListener::Listen(path_, SOCK_STREAM, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Text(second.status()), HasSubstr(expected));
  // Also where somebody swept the lock file away.
  std::filesystem::remove(path_ + ".lock");
  auto third = UnixListener::Listen(path_, SOCK_STREAM, {});
  EXPECT_EQ(third.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Text(third.status()), HasSubstr(expected));
  EXPECT_TRUE(Connect().valid()) << "the first still listens";
}

TEST_F(UnixSocketTest, ReplacesWhatADeadDaemonLeft) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
    ::_exit(listener.ok() ? 0 : 1);  // without destructors, as SIGKILL does
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(std::filesystem::exists(path_));
  ASSERT_FALSE(Connect().valid());
  auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(Connect().valid());
}

TEST_F(UnixSocketTest, RefusesToReplaceAFile) {
  std::ofstream(path_) << "precious";
  auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
  EXPECT_EQ(listener.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::is_regular_file(path_));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".lock"));
}

TEST_F(UnixSocketTest, BadPathsAreErrorsThatNameThem) {
  const std::string missing = directory_ + "/none/loader.sock";
  struct Row {
    std::string path;
    absl::StatusCode code;
  };
  for (const Row& row : std::vector<Row>{{"", absl::StatusCode::kInvalidArgument},
                                         {directory_ + "/" + std::string(108, 'x'), absl::StatusCode::kInvalidArgument},
                                         {missing, absl::StatusCode::kNotFound}}) {
    auto listener = UnixListener::Listen(row.path, SOCK_STREAM, {});
    EXPECT_EQ(listener.status().code(), row.code) << listener.status();
    EXPECT_THAT(Text(listener.status()), HasSubstr(row.path));
  }
}

TEST_F(UnixSocketTest, OfManyAtOnceExactlyOneWins) {
  for (int round = 0; round < 20; ++round) {
    std::ofstream(path_ + ".lock") << "1\n";  // a dead daemon's
    std::vector<std::optional<absl::StatusOr<UnixListener>>> listeners(8);
    std::vector<std::thread> threads;
    threads.reserve(listeners.size());
    for (auto& slot : listeners)
      threads.emplace_back([&slot, this] { slot.emplace(UnixListener::Listen(path_, SOCK_STREAM, {})); });
    for (auto& thread : threads) thread.join();
    int winners = 0;
    for (auto& slot : listeners) {
      if ((*slot).ok())
        ++winners;
      else
        EXPECT_EQ((*slot).status().code(), absl::StatusCode::kAlreadyExists) << (*slot).status();
    }
    EXPECT_EQ(winners, 1);
    EXPECT_TRUE(Connect().valid());
  }
}

// Out of descriptors: each waiting connection is taken on the reserve, so that it can be told.
TEST_F(UnixSocketTest, TakesConnectionsOnTheReserveWhenDescriptorsRunOut) {
  auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(listener.ok());
  UniqueFd first = Connect();
  UniqueFd second = Connect();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<UniqueFd> hoard;
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_cur, 128);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  while (true) {
    UniqueFd one(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!one.valid()) break;
    hoard.push_back(std::move(one));
  }
  for (int i = 0; i < 2; ++i) {
    auto accepted = listener->Accept();
    EXPECT_TRUE(accepted.fd.valid());
    EXPECT_TRUE(accepted.last_resort);
    accepted.fd.Reset();
    listener->Recover();
  }
  auto idle = listener->Accept();
  EXPECT_FALSE(idle.fd.valid());
  hoard.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  listener->Recover();
  UniqueFd third = Connect();
  auto accepted = listener->Accept();
  EXPECT_TRUE(accepted.fd.valid());
  EXPECT_FALSE(accepted.last_resort);
}

TEST_F(UnixSocketTest, PassesToAnother) {
  auto old = std::make_optional(UnixListener::Listen(path_, SOCK_STREAM, {}));
  ASSERT_TRUE((*old).ok()) << (*old).status();
  const UniqueFd waiting = Connect();  // in the backlog meanwhile
  ASSERT_TRUE(waiting.valid());
  auto parts = (*old)->Share();
  ASSERT_TRUE(parts.ok()) << parts.status();
  auto adopted = UnixListener::Adopt(path_, SOCK_STREAM, *std::move(parts));
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  adopted->Own(0660);
  (*old)->Leave();
  old.reset();
  EXPECT_TRUE(adopted->Accept().fd.valid());
  EXPECT_TRUE(Connect().valid());
  EXPECT_EQ(UnixListener::Listen(path_, SOCK_STREAM, {}).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(UnixSocketTest, WhoOwnsItLastRemovesTheFiles) {
  auto old = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(old.ok()) << old.status();
  {
    auto parts = old->Share();
    ASSERT_TRUE(parts.ok()) << parts.status();
    ASSERT_TRUE(UnixListener::Adopt(path_, SOCK_STREAM, *std::move(parts)).ok());
  }  // never owned it
  EXPECT_TRUE(Connect().valid());
  EXPECT_EQ(UnixListener::Listen(path_, SOCK_STREAM, {}).status().code(), absl::StatusCode::kAlreadyExists);
  {
    auto parts = old->Share();
    ASSERT_TRUE(parts.ok()) << parts.status();
    auto adopted = UnixListener::Adopt(path_, SOCK_STREAM, *std::move(parts));
    ASSERT_TRUE(adopted.ok()) << adopted.status();
    old->Leave();
    adopted->Own(0660);
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(UnixSocketTest, LentByAServiceManager) {
  auto manager = UnixListener::Listen(path_, SOCK_STREAM, {.mode = 0600});  // stands for it: listens, and keeps the file
  ASSERT_TRUE(manager.ok()) << manager.status();
  const UniqueFd waiting = Connect();  // before any daemon is there
  ASSERT_TRUE(waiting.valid());
  std::filesystem::remove(path_ + ".lock");  // a service manager has none
  {
    auto inherited = UnixListener::Inherit(path_, SOCK_STREAM, UniqueFd(::dup(manager->fd())));
    ASSERT_TRUE(inherited.ok()) << inherited.status();
    EXPECT_TRUE(inherited->Accept().fd.valid());
    EXPECT_FALSE(inherited->Accept().fd.valid());  // non-blocking, however the manager made it
    EXPECT_EQ(UnixListener::Listen(path_, SOCK_STREAM, {}).status().code(), absl::StatusCode::kAlreadyExists);
    auto parts = inherited->Share();
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_TRUE(parts->lent);
    auto successor = UnixListener::Adopt(path_, SOCK_STREAM, *std::move(parts));
    ASSERT_TRUE(successor.ok()) << successor.status();
    inherited->Leave();
    successor->Own(0660);
  }
  struct stat there {};
  ASSERT_EQ(::lstat(path_.c_str(), &there), 0) << "the manager's file is gone";
  EXPECT_EQ(there.st_mode & 0777, 0600U);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".lock"));
  const UniqueFd next = Connect();  // waits for the next daemon
  EXPECT_TRUE(next.valid());
}

TEST_F(UnixSocketTest, InheritsNothingElse) {
  auto manager = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(manager.ok()) << manager.status();
  const std::string path = path_ + "2";
  EXPECT_EQ(UnixListener::Inherit(path, SOCK_SEQPACKET, UniqueFd(::dup(manager->fd()))).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(UnixListener::Inherit(path, SOCK_STREAM, Connect()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(path + ".lock"));
  EXPECT_EQ(UnixListener::Inherit(path_, SOCK_STREAM, UniqueFd(::dup(manager->fd()))).status().code(),
            absl::StatusCode::kAlreadyExists);  // a daemon serves it, by hand
}

TEST_F(UnixSocketTest, AdoptsNothingElse) {
  auto listener = UnixListener::Listen(path_, SOCK_STREAM, {});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(UnixListener::Adopt(path_, SOCK_SEQPACKET, *listener->Share()).status().code(), absl::StatusCode::kInvalidArgument);
  UnixListener::Parts mixed = *listener->Share();
  std::swap(mixed.socket, mixed.lock);
  EXPECT_EQ(UnixListener::Adopt(path_, SOCK_STREAM, std::move(mixed)).status().code(), absl::StatusCode::kInvalidArgument);
  mixed = *listener->Share();
  mixed.socket = Connect();
  EXPECT_EQ(UnixListener::Adopt(path_, SOCK_STREAM, std::move(mixed)).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace devmem
