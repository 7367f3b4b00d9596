// SPDX-License-Identifier: Apache-2.0
#include "service/upgrade_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "devmem_loader/v1/upgrade.pb.h"
#include "gpu/cpu_device.h"

namespace devmem {
namespace {

using devmem_loader::v1::UpgradePacket;
using ::testing::HasSubstr;

Time Soon() { return Clock::now() + std::chrono::seconds(20); }

UniqueFd Pipe() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ::close(ends[1]);
  return UniqueFd(ends[0]);
}

bool SameFile(int a, int b) {
  struct stat one {
  }, other{};
  return ::fstat(a, &one) == 0 && ::fstat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// Everything there can be.
HandedOver Whole() {
  HandedOver handed{.version = "1.2.3", .pid = 77, .stopped = Clock::now(), .streams = 5};
  for (UnixListener::Parts* const each : {&handed.grpc, &handed.handles, &handed.upgrade}) *each = {Pipe(), Pipe()};
  for (uint32_t i = 0; i < 2; ++i) {
    handed.transport.nics.push_back({.binding = {.interface = "eth" + std::to_string(i),
                                                 .queues = {2 + i, 3 + i},
                                                 .dmabuf_id = 9 + i,
                                                 .page_size = i == 0 ? 0U : 65536U,
                                                 .posted = 256,
                                                 .by_handle = i == 1,
                                                 .fd = Pipe()},
                                     .landing = {.bytes = 4096 + i, .device_uuid = "cpu", .fd = Pipe()},
                                     .dmabuf = Pipe()});
  }
  handed.transport.interfaces = {"bond0"};
  handed.transport.queues = 4;
  handed.transport.landing_pool = 48 << 20;
  return handed;
}

std::vector<UniqueFd> Duplicates(const std::vector<int>& fds) {
  std::vector<UniqueFd> copies;
  for (const int fd : fds) copies.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return copies;
}

TEST(UpgradeParcel, ComesOutAsItWentIn) {
  const HandedOver in = Whole();
  const UpgradeParcel parcel = Pack(in);
  const absl::StatusOr<HandedOver> out = Unpack(parcel.bytes, Duplicates(parcel.fds));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->version, in.version);
  EXPECT_EQ(out->pid, in.pid);
  EXPECT_EQ(out->stopped, in.stopped);
  EXPECT_EQ(out->streams, in.streams);
  for (UnixListener::Parts HandedOver::*const each : {&HandedOver::grpc, &HandedOver::handles, &HandedOver::upgrade}) {
    EXPECT_TRUE(SameFile((*out.*each).socket.get(), (in.*each).socket.get()));
    EXPECT_TRUE(SameFile((*out.*each).lock.get(), (in.*each).lock.get()));
    EXPECT_FALSE((*out.*each).lent);
  }
  ASSERT_EQ(out->transport.nics.size(), in.transport.nics.size());
  for (size_t i = 0; i < in.transport.nics.size(); ++i) {
    const TransportParts::Nic &is = out->transport.nics[i], &was = in.transport.nics[i];
    EXPECT_EQ(is.binding.interface, was.binding.interface);
    EXPECT_EQ(is.binding.queues, was.binding.queues);
    EXPECT_EQ(is.binding.dmabuf_id, was.binding.dmabuf_id);
    EXPECT_EQ(is.binding.page_size, was.binding.page_size);
    EXPECT_EQ(is.binding.posted, was.binding.posted);
    EXPECT_EQ(is.binding.by_handle, was.binding.by_handle);
    EXPECT_TRUE(SameFile(is.binding.fd.get(), was.binding.fd.get()));
    EXPECT_EQ(is.landing.kind, was.landing.kind);
    EXPECT_EQ(is.landing.version, was.landing.version);
    EXPECT_EQ(is.landing.bytes, was.landing.bytes);
    EXPECT_EQ(is.landing.device_uuid, was.landing.device_uuid);
    EXPECT_TRUE(SameFile(is.landing.fd.get(), was.landing.fd.get()));
    EXPECT_TRUE(SameFile(is.dmabuf.get(), was.dmabuf.get()));
  }
  EXPECT_EQ(out->transport.interfaces, in.transport.interfaces);
  EXPECT_EQ(out->transport.queues, in.transport.queues);
  EXPECT_EQ(out->transport.landing_pool, in.transport.landing_pool);
}

TEST(UpgradeParcel, SaysWhoseTheSocketsAre) {
  HandedOver in = Whole();
  in.grpc.lent = in.handles.lent = true;
  const UpgradeParcel parcel = Pack(in);
  const absl::StatusOr<HandedOver> out = Unpack(parcel.bytes, Duplicates(parcel.fds));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_TRUE(out->grpc.lent);
  EXPECT_TRUE(out->handles.lent);
  EXPECT_FALSE(out->upgrade.lent);
}

TEST(UpgradeParcel, MustBeWhole) {
  const HandedOver in = Whole();
  const UpgradeParcel parcel = Pack(in);
  const auto refused = [](const std::string& bytes, const std::vector<int>& fds) {
    return Unpack(bytes, Duplicates(fds)).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(parcel.bytes, {parcel.fds.begin(), parcel.fds.end() - 1}));
  EXPECT_TRUE(refused(parcel.bytes, {}));
  EXPECT_TRUE(refused("", parcel.fds));
  EXPECT_TRUE(refused(parcel.bytes.substr(0, parcel.bytes.size() / 2), parcel.fds));
  UpgradePacket packet;
  ASSERT_TRUE(packet.ParseFromString(parcel.bytes));
  packet.mutable_hand_over()->mutable_nics(1)->set_landing_kind("something new");
  EXPECT_TRUE(refused(packet.SerializeAsString(), parcel.fds));
  packet.mutable_hand_over()->mutable_nics(0)->clear_queues();
  EXPECT_TRUE(refused(packet.SerializeAsString(), parcel.fds));
}

// A daemon, as far as the upgrade socket sees it.
class UpgradeSocketTest : public ::testing::Test {
 protected:
  UpgradeSocketTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "devmem-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/loader.sock";
  }
  ~UpgradeSocketTest() override {
    old_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Serve(UpgradeSocket::Options options = {}) {
    auto listener = UnixListener::Listen(path_ + kUpgradeSuffix, SOCK_SEQPACKET, {.mode = 0600});
    ASSERT_TRUE(listener.ok()) << listener.status();
    options.path = "copy";
    options.offer = [this]() -> absl::StatusOr<TransportParts> {
      if (!refuse_offer_.ok()) return refuse_offer_;
      return Whole().transport;
    };
    options.declined = [this](const absl::Status& why) { Note("declined: " + Text(why)); };
    options.hand_over = [this](const UpgradeSocket::Successor& successor) -> absl::StatusOr<HandedOver> {
      Note("hand over to " + std::to_string(successor.pid));
      if (!refuse_.ok()) return refuse_;
      return Whole();
    };
    options.go_on = [this](const absl::Status& why) {
      Note("go on: " + Text(why));
      return absl::OkStatus();
    };
    options.handed_over = [this](const UpgradeSocket::Successor&) { Note("handed over"); };
    auto made = UpgradeSocket::On(*std::move(listener), std::move(options));
    ASSERT_TRUE(made.ok()) << made.status();
    old_ = *std::move(made);
  }

  void Note(const std::string& what) {
    std::lock_guard lock(mutex_);
    notes_.push_back(what);
    changed_.notify_all();
  }
  // The next thing the daemon was told.
  std::string Told() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, Soon(), [&] { return told_ < notes_.size(); })) return "nothing";
    return notes_[told_++];
  }
  bool NothingMore() {
    std::lock_guard lock(mutex_);
    return told_ == notes_.size();
  }
  [[nodiscard]] std::string Handing() const { return "hand over to " + std::to_string(::getpid()); }

  std::unique_ptr<Predecessor> Find() {
    auto found = Predecessor::Find(path_, Soon());
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *std::move(found) : nullptr;
  }

  [[nodiscard]] UniqueFd Connect() const {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (path_ + kUpgradeSuffix).c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  }
  static void Say(const UniqueFd& socket, const UpgradePacket& packet) {
    const std::string bytes = packet.SerializeAsString();
    EXPECT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  static UpgradePacket Hear(const UniqueFd& socket) {
    char bytes[4096];
    const ssize_t length = ::recv(socket.get(), bytes, sizeof bytes, 0);
    UpgradePacket packet;
    EXPECT_TRUE(length > 0 && packet.ParseFromArray(bytes, static_cast<int>(length))) << length;
    return packet;
  }

  std::string directory_;
  std::string path_;
  absl::Status refuse_, refuse_offer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> notes_;
  size_t told_ = 0;
  std::unique_ptr<UpgradeSocket> old_;
};

