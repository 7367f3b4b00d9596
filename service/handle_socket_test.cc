// SPDX-License-Identifier: Apache-2.0
#include "service/handle_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "devmem_loader/v1/handle_socket.pb.h"

namespace devmem {
namespace {

using devmem_loader::v1::HandlePacket;
using ::testing::HasSubstr;

constexpr Duration kLong = std::chrono::seconds(20);

// Collects the tokens of peers that are gone.
class Gone {
 public:
  void Add(const std::string& token) {
    std::lock_guard lock(mutex_);
    tokens_.push_back(token);
    changed_.notify_all();
  }
  bool WaitFor(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLong, [&] { return tokens_.size() >= count; });
  }
  std::vector<std::string> tokens() {
    std::lock_guard lock(mutex_);
    return tokens_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> tokens_;
};

struct Received {
  HandlePacket packet;
  UniqueFd fd;
};

class HandleSocketTest : public ::testing::Test {
 protected:
  HandleSocketTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "devmem-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/loader.sock";
  }
  ~HandleSocketTest() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<HandleSocket> Serve(HandleSocket::Options options = {}) {
    options.gone = [this](const HandleSocket::Peer& peer) { gone_.Add(peer.token); };
    auto socket = HandleSocket::Create(path_, std::move(options));
    EXPECT_TRUE(socket.ok()) << socket.status();
    return std::move(*socket);
  }

  [[nodiscard]] UniqueFd Connect() const {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (path_ + ".fd").c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  }

  // The next packet; nothing if the daemon closed the connection.
  static std::optional<Received> Receive(const UniqueFd& socket) {
    pollfd readable{socket.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&readable, 1, 20'000), 1);
    char bytes[4096];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec iov{bytes, sizeof bytes};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t length = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length <= 0) return std::nullopt;
    Received received;
    EXPECT_TRUE(received.packet.ParseFromArray(bytes, static_cast<int>(length)));
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
      received.fd = UniqueFd(fd);
    }
    return received;
  }

  static std::string Token(const UniqueFd& socket) {
    auto hello = Receive(socket);
    EXPECT_TRUE(hello.has_value() && hello->packet.has_hello());
    if (!hello.has_value()) return "";
    EXPECT_EQ(hello->packet.hello().version(), 1u);
    return hello->packet.hello().token();
  }

  std::string directory_;
  std::string path_;
  Gone gone_;
};

TEST_F(HandleSocketTest, IssuesTokensAndFindsTheirOwners) {
  auto handles = Serve();
  std::vector<UniqueFd> clients;
  std::set<std::string> tokens;
  for (int i = 0; i < 50; ++i) {
    clients.push_back(Connect());
    const std::string token = Token(clients.back());
    EXPECT_EQ(token.size(), 32u);
    EXPECT_EQ(token.find_first_not_of("0123456789abcdef"), std::string::npos);
    tokens.insert(token);
    auto peer = handles->FindPeer(token);
    ASSERT_TRUE(peer.ok()) << peer.status();
    EXPECT_EQ(peer->token, token);
    EXPECT_EQ(peer->credentials.pid, ::getpid());
    EXPECT_EQ(peer->credentials.uid, ::getuid());
  }
  EXPECT_EQ(tokens.size(), 50u);
  EXPECT_EQ(handles->peers(), 50u);
  std::string wrong = *tokens.begin();
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  for (const std::string& token : {wrong, std::string(), std::string("abc"), std::string(64, 'a')}) {
    EXPECT_EQ(handles->FindPeer(token).status().code(), absl::StatusCode::kUnauthenticated);
  }
  EXPECT_THAT(Text(handles->FindPeer(wrong).status()), ::testing::Not(HasSubstr(wrong.substr(0, 8))));
}

