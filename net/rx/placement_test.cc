// SPDX-License-Identifier: Apache-2.0
#include "net/rx/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/testing/temporary_folder.h"
#include "net/rx/placement_on.h"
#include "net/rx/testing/fake_nic.h"

namespace devmem {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
namespace fs = std::filesystem;

// Several FakeNics as one kernel; reading only.
class ManyNics final : public RxKernel, private Netdev, private Ethtool, private FlowRules {
 public:
  FakeNic& Add(const std::string& name) {
    FakeNic& nic = nics_[name];
    nic.name = name;
    nic.ifindex = static_cast<uint32_t>(nics_.size());
    return nic;
  }
  std::vector<std::string> Interfaces() override {
    std::vector<std::string> names = {"lo"};
    for (const auto& [name, nic] : nics_) names.push_back(name);
    return names;
  }

  Netdev& netdev() override { return *this; }
  Ethtool& ethtool() override { return *this; }
  FlowRules& rules() override { return *this; }
  absl::StatusOr<Link> FindLink(const std::string& name) override { return At(name).FindLink(name); }
  absl::StatusOr<Link> FindLink(uint32_t ifindex) override { return At(ifindex).FindLink(ifindex); }
  absl::StatusOr<std::unique_ptr<Bound>> Bind(const Link&, int, std::span<const uint32_t>, uint32_t,
                                              const ResetAtEnd&) override {
    return Never();
  }
  absl::StatusOr<std::unique_ptr<Bound>> Adopt(UniqueFd, bool, uint32_t) override { return Never(); }
  void FreeDeferred() override {}
  void Pause(Duration) override {}

 private:
  FakeKernel At(const std::string& name) { return FakeKernel(nics_.at(name)); }
  FakeKernel At(uint32_t ifindex) {
    for (auto& [name, nic] : nics_) {
      if (nic.ifindex == ifindex) return FakeKernel(nic);
    }
    return FakeKernel(nics_.begin()->second);
  }
  static absl::Status Never() {
    ADD_FAILURE() << "placement changes nothing";
    return absl::InternalError("placement changes nothing");
  }
  absl::StatusOr<uint32_t> NapiIrq(uint32_t) override { return 0; }
  absl::StatusOr<std::vector<RxQueueState>> RxQueues(uint32_t i) override { return At(i).netdev().RxQueues(i); }
  absl::StatusOr<std::vector<PagePoolState>> PagePools(uint32_t i) override { return At(i).netdev().PagePools(i); }
  absl::StatusOr<std::vector<RxQueueStats>> RxStats(uint32_t i) override { return At(i).netdev().RxStats(i); }
  absl::StatusOr<std::string> Driver(const std::string& n) override { return At(n).ethtool().Driver(n); }
  absl::StatusOr<NicIdentity> Identity(const std::string& n) override { return At(n).ethtool().Identity(n); }
  absl::StatusOr<Rings> GetRings(const std::string& n) override { return At(n).ethtool().GetRings(n); }
  absl::Status SetHeaderSplit(const std::string&, HeaderSplit, std::optional<uint32_t>) override { return Never(); }
  absl::StatusOr<Channels> GetChannels(const std::string& n) override { return At(n).ethtool().GetChannels(n); }
  absl::StatusOr<Feature> GetFeature(const std::string& n, const std::string& name) override {
    return At(n).ethtool().GetFeature(n, name);
  }
  absl::Status SetFeature(const std::string&, const std::string&, bool) override { return Never(); }
  absl::StatusOr<RssTable> GetRss(const std::string& n, uint32_t context) override {
    return At(n).ethtool().GetRss(n, context);
  }
  absl::StatusOr<std::vector<uint32_t>> RssContexts(const std::string& n) override { return At(n).ethtool().RssContexts(n); }
  absl::Status SetRss(const std::string&, const RssTable&) override { return Never(); }
  absl::Status ResetRss(const std::string&) override { return Never(); }
  absl::StatusOr<RuleBudget> Budget(const std::string& n) override {
    if (nics_.at(n).rule_room == 0) return absl::UnimplementedError("no rules");
    return At(n).rules().Budget(n);
  }
  absl::StatusOr<std::vector<FlowRule>> List(const std::string& n) override { return At(n).rules().List(n); }
  absl::StatusOr<uint32_t> Insert(const std::string&, const FlowMatch&, uint32_t) override { return Never(); }
  absl::Status Delete(const std::string&, uint32_t, const FlowMatch&, uint32_t) override { return Never(); }

