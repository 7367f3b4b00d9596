// SPDX-License-Identifier: Apache-2.0
// Steering over bindings of our own, with real sockets on the loopback interface, which plays the route's.
#include "net/rx/flow_steering.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>

#include <map>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/rx/flow_steering_on.h"

namespace devmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class FakeBinding final : public RxBinding {
 public:
  FakeBinding(std::string interface, std::vector<uint32_t> queues, uint32_t first_napi) : interface_(std::move(interface)) {
    for (const uint32_t queue : queues) queues_.push_back({.interface = interface_, .queue = queue, .napi_id = first_napi++});
    state_.queues = queues_;
  }
  [[nodiscard]] const std::string& interface() const override { return interface_; }
  [[nodiscard]] const std::string& driver() const override { return interface_; }
  [[nodiscard]] const std::vector<BoundQueue>& queues() const override { return queues_; }
  [[nodiscard]] uint32_t dmabuf_id() const override { return 1; }
  [[nodiscard]] uint32_t page_size() const override { return 4096; }
  [[nodiscard]] uint64_t posted() const override { return 0; }
  [[nodiscard]] uint64_t rule_capacity() const override { return capacity_; }
  [[nodiscard]] bool by_handle() const override { return false; }
  absl::StatusOr<uint32_t> AddRule(const FlowMatch& match, size_t index) override {
    if (!refuse_.ok()) return refuse_;
    table_[next_] = match.ToString() + " to " + std::to_string(queues_.at(index).queue);
    return next_++;
  }
  absl::Status RemoveRule(uint32_t location) override {
    table_.erase(location);
    return absl::OkStatus();
  }
  [[nodiscard]] size_t rules() const override { return table_.size(); }
  absl::StatusOr<RxState> Look() override { return state_; }
  absl::Status Rebind(int) override { return absl::OkStatus(); }
  void LetGo() override {}
  absl::StatusOr<HeldBinding> Share() override { return absl::UnimplementedError("not asked here"); }
  absl::StatusOr<HeldBinding> Offer() override { return absl::UnimplementedError("not asked here"); }
  void Forget() override {}
  absl::Status Undo(Time) override { return absl::OkStatus(); }

  std::vector<std::string> Rules() const {
    std::vector<std::string> texts;
    for (const auto& [location, text] : table_) texts.push_back(text);
    return texts;
  }
  uint64_t capacity_ = 0;
  absl::Status refuse_;
  RxState state_;

 private:
  const std::string interface_;
  std::vector<BoundQueue> queues_;
  std::map<uint32_t, std::string> table_;
  uint32_t next_ = 0;
};

sockaddr_storage Peer(const char* address, uint16_t port) {
  sockaddr_storage storage{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, address, &v6.sin6_addr), 1) << address;
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
  }
  return storage;
}

class FlowSteeringTest : public ::testing::Test {
 protected:
  std::unique_ptr<FlowSteering> Make(std::vector<RxBinding*> bindings, const SteeringOptions& options = {}) {
    auto steering = CreateFlowSteering(std::move(bindings), options, Fake(), Ready());
    EXPECT_TRUE(steering.ok()) << steering.status();
    if (steering.ok()) {
      EXPECT_TRUE((*steering)->Begin().ok());
    }
    return steering.ok() ? *std::move(steering) : nullptr;
  }
  FlowSteering::Ready Ready() {
    return [this](size_t binding) { return ready_.at(binding); };
  }
  Routing Fake() {
    return {.route_to = [this](const sockaddr* peer, socklen_t) -> absl::StatusOr<Route> {
              const bool v6 = peer->sa_family == AF_INET6;
              return Route{.ifindex = 1, .interface = "lo", .source = Peer(v6 ? "::1" : "127.0.0.1", 0), .local = local_};
            },
            .physical_devices = [this](const std::string&) -> absl::StatusOr<std::vector<std::string>> { return devices_; },
            .interface_of = [](const sockaddr_storage&) { return "lo"; }};
  }
  absl::StatusOr<std::unique_ptr<FlowSteering::Lease>> Steer(FlowSteering& steering, size_t queue,
                                                             const char* address = "192.0.2.2") {
    const sockaddr_storage peer = Peer(address, 80);
    socket_ = UniqueFd(socket(peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return steering.Steer(socket_.get(), reinterpret_cast<const sockaddr*>(&peer), sizeof peer, queue);
  }
  // "127.0.0.1:PORT" of the socket, as rules name it.
  std::string Local() {
    sockaddr_storage local{};
    socklen_t length = sizeof local;
    EXPECT_EQ(getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&local), &length), 0);
    const bool v6 = local.ss_family == AF_INET6;
    const auto port =
        ntohs(v6 ? reinterpret_cast<sockaddr_in6&>(local).sin6_port : reinterpret_cast<sockaddr_in&>(local).sin_port);
    FlowMatch match{.source = Peer("192.0.2.2", 80), .destination = local};
    EXPECT_NE(port, 0);
    const std::string text = match.ToString();
    return text.substr(text.find("> ") + 2);
  }
  std::string Device() {
    std::string name(IF_NAMESIZE, '\0');
    socklen_t length = IF_NAMESIZE;
    EXPECT_EQ(getsockopt(socket_.get(), SOL_SOCKET, SO_BINDTODEVICE, name.data(), &length), 0);
    return name.c_str();
  }