TEST_F(UpgradeSocketTest, NobodyLivesThere) {
  EXPECT_EQ(Find(), nullptr);
  std::optional<UnixListener> dead;
  {
    auto listener = UnixListener::Listen(path_ + kUpgradeSuffix, SOCK_SEQPACKET, {});
    ASSERT_TRUE(listener.ok());
    listener->Leave();  // as after a SIGKILL
  }
  EXPECT_TRUE(std::filesystem::exists(path_ + kUpgradeSuffix));
  EXPECT_EQ(Find(), nullptr);
}

TEST_F(UpgradeSocketTest, HandsOverOnce) {
  Serve();
  auto successor = Find();
  ASSERT_NE(successor, nullptr);
  EXPECT_EQ(successor->path(), "copy");
  EXPECT_TRUE(NothingMore()) << "it serves until the successor is ready";
  auto handed = successor->TakeOver(Soon());
  ASSERT_TRUE(handed.ok()) << handed.status();
  ASSERT_TRUE(handed->has_value());
  EXPECT_EQ((*handed)->transport.nics.size(), 2U);
  EXPECT_EQ(Told(), Handing());
  EXPECT_TRUE(NothingMore()) << "both hold it";
  EXPECT_TRUE(successor->Adopted().ok());
  EXPECT_EQ(Told(), "handed over");
  old_.reset();
  EXPECT_TRUE(NothingMore());
  EXPECT_TRUE(std::filesystem::exists(path_ + kUpgradeSuffix)) << "the file is the successor's";
}