  std::map<std::string, FakeNic> nics_;
};

class PlacementTest : public ::testing::Test {
 protected:
  // A PCI device in our sysfs; as an interface, if named.
  void Device(const std::string& path, const std::string& interface, const std::string& node) {
    const fs::path device = sysfs_ / "devices" / path;
    fs::create_directories(device);
    std::ofstream(device / "numa_node") << node << "\n";
    fs::create_directories(sysfs_ / "bus/pci/devices");
    fs::create_directory_symlink(device, sysfs_ / "bus/pci/devices" / device.filename());
    if (interface.empty()) return;
    fs::create_directories(sysfs_ / "class/net" / interface);
    fs::create_directory_symlink(device, sysfs_ / "class/net" / interface / "device");
  }
  absl::StatusOr<Placement> Choose(const PlacementRequest& request) {
    return ChoosePlacementOn({.kernel = kernel_,
                              .physical_devices = [](const std::string& name) -> absl::StatusOr<std::vector<std::string>> {
                                if (name == "bond0") return std::vector<std::string>{"eth0", "eth1"};
                                if (name == "lo") return absl::FailedPreconditionError("loopback");
                                return std::vector<std::string>{name};
                              },
                              .sysfs = sysfs_},
                             request);
  }
  fs::path sysfs_ = TemporaryFolder("sysfs");
  ManyNics kernel_;
};

TEST_F(PlacementTest, TheNearestByPcieThenByNode) {
  struct {
    const char* description;
    std::array<const char*, 2> paths, nodes;  // of eth0 and eth1
    const char* chosen;
  } const table[] = {
      {"eth1 under the GPU's switch",
       {"pci0000:3a/0000:3a:02.0/0000:60:00.0", "pci0000:3a/0000:3a:00.0/0000:3b:08.0/0000:3d:00.0"},
       {"0", "0"},
       "eth1"},
      {"eth0 under the GPU's root, eth1 elsewhere",
       {"pci0000:3a/0000:3a:02.0/0000:60:00.0", "pci0000:90/0000:90:00.0/0000:91:00.0"},
       {"0", "0"},
       "eth0"},
      {"as far, but the GPU's node",
       {"pci0000:90/0000:90:00.0/0000:91:00.0", "pci0000:50/0000:50:00.0/0000:51:00.0"},
       {"1", "0"},
       "eth1"},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.description);
    fs::remove_all(sysfs_);
    Device("pci0000:3a/0000:3a:00.0/0000:3b:04.0/0000:3c:00.0", "", "0");
    for (const int i : {0, 1}) {
      kernel_.Add("eth" + std::to_string(i));
      Device(row.paths[i], "eth" + std::to_string(i), row.nodes[i]);
    }
    const auto placement = Choose({.queues = 2, .near_pci = "0000:3c:00.0"});
    ASSERT_TRUE(placement.ok()) << placement.status();
    ASSERT_THAT(placement->nics, SizeIs(1));
    EXPECT_EQ(placement->nics[0].interface, row.chosen);
    EXPECT_THAT(placement->nics[0].queues, ElementsAre(6, 7));
    EXPECT_THAT(placement->notes, Contains(HasSubstr("PCIe steps from 0000:3c:00.0")).Times(2));
    EXPECT_THAT(placement->notes, Contains(std::string(row.chosen) + ": chosen: the nearest"));
  }
}

TEST_F(PlacementTest, AGpuThatIsNotThereIsAnError) {
  kernel_.Add("eth0");
  EXPECT_EQ(Choose({.near_pci = "0000:ff:00.0"}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PlacementTest, OnlyTheFitAreChosenAndEachHasItsReason) {
  kernel_.Add("eth0").up = false;
  kernel_.Add("eth1").splits = false;
  kernel_.Add("eth2").queues = FakeNic::MakeQueues(1);
  kernel_.Add("eth3").rule_room = 0;
  FakeNic& used = kernel_.Add("eth4");
  for (uint32_t queue = 1; queue < 8; ++queue) used.queues[queue].dmabuf = 5;
  const auto none = Choose({});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  for (const char* why : {"eth0: the link is down", "eth1: its driver knows no header split", "eth2: it has one Rx queue",
                          "eth3: its driver takes no ntuple rules", "eth4: others use all its queues but 0"}) {
    EXPECT_THAT(Text(none.status()), HasSubstr(why));
  }
  kernel_.Add("eth5");
  const auto placement = Choose({});
  ASSERT_TRUE(placement.ok());
  EXPECT_EQ(placement->nics[0].interface, "eth5");
  EXPECT_THAT(placement->nics[0].queues, ElementsAre(7));
}

TEST_F(PlacementTest, TheHighestQueuesThatNobodyUsesAndNever0) {
  FakeNic& nic = kernel_.Add("eth0");
  nic.queues = FakeNic::MakeQueues(6);
  nic.queues[5].dmabuf = 5;
  nic.contexts[1] = {3};
  nic.rule_table = {{.location = 9, .ring_cookie = 2}};
  const auto placement = Choose({.interfaces = {"eth0"}, .queues = 8});
  ASSERT_TRUE(placement.ok());
  EXPECT_THAT(placement->nics[0].queues, ElementsAre(1, 4));
  EXPECT_THAT(placement->notes, Contains(HasSubstr("queue 5 is left out: dma-buf 5")));
  EXPECT_THAT(placement->notes, Contains(HasSubstr("queue 3 is left out: RSS context 1")));
  EXPECT_THAT(placement->notes, Contains(HasSubstr("queue 2 is left out: the ntuple rule at location 9")));
}

TEST_F(PlacementTest, ABondStandsForItsMembersOnce) {
  kernel_.Add("eth0");
  kernel_.Add("eth1");
  const auto placement = Choose({.interfaces = {"bond0", "eth0"}});
  ASSERT_TRUE(placement.ok());
  ASSERT_THAT(placement->nics, SizeIs(2));
  EXPECT_EQ(placement->nics[1].interface, "eth1");
  kernel_.Add("eth1").up = false;
  EXPECT_THAT(Text(Choose({.interfaces = {"bond0"}}).status()), HasSubstr("eth1: the link is down"));
}

TEST_F(PlacementTest, NoQueuesIsNoRequest) {
  EXPECT_EQ(Choose({.queues = 0}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace devmem
