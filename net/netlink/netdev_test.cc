// SPDX-License-Identifier: Apache-2.0
// What any kernel with the netdev family can be asked. Bindings are tested in the guest (tests/guest/netlink).
#include "net/netlink/netdev.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>

#include <array>

#include "base/error.h"
#include "net/netlink/testing/own_namespace.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kNoInterface = 0x7ffffff0;

class NetdevTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = Netdev::Open();
    if (absl::IsUnimplemented(opened.status())) GTEST_SKIP() << Text(opened.status());
    ASSERT_TRUE(opened.ok()) << opened.status();
    netdev_ = std::move(*opened);
  }
  std::unique_ptr<Netdev> netdev_;
};

TEST_F(NetdevTest, LoopbackHasOneQueueOfHostMemory) {
  const auto queues = netdev_->RxQueues(::if_nametoindex("lo"));
  if (absl::IsUnimplemented(queues.status())) GTEST_SKIP() << Text(queues.status());
  ASSERT_TRUE(queues.ok()) << queues.status();
  ASSERT_EQ(queues->size(), 1U);
  EXPECT_EQ(queues->front().queue, 0U);
  EXPECT_EQ(queues->front().dmabuf, 0U);
  EXPECT_FALSE(queues->front().io_uring || queues->front().xsk);
}

TEST_F(NetdevTest, LoopbackHasNoPagePool) {
  const auto pools = netdev_->PagePools(::if_nametoindex("lo"));
  if (absl::IsUnimplemented(pools.status())) GTEST_SKIP() << Text(pools.status());
  ASSERT_TRUE(pools.ok()) << pools.status();
  EXPECT_TRUE(pools->empty());
  EXPECT_TRUE(netdev_->PagePools(0).ok());
}

TEST_F(NetdevTest, LoopbackHasNoStatistics) {
  EXPECT_EQ(netdev_->RxStats(::if_nametoindex("lo")).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(NetdevTest, NamesAnInterfaceThatIsNotThere) {
  const absl::Status status = netdev_->RxQueues(kNoInterface).status();
  if (absl::IsUnimplemented(status)) GTEST_SKIP() << Text(status);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(status), HasSubstr("interface 2147483632: cannot list its Rx queues: No such device"));
}

TEST_F(NetdevTest, SaysThatThereIsNoSuchNapi) {
  const absl::StatusOr<uint32_t> irq = netdev_->NapiIrq(4'000'000'000);
  if (absl::IsUnimplemented(irq.status())) GTEST_SKIP() << Text(irq.status());
  EXPECT_EQ(irq.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(irq.status()), HasSubstr("NAPI 4000000000: cannot read its interrupt"));
}

TEST_F(NetdevTest, AskedAgainAndAgain) {
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(netdev_->PagePools(0).ok());
    ASSERT_FALSE(netdev_->RxQueues(kNoInterface).ok());
  }
}

TEST(DmabufBinding, IsRefusedOnLoopback) {
  constexpr std::array<uint32_t, 2> kQueues = {1, 2};
  const absl::Status status = DmabufBinding::Bind("lo", ::if_nametoindex("lo"), -1, kQueues, 0).status();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(DmabufBinding::Bind("lo", 1, -1, {}, 0).status().code(), absl::StatusCode::kInvalidArgument);
  if (absl::IsUnimplemented(status) && GetErrorInfo(status).object != "lo") GTEST_SKIP() << Text(status);
  EXPECT_THAT(Text(status), HasSubstr("lo: cannot bind device memory to Rx queues 1, 2: "));
}

TEST(Netdev, SeesItsOwnNamespace) {
  InOwnNamespace([] {
    auto netdev = Netdev::Open();
    if (!netdev.ok()) GTEST_SKIP() << Text(netdev.status());
    const absl::Status made = MakeLink("netlink-v0", "veth");
    if (!made.ok()) GTEST_SKIP() << Text(made);
    const uint32_t index = ::if_nametoindex("netlink-v0");
    const auto queues = (*netdev)->RxQueues(index);
    ASSERT_TRUE(queues.ok()) << queues.status();
    EXPECT_TRUE(queues->empty()) << "queues of a link that is down are not listed";
  });
}

}  // namespace
}  // namespace devmem
