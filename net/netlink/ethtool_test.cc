// SPDX-License-Identifier: Apache-2.0
// What can be asked of software links. Header split, RSS and real drivers' quirks are tested in the guest
// (tests/guest/netlink).
#include "net/netlink/ethtool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "net/netlink/testing/own_namespace.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class EthtoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = Ethtool::Open();
    if (absl::IsUnimplemented(opened.status())) GTEST_SKIP() << Text(opened.status());
    ASSERT_TRUE(opened.ok()) << opened.status();
    ethtool_ = std::move(*opened);
  }
  std::unique_ptr<Ethtool> ethtool_;
};

TEST_F(EthtoolTest, LoopbackCannot) {
  EXPECT_EQ(ethtool_->GetRings("lo").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ethtool_->SetHeaderSplit("lo", HeaderSplit::kOn, 0).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ethtool_->GetChannels("lo").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ethtool_->Driver("lo").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ethtool_->GetRss("lo").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(ethtool_->ResetRss("lo").ok());
}

TEST_F(EthtoolTest, TheKernelsWordsArrive) {
  const absl::Status status = ethtool_->GetRings("no-such-nic").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(status),
              StartsWith("no-such-nic: cannot read its rings: no device matches name (attribute 1 of the request"));
  EXPECT_EQ(CauseText(status), "no device matches name");
  EXPECT_THAT(GetErrorInfo(status).action, HasSubstr("ip link"));
  EXPECT_EQ(ethtool_->Driver("no-such-nic").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ethtool_->Driver("a-name-longer-than-names-are").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(EthtoolTest, FeaturesThatLoopbackHas) {
  const auto split = ethtool_->GetFeature("lo", "rx-ntuple-filter");
  ASSERT_TRUE(split.ok()) << split.status();
  EXPECT_TRUE(split->fixed);
  EXPECT_FALSE(split->active);
  EXPECT_TRUE(ethtool_->GetFeature("lo", "loopback")->active);
  EXPECT_EQ(ethtool_->GetFeature("lo", "teleport").status().code(), absl::StatusCode::kNotFound);
}

TEST(Ethtool, SetsWhatAVirtualLinkCan) {
  InOwnNamespace([] {
    auto opened = Ethtool::Open();
    if (!opened.ok()) GTEST_SKIP() << Text(opened.status());
    Ethtool& ethtool = **opened;
    const absl::Status made = MakeLink("netlink-v0", "veth");
    if (!made.ok()) GTEST_SKIP() << Text(made);
    EXPECT_EQ(*ethtool.Driver("netlink-v0"), "veth");
    const auto channels = ethtool.GetChannels("netlink-v0");
    ASSERT_TRUE(channels.ok()) << channels.status();
    EXPECT_GE(channels->rx_queues(), 1U);

    for (const bool on : {true, false, false}) {
      ASSERT_TRUE(ethtool.SetFeature("netlink-v0", "rx-gro", on).ok());
      EXPECT_EQ(ethtool.GetFeature("netlink-v0", "rx-gro")->active, on);
    }
    const absl::Status fixed = ethtool.SetFeature("netlink-v0", "rx-ntuple-filter", true);
    EXPECT_EQ(fixed.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Text(fixed), HasSubstr("cannot turn feature rx-ntuple-filter on: the driver has it fixed"));
    EXPECT_EQ(ethtool.SetFeature("netlink-v0", "teleport", true).code(), absl::StatusCode::kNotFound);
  });
}

}  // namespace
}  // namespace devmem