  FakeBinding a_{"eth0", {6, 7}, 100};
  FakeBinding b_{"eth1", {3}, 200};
  std::vector<absl::Status> ready_{2};
  std::vector<std::string> devices_ = {"eth0"};
  bool local_ = false;
  UniqueFd socket_;
};

TEST_F(FlowSteeringTest, AConnectionGetsItsRuleAndKeepsItForItsTime) {
  const auto steering = Make({&a_, &b_});
  auto lease = Steer(*steering, 1);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ((*lease)->queue(), 1);
  EXPECT_EQ((*lease)->interface(), "lo");
  EXPECT_EQ(Device(), "lo");
  EXPECT_THAT(a_.Rules(), ElementsAre("tcp 192.0.2.2:80 > " + Local() + " to 7"));
  EXPECT_THAT(b_.Rules(), IsEmpty());
  lease->reset();
  EXPECT_THAT(a_.Rules(), IsEmpty());
}

TEST_F(FlowSteeringTest, ARouteByAnotherNicTakesTheQueueOfTheSameRank) {
  devices_ = {"eth1"};
  const auto steering = Make({&a_, &b_});
  for (const size_t queue : {0, 1, 2}) {
    const auto lease = Steer(*steering, queue);
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_EQ((*lease)->queue(), 2);
    EXPECT_THAT(a_.Rules(), IsEmpty());
    EXPECT_THAT(b_.Rules(), ElementsAre("tcp 192.0.2.2:80 > " + Local() + " to 3"));
  }
}