TEST_F(UpgradeSocketTest, WhoOnlyLooksChangesNothing) {
  Serve();
  EXPECT_NE(Find(), nullptr);
  EXPECT_NE(Find(), nullptr);
  auto successor = Find();
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
}

TEST_F(UpgradeSocketTest, GoesOnWithoutASuccessorThatFails) {
  Serve();
  auto successor = Find();
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
  successor->Failed(MakeError(absl::StatusCode::kInternal, "the roof is on fire", {}));
  EXPECT_THAT(Told(), HasSubstr("the roof is on fire"));
  successor.reset();
  successor = Find();  // the next may try
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
  EXPECT_TRUE(successor->Adopted().ok());
  EXPECT_EQ(Told(), "handed over");
}

TEST_F(UpgradeSocketTest, GoesOnWithoutASuccessorThatDies) {
  Serve();
  auto successor = Find();
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
  successor.reset();
  EXPECT_THAT(Told(), HasSubstr("the other daemon closed the connection, or died"));
}

TEST_F(UpgradeSocketTest, GoesOnWithoutASuccessorThatIsLate) {
  Serve({.adopt_timeout = std::chrono::milliseconds(50)});
  auto successor = Find();
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
  EXPECT_THAT(Told(), HasSubstr("the other daemon did not answer in time"));
  const absl::Status late = successor->Adopted();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_THAT(Text(late), HasSubstr("the living daemon does not hand over"));
  EXPECT_TRUE(NothingMore());
}