TEST_F(HandleSocketTest, PassesSlabs) {
  auto handles = Serve();
  UniqueFd client = Connect();
  const std::string token = Token(client);
  UniqueFd memory(::memfd_create("slab", MFD_CLOEXEC));
  ASSERT_EQ(::pwrite(memory.get(), "tensor", 6, 0), 6);
  devmem_loader::v1::SlabHandle slab;
  slab.set_stream_id("s1");
  slab.set_slab(3);
  slab.set_kind("memfd");
  ASSERT_TRUE(handles->SendSlab(token, slab, memory.get(), Clock::now() + kLong).ok());
  auto received = Receive(client);
  ASSERT_TRUE(received.has_value());
  EXPECT_EQ(received->packet.slab().stream_id(), "s1");
  EXPECT_EQ(received->packet.slab().slab(), 3u);
  char bytes[6];
  ASSERT_EQ(::pread(received->fd.get(), bytes, 6, 0), 6);
  EXPECT_EQ(std::string(bytes, 6), "tensor");
  EXPECT_EQ(handles->SendSlab(std::string(32, '0'), slab, memory.get(), Clock::now() + kLong).code(),
            absl::StatusCode::kUnauthenticated);
}

TEST_F(HandleSocketTest, ClosingIsReportedOnce) {
  auto handles = Serve();
  UniqueFd stays = Connect();
  const std::string staying = Token(stays);
  UniqueFd leaves = Connect();
  const std::string leaving = Token(leaves);
  leaves.Reset();
  ASSERT_TRUE(gone_.WaitFor(1));
  EXPECT_EQ(handles->FindPeer(leaving).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(handles->FindPeer(staying).ok());
  handles.reset();
  EXPECT_THAT(gone_.tokens(), ::testing::ElementsAre(leaving, staying));
}

TEST_F(HandleSocketTest, ATalkingPeerIsDisconnected) {
  auto handles = Serve();
  UniqueFd client = Connect();
  const std::string token = Token(client);
  ASSERT_EQ(::send(client.get(), "?", 1, 0), 1);
  ASSERT_TRUE(gone_.WaitFor(1));
  EXPECT_FALSE(Receive(client).has_value());
}

// A killed trainer is noticed although a child it forked holds its connection open.
TEST_F(HandleSocketTest, DeathIsNoticedDespiteForkedChildren) {
  auto handles = Serve();
  int pipes[2];
  ASSERT_EQ(::pipe2(pipes, O_CLOEXEC), 0);
  int child_of_trainer[2];
  ASSERT_EQ(::pipe2(child_of_trainer, O_CLOEXEC), 0);
  const pid_t trainer = ::fork();
  if (trainer == 0) {
    UniqueFd client = Connect();
    const std::string token = Token(client);
    if (::fork() == 0) {  // a worker: ends when the test closes its pipe
      ::close(child_of_trainer[1]);
      char byte;
      (void)!::read(child_of_trainer[0], &byte, 1);
      ::_exit(0);
    }
    (void)!::write(pipes[1], token.data(), token.size());
    while (true) ::pause();
  }
  ::close(pipes[1]);
  char token[32];
  ASSERT_EQ(::read(pipes[0], token, sizeof token), 32);
  EXPECT_EQ(handles->FindPeer(std::string(token, 32))->credentials.pid, trainer);
  ASSERT_EQ(::kill(trainer, SIGKILL), 0);
  EXPECT_TRUE(gone_.WaitFor(1));
  ::waitpid(trainer, nullptr, 0);
  ::close(pipes[0]);
  ::close(child_of_trainer[0]);
  ::close(child_of_trainer[1]);
}

TEST_F(HandleSocketTest, RefusalsSayWhy) {
  auto handles = Serve({.admit = [](const PeerCredentials& peer) {
    return MakeError(absl::StatusCode::kPermissionDenied, "user " + std::to_string(peer.uid) + " is not in allow_uids", {});
  }});
  UniqueFd client = Connect();
  auto refused = Receive(client);
  ASSERT_TRUE(refused.has_value() && refused->packet.has_refused());
  EXPECT_THAT(refused->packet.refused().message(), HasSubstr("is not in allow_uids"));
  EXPECT_FALSE(Receive(client).has_value());
  EXPECT_EQ(handles->peers(), 0u);
  EXPECT_TRUE(gone_.tokens().empty());
}

TEST_F(HandleSocketTest, PeersAreCapped) {
  auto handles = Serve({.max_peers = 2});
  UniqueFd first = Connect();
  UniqueFd second = Connect();
  (void)Token(first);
  (void)Token(second);
  UniqueFd third = Connect();
  auto refused = Receive(third);
  ASSERT_TRUE(refused.has_value());
  EXPECT_THAT(refused->packet.refused().message(), HasSubstr("serves 2 trainers already"));
  EXPECT_EQ(refused->packet.refused().code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(refused->packet.refused().detail().cause(), "trainers");
  EXPECT_FALSE(refused->packet.refused().detail().action().empty());
  first.Reset();
  ASSERT_TRUE(gone_.WaitFor(1));
  UniqueFd fourth = Connect();
  EXPECT_FALSE(Token(fourth).empty());
}

// One user's trainers fill that user's share, and others still come in.
TEST_F(HandleSocketTest, PeersOfAUserAreCapped) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be somebody else for a moment";
  auto handles = Serve({.mode = 0666, .max_peers_of_user = 2});
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  UniqueFd first = Connect();
  UniqueFd second = Connect();
  (void)Token(first);
  (void)Token(second);
  for (int i = 0; i < 3; ++i) {
    UniqueFd third = Connect();
    auto refused = Receive(third);
    ASSERT_TRUE(refused.has_value() && refused->packet.has_refused());
    EXPECT_THAT(refused->packet.refused().message(), HasSubstr("serves 2 trainers of uid 0 already"));
  }
  ASSERT_EQ(::seteuid(65534), 0);
  UniqueFd other = Connect();
  ASSERT_EQ(::seteuid(0), 0);
  const std::string token = Token(other);
  ASSERT_FALSE(token.empty());
  EXPECT_EQ(handles->FindPeer(token)->credentials.uid, 65534u);
  first.Reset();
  ASSERT_TRUE(gone_.WaitFor(1));
  UniqueFd fourth = Connect();
  EXPECT_FALSE(Token(fourth).empty());
}

TEST_F(HandleSocketTest, APeerThatDoesNotReadCostsOnlyItsDeadline) {
  auto handles = Serve();
  UniqueFd deaf = Connect();
  const std::string token = Token(deaf);
  UniqueFd memory(::memfd_create("slab", MFD_CLOEXEC));
  devmem_loader::v1::SlabHandle slab;
  slab.set_stream_id("s1");
  absl::Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) {
    status = handles->SendSlab(token, slab, memory.get(), Clock::now() + std::chrono::milliseconds(50));
  }
  // A full socket, or the kernel's limit of descriptors in flight, whichever comes first.
  EXPECT_TRUE(status.code() == absl::StatusCode::kDeadlineExceeded || status.code() == absl::StatusCode::kResourceExhausted)
      << status;
  UniqueFd other = Connect();
  EXPECT_FALSE(Token(other).empty());
}