TEST_F(FlowSteeringTest, ABondsMembersAllGetTheRule) {
  devices_ = {"eth0", "eth1", "eth2"};  // eth2 is not ours
  const auto steering = Make({&a_, &b_});
  auto lease = Steer(*steering, 0);
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ((*lease)->queue(), 0);
  EXPECT_THAT(a_.Rules(), ElementsAre("tcp 192.0.2.2:80 > " + Local() + " to 6"));
  EXPECT_THAT(b_.Rules(), SizeIs(1));
  EXPECT_TRUE((*lease)->Check(100).ok());
  EXPECT_TRUE((*lease)->Check(200).ok());
  EXPECT_FALSE((*lease)->Check(101).ok());
  // None or all: what one member refuses, no other keeps.
  lease->reset();
  b_.refuse_ = absl::ResourceExhaustedError("no room");
  EXPECT_EQ(Steer(*steering, 0).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(a_.Rules(), IsEmpty());
}

TEST_F(FlowSteeringTest, OnlyTheNicsOfTheRouteNeedTheirBinding) {
  const auto steering = Make({&a_, &b_});
  ready_[1] = absl::FailedPreconditionError("eth1 lost its binding");
  EXPECT_TRUE(Steer(*steering, 0).ok()) << "by eth0";
  devices_ = {"eth1"};
  EXPECT_EQ(Steer(*steering, 0).status(), ready_[1]);
  EXPECT_EQ(Device(), "") << "still good for an ordinary connection";
  EXPECT_THAT(b_.Rules(), IsEmpty());
  devices_ = {"eth0", "eth1"};  // a bond: by the member that has it
  const auto lease = Steer(*steering, 2);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ((*lease)->queue(), 0);
  EXPECT_THAT(a_.Rules(), SizeIs(1));
  EXPECT_THAT(b_.Rules(), IsEmpty());
  ready_[1] = absl::OkStatus();
  devices_ = {"eth1"};
  EXPECT_TRUE(Steer(*steering, 0).ok()) << "it has it again";
}

TEST_F(FlowSteeringTest, SixToo) {
  const auto steering = Make({&a_});
  const auto lease = Steer(*steering, 0, "2001:db8::2");
  if (!lease.ok() && Text(lease.status()).find("bound to a local address") != std::string::npos) {
    GTEST_SKIP() << "no IPv6 on this machine's loopback interface";
  }
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_THAT(a_.Rules(), SizeIs(1));
  EXPECT_THAT(a_.Rules()[0], HasSubstr(Local()));
}

TEST_F(FlowSteeringTest, WhereNoBoundNicIsOnTheWayTheSocketStaysAsItWas) {
  const auto steering = Make({&a_, &b_});
  devices_ = {"eth7"};
  EXPECT_EQ(Steer(*steering, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Device(), "");
  local_ = true;
  EXPECT_EQ(Steer(*steering, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Steer(*steering, 3).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FlowSteeringTest, TheLastRuleIsNobodys) {
  a_.capacity_ = 3;
  const auto steering = Make({&a_});
  const auto first = Steer(*steering, 0), second = Steer(*steering, 1);
  ASSERT_TRUE(first.ok() && second.ok());
  const auto third = Steer(*steering, 0);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Text(third.status()), HasSubstr("2 are ours of the 3 that it has room for"));
  EXPECT_EQ(Device(), "") << "still good for an ordinary connection";
}

TEST_F(FlowSteeringTest, CheckReadsTheIdsAgainAfterAReset) {
  const auto steering = Make({&a_});
  const auto lease = Steer(*steering, 0);
  ASSERT_TRUE(lease.ok());
  EXPECT_TRUE((*lease)->Check(100).ok());
  const absl::Status wrong = (*lease)->Check(101);
  EXPECT_EQ(wrong.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Text(wrong), HasSubstr("packets came by NAPI 101, not by eth0 Rx queue 6 (NAPI 100)"));
  a_.state_.queues[0].napi_id = 500;
  EXPECT_TRUE((*lease)->Check(500).ok());
  EXPECT_FALSE((*lease)->Check(100).ok());
  EXPECT_FALSE((*lease)->Check(0).ok()) << "unknown";
}

TEST_F(FlowSteeringTest, ByAddressTheRulesAreThereOnce) {
  {
    const auto steering = Make({&a_}, {.mode = SteerMode::kAddress, .addresses = {"127.0.0.1", "127.0.0.2"}});
    const std::vector<std::string> rules = a_.Rules();
    ASSERT_THAT(rules, SizeIs(2));
    EXPECT_THAT(rules[0], testing::AllOf(HasSubstr("127.0.0.1"), HasSubstr("to 6")));
    EXPECT_THAT(rules[1], testing::AllOf(HasSubstr("127.0.0.2"), HasSubstr("to 7")));
    const auto lease = Steer(*steering, 1);
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_THAT(Local(), HasSubstr("127.0.0.2:"));
    EXPECT_EQ(a_.Rules(), rules) << "none for the connection";
    EXPECT_EQ(Steer(*steering, 0, "2001:db8::2").status().code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_THAT(a_.Rules(), IsEmpty());
}

TEST_F(FlowSteeringTest, AddressesUnderABondGetARuleOnEachMember) {
  devices_ = {"eth0", "eth1"};
  const auto steering = Make({&a_, &b_}, {.mode = SteerMode::kAddress, .addresses = {"127.0.0.1", "127.0.0.2", "127.0.0.3"}});
  EXPECT_THAT(a_.Rules(), SizeIs(3));
  EXPECT_THAT(b_.Rules(), SizeIs(3));
}

TEST_F(FlowSteeringTest, AddressesAreChecked) {
  struct {
    std::vector<std::string> addresses;
    const char* said;
  } const table[] = {
      {{"127.0.0.1"}, "1 addresses were given for 2 bound queues"},
      {{"127.0.0.1", "192.0.2.77"}, "no address of this host"},
      {{"127.0.0.1", "127.0.0.1"}, "given twice"},
      {{"127.0.0.1", "127.0.0.2/8"}, "no IPv4 or IPv6 address"},
      {{"127.0.0.1", "localhost"}, "no IPv4 or IPv6 address"},
  };
  for (const auto& row : table) {
    const auto steering = CreateFlowSteering({&a_}, {.mode = SteerMode::kAddress, .addresses = row.addresses}, Fake(), Ready());
    EXPECT_EQ(steering.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Text(steering.status()), HasSubstr(row.said));
    EXPECT_THAT(a_.Rules(), IsEmpty());
  }
  EXPECT_EQ(CreateFlowSteering({}, {}, Fake(), Ready()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FlowSteeringTest, TheInterfaceOfAnAddressIsFound) {
  EXPECT_EQ(InterfaceOf(Peer("127.0.0.1", 0)), "lo");
  EXPECT_EQ(InterfaceOf(Peer("192.0.2.77", 0)), "");
}

}  // namespace
}  // namespace devmem