TEST_F(UpgradeSocketTest, GoesOnWhereItCannotHandOver) {
  Serve();
  refuse_ = MakeError(absl::StatusCode::kFailedPrecondition, "dms0 is not bound", {});
  auto successor = Find();
  const absl::Status status = successor->TakeOver(Soon()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(Text(status), HasSubstr("the living daemon does not hand over: dms0 is not bound"));
  EXPECT_EQ(Told(), Handing());
  EXPECT_EQ(Told(), "go on: dms0 is not bound");
}

// What cannot be is found while everything is served: the successor by what it is offered, ...
TEST_F(UpgradeSocketTest, IsDeclinedByTheSuccessorBeforeAnythingStops) {
  Serve();
  auto successor = Find();
  ASSERT_NE(successor->offer(), nullptr);
  const TransportParts whole = Whole().transport;
  ASSERT_EQ(successor->offer()->nics.size(), whole.nics.size());
  for (size_t i = 0; i < whole.nics.size(); ++i) {
    const TransportParts::Nic &offered = successor->offer()->nics[i], &nic = whole.nics[i];
    EXPECT_EQ(offered.binding.interface, nic.binding.interface);
    EXPECT_EQ(offered.binding.queues, nic.binding.queues);
    EXPECT_EQ(offered.binding.page_size, nic.binding.page_size);
    EXPECT_EQ(offered.landing.bytes, nic.landing.bytes);
    EXPECT_EQ(offered.landing.device_uuid, nic.landing.device_uuid);
    EXPECT_FALSE(offered.binding.fd.valid() || offered.landing.fd.valid() || offered.dmabuf.valid());
  }
  successor->Failed(MakeError(absl::StatusCode::kInvalidArgument, "the pool is too small", {}));
  EXPECT_EQ(Told(), "declined: the successor could not take over: the pool is too small");
  successor.reset();
  successor = Find();  // the next may try
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
}

// ... and the living daemon when it is asked.
TEST_F(UpgradeSocketTest, DeclinesBeforeAnythingStops) {
  Serve();
  refuse_offer_ = MakeError(absl::StatusCode::kFailedPrecondition, "dms0 is not bound", {});
  auto successor = Find();
  ASSERT_NE(successor, nullptr) << "that it cannot now does not mean that it never can";
  EXPECT_EQ(successor->offer(), nullptr);
  const absl::Status status = successor->TakeOver(Soon()).status();
  EXPECT_THAT(Text(status), HasSubstr("the living daemon does not hand over: dms0 is not bound"));
  EXPECT_EQ(Told(), "declined: dms0 is not bound");
  EXPECT_TRUE(NothingMore());
}

TEST_F(UpgradeSocketTest, EndsAmidAHandOver) {
  Serve();
  auto successor = Find();
  ASSERT_TRUE(successor->TakeOver(Soon()).ok());
  EXPECT_EQ(Told(), Handing());
  old_.reset();
  EXPECT_THAT(Told(), HasSubstr("this daemon is to end"));
  EXPECT_FALSE(successor->Adopted().ok());
}

TEST_F(UpgradeSocketTest, ThePredecessorDies) {
  // One that says what it must and is gone before the answer: what it sent is the successor's.
  auto listener = UnixListener::Listen(path_ + kUpgradeSuffix, SOCK_SEQPACKET, {});
  ASSERT_TRUE(listener.ok());
  for (const bool before_it_sent : {false, true}) {
    UpgradePacket present;
    present.mutable_present()->set_path("copy");
    std::thread old([&] {
      UniqueFd socket;
      while (!(socket = std::move(listener->Accept().fd)).valid()) std::this_thread::yield();
      ASSERT_EQ(::fcntl(socket.get(), F_SETFL, 0), 0);
      EXPECT_TRUE(Hear(socket).has_hello());
      Say(socket, present);
      EXPECT_TRUE(Hear(socket).has_ready());
      if (before_it_sent) return;
      const HandedOver handed = Whole();
      const UpgradeParcel parcel = Pack(handed);
      iovec iov{const_cast<char*>(parcel.bytes.data()), parcel.bytes.size()};
      std::vector<char> control(CMSG_SPACE(parcel.fds.size() * sizeof(int)));
      msghdr message{};
      message.msg_iov = &iov;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(parcel.fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(header), parcel.fds.data(), parcel.fds.size() * sizeof(int));
      EXPECT_GT(::sendmsg(socket.get(), &message, MSG_NOSIGNAL), 0);
    });
    auto successor = Find();
    ASSERT_NE(successor, nullptr);
    auto handed = successor->TakeOver(Soon());
    old.join();
    ASSERT_TRUE(handed.ok()) << handed.status();
    EXPECT_EQ(handed->has_value(), !before_it_sent);
    if (!before_it_sent) {
      EXPECT_TRUE(successor->Adopted().ok());
    }
  }
}

TEST_F(UpgradeSocketTest, RefusesAnotherVersion) {
  Serve();
  const UniqueFd socket = Connect();
  UpgradePacket hello;
  hello.mutable_hello()->set_version(2);
  hello.mutable_hello()->set_daemon_version("9.9");
  Say(socket, hello);
  const UpgradePacket answer = Hear(socket);
  ASSERT_TRUE(answer.has_refused()) << answer.DebugString();
  EXPECT_EQ(static_cast<absl::StatusCode>(answer.refused().code()), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(answer.refused().message(),
              HasSubstr("speaks version 1 of the upgrade protocol, the successor (version 9.9) version 2"));
  EXPECT_TRUE(NothingMore());
}

TEST_F(UpgradeSocketTest, RefusesWhatIsNoPacket) {
  Serve();
  const UniqueFd socket = Connect();
  EXPECT_EQ(::send(socket.get(), "\xff\xff\xff", 3, 0), 3);
  EXPECT_TRUE(Hear(socket).has_refused());
  EXPECT_NE(Find(), nullptr);
}

TEST_F(UpgradeSocketTest, RefusesAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  Serve();
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  ASSERT_EQ(::chmod((path_ + kUpgradeSuffix).c_str(), 0666), 0);  // the file's mode is the first fence, this is the second
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    const auto found = Predecessor::Find(path_, Soon());
    ::_exit(found.status().code() == absl::StatusCode::kPermissionDenied ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_TRUE(NothingMore());
}

}  // namespace
}  // namespace devmem