// What a trainer has no room for waits without a thread, comes when it reads, in order, and is dropped by its stream's end, by
// its deadline or by the trainer's.
TEST_F(HandleSocketTest, SlabsWaitForWhoDoesNotRead) {
  auto handles = Serve();
  UniqueFd deaf = Connect();
  const std::string token = Token(deaf);
  UniqueFd memory(::memfd_create("slab", MFD_CLOEXEC));
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, absl::Status> passed;
  const auto pass = [&](const std::string& stream, Duration patience) {
    devmem_loader::v1::SlabHandle slab;
    slab.set_stream_id(stream);
    handles->PassSlab(token, slab, UniqueFd(::fcntl(memory.get(), F_DUPFD_CLOEXEC, 0)), Clock::now() + patience,
                      [&, stream](absl::Status status) {
                        std::lock_guard lock(mutex);
                        EXPECT_TRUE(passed.emplace(stream, std::move(status)).second) << stream << " twice";
                        changed.notify_all();
                      });
    std::lock_guard lock(mutex);
    return passed.contains(stream);
  };
  const auto outcome = [&](const std::string& stream) {
    std::unique_lock lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, kLong, [&] { return passed.contains(stream); })) << stream;
    return passed[stream].code();
  };
  int sent = 0;
  while (pass("early " + std::to_string(sent), kLong) && sent < 10'000) ++sent;
  EXPECT_GE(sent, 8) << "trainers that open a few streams at once read when they like";
  EXPECT_LE(sent, 100) << "descriptors in flight that one trainer may cost";
  EXPECT_FALSE(pass("cancelled", kLong));
  EXPECT_FALSE(pass("late", std::chrono::milliseconds(20)));
  EXPECT_FALSE(pass("patient", kLong));
  handles->CancelSlabs(token, "cancelled");
  EXPECT_EQ(outcome("cancelled"), absl::StatusCode::kCancelled);
  EXPECT_EQ(outcome("late"), absl::StatusCode::kDeadlineExceeded);
  for (int i = 0; i <= sent; ++i) {
    const auto received = Receive(deaf);
    ASSERT_TRUE(received.has_value());
    EXPECT_EQ(received->packet.slab().stream_id(), "early " + std::to_string(i));
    EXPECT_TRUE(received->fd.valid());
  }
  EXPECT_EQ(outcome("early " + std::to_string(sent)), absl::StatusCode::kOk);
  EXPECT_EQ(outcome("patient"), absl::StatusCode::kOk);
  EXPECT_EQ(Receive(deaf)->packet.slab().stream_id(), "patient");
  while (pass("more " + std::to_string(sent), kLong) && sent < 10'000) ++sent;
  deaf.Reset();
  EXPECT_EQ(outcome("more " + std::to_string(sent)), absl::StatusCode::kUnauthenticated);
}

// There is room for a slab long before the kernel says that the connection can be written to.
TEST_F(HandleSocketTest, ASlabThatWaitsIsNotOvertaken) {
  auto handles = Serve();
  UniqueFd slow = Connect();
  const std::string token = Token(slow);
  UniqueFd memory(::memfd_create("slab", MFD_CLOEXEC));
  std::atomic<int> passed = 0;
  int number = 0;
  const auto pass = [&] {
    devmem_loader::v1::SlabHandle slab;
    slab.set_stream_id("s");
    slab.set_slab(static_cast<uint32_t>(number++));
    handles->PassSlab(token, slab, UniqueFd(::fcntl(memory.get(), F_DUPFD_CLOEXEC, 0)), Clock::now() + kLong,
                      [&passed](const absl::Status& status) {
                        EXPECT_TRUE(status.ok()) << status;
                        ++passed;
                      });
  };
  while (passed == number && number < 10'000) pass();
  for (int next = 0; next < number; ++next) {
    const auto received = Receive(slow);
    ASSERT_TRUE(received.has_value());
    EXPECT_EQ(received->packet.slab().slab(), static_cast<uint32_t>(next));
    if (next == 0) pass();
  }
  handles.reset();
  EXPECT_EQ(passed, number);
}

TEST_F(HandleSocketTest, APeerThatLeavesEndsTheWaitForIt) {
  auto handles = Serve();
  UniqueFd deaf = Connect();
  const std::string token = Token(deaf);
  devmem_loader::v1::SlabHandle slab;
  slab.set_stream_id(std::string(3000, 's'));
  UniqueFd memory(::memfd_create("slab", MFD_CLOEXEC));
  absl::Status status;
  std::thread sender([&] {
    while (status.ok()) status = handles->SendSlab(token, slab, memory.get(), Clock::now() + kLong);
  });
  deaf.Reset();
  sender.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
}

// With no descriptor left, a trainer is told so, and others come in once there are some again.
TEST_F(HandleSocketTest, SaysSoWhenDescriptorsRunOut) {
  auto handles = Serve();
  UniqueFd waits(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_cur, 128);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<UniqueFd> hoard;
  while (true) {
    UniqueFd one(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!one.valid()) break;
    hoard.push_back(std::move(one));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (path_ + ".fd").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::connect(waits.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  auto refused = Receive(waits);
  hoard.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(refused.has_value());
  EXPECT_THAT(refused->packet.refused().message(), HasSubstr("out of file descriptors"));
  EXPECT_EQ(refused->packet.refused().code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(refused->packet.refused().detail().action(), HasSubstr("LimitNOFILE"));
  UniqueFd client = Connect();
  EXPECT_FALSE(Token(client).empty());
}

TEST_F(HandleSocketTest, TwoDaemonsCannotServeOnePath) {
  auto handles = Serve();
  auto second = HandleSocket::Create(path_, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Text(second.status()), HasSubstr("another daemon serves"));
}

}  // namespace
}  // namespace devmem
