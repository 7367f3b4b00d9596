// SPDX-License-Identifier: Apache-2.0
#include "service/grpc_listener.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "devmem_loader/v1/loader.grpc.pb.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;

// Answers GetNodeStatus with the caller's pid and uid, as the listener knows them.
class Service final : public v1::Loader::CallbackService {
 public:
  explicit Service(GrpcListener* listener) : listener_(listener) {}
  grpc::ServerUnaryReactor* GetNodeStatus(grpc::CallbackServerContext* context, const v1::GetNodeStatusRequest*,
                                          v1::GetNodeStatusResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    auto credentials = listener_->CredentialsOf(context->peer());
    if (credentials.ok()) {
      response->set_pid(credentials->pid);
      response->set_version(context->peer());
      response->add_devices(std::to_string(credentials->uid));
      reactor->Finish(grpc::Status::OK);
    } else {
      reactor->Finish({grpc::StatusCode::UNAUTHENTICATED, Text(credentials.status())});
    }
    return reactor;
  }

 private:
  GrpcListener* listener_;
};

class GrpcListenerTest : public ::testing::Test {
 protected:
  GrpcListenerTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "devmem-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/loader.sock";
  }
  ~GrpcListenerTest() override {
    if (listener_ != nullptr) listener_->Stop();
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Serve(GrpcListener::Options options = {}) {
    auto listener = GrpcListener::Create(path_, std::move(options));
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = std::move(*listener);
    service_ = std::make_unique<Service>(listener_.get());
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    listener_->Serve(server_.get());
  }

  // One call on a connection of its own.
  [[nodiscard]] grpc::Status Call(v1::GetNodeStatusResponse* response) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto stub = v1::Loader::NewStub(grpc::CreateCustomChannel("unix:" + path_, grpc::InsecureChannelCredentials(), arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return stub->GetNodeStatus(&context, {}, response);
  }

  std::string directory_;
  std::string path_;
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(GrpcListenerTest, CallsAreTracedToTheirProcess) {
  Serve();
  for (int i = 0; i < 20; ++i) {
    v1::GetNodeStatusResponse response;
    const grpc::Status status = Call(&response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.pid(), ::getpid());
    EXPECT_EQ(response.devices(0), std::to_string(::getuid()));
  }
}

// Connections of two users, one after another, on numbers the kernel would hand out again at once.
TEST_F(GrpcListenerTest, NumbersDoNotPassBetweenUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be somebody else for a moment";
  Serve({.mode = 0666});
  std::filesystem::permissions(directory_, std::filesystem::perms(0755));
  constexpr uid_t kOther = 65534;
  std::map<std::string, std::set<uid_t>> users;  // by number
  for (int i = 0; i < 40; ++i) {
    const uid_t uid = i % 2 == 0 ? 0 : kOther;
    ASSERT_EQ(::seteuid(uid), 0);
    v1::GetNodeStatusResponse response;
    const grpc::Status status = Call(&response);
    ASSERT_EQ(::seteuid(0), 0);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.devices(0), std::to_string(uid));
    users[response.version()].insert(uid);
  }
  for (const auto& [number, uids] : users) EXPECT_EQ(uids.size(), 1u) << number;
}

TEST_F(GrpcListenerTest, OtherPeersAreUnknown) {
  Serve();
  for (const char* peer : {"", "fd:", "fd:100000", "fd:-1", "fd:3x", "unix:", "ipv4:127.0.0.1:80"}) {
    EXPECT_EQ(listener_->CredentialsOf(peer).status().code(), absl::StatusCode::kUnauthenticated) << peer;
  }
}

TEST_F(GrpcListenerTest, RefusedUsersGetNoConnection) {
  Serve({.admit = [](const PeerCredentials&) { return absl::PermissionDeniedError("no"); }});
  v1::GetNodeStatusResponse response;
  EXPECT_EQ(Call(&response).error_code(), grpc::StatusCode::UNAVAILABLE);
}

// One user's connections fill that user's share, others still come in, and what was closed counts no more.
TEST_F(GrpcListenerTest, ConnectionsOfAUserAreCapped) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be somebody else for a moment";
  Serve({.mode = 0666, .max_connections_of_user = 3});
  std::filesystem::permissions(directory_, std::filesystem::perms(0755));
  const auto connect = [&] {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return socket;
  };
  std::vector<UniqueFd> held;
  for (int i = 0; i < 3; ++i) held.push_back(connect());
  char byte = 0;
  // gRPC speaks first (its settings); of one too many the end is all there is to read.
  for (const UniqueFd& socket : held) EXPECT_EQ(::recv(socket.get(), &byte, 1, 0), 1);
  for (int i = 0; i < 4; ++i) EXPECT_LE(::recv(connect().get(), &byte, 1, 0), 0);

  v1::GetNodeStatusResponse response;
  ASSERT_EQ(::seteuid(65534), 0);
  const grpc::Status other = Call(&response);
  ASSERT_EQ(::seteuid(0), 0);
  EXPECT_TRUE(other.ok()) << other.error_message();

  held.clear();
  const Time deadline = Clock::now() + std::chrono::seconds(20);  // gRPC closes its ends when it has noticed, one by one
  grpc::Status again = Call(&response);
  while (!again.ok() && Clock::now() < deadline) again = Call(&response);
  EXPECT_TRUE(again.ok()) << again.error_message();
}

TEST_F(GrpcListenerTest, TwoDaemonsCannotServeOnePath) {
  Serve();
  auto second = GrpcListener::Create(path_, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace devmem
