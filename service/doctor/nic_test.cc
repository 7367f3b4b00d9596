// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/nic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <functional>

#include "base/error.h"
#include "net/rx/testing/fake_nic.h"

namespace devmem::doctor {
namespace {

using ::testing::HasSubstr;

const NicNeeds kNeeds{.queues = 2, .connections = 4};

// A NIC that lacks nothing, beside what RxKernel tells of it.
struct Stage {
  FakeNic nic;
  LinkFacts told{.mtu = 9000, .driver = "bnxt_en", .firmware = "229.1", .bus = "0000:3b:00.0"};
  absl::Status bind =
      MakeError(absl::StatusCode::kInvalidArgument, "cannot bind", {.error_number = EBADF, .cause = "Bad file descriptor"});

  Rows Look() {
    const std::unique_ptr<RxKernel> kernel = nic.Kernel();
    const NicHost host{.kernel = *kernel,
                       .look = [this](const std::string&) { return told; },
                       .bind_nothing = [this](const Link&, uint32_t) { return bind; }};
    return NicRows(LookAtNic(host, nic.name), kNeeds);
  }
};

TEST(NicRows, AllIsWell) {
  Stage stage;
  for (const Row& row : stage.Look()) {
    EXPECT_EQ(row.verdict, Verdict::kPass) << row.check << ": " << row.found;
    EXPECT_EQ(row.object, "eth0");
    EXPECT_NE(row.wanted, "") << row.check;
  }
  EXPECT_EQ(stage.nic.calls, std::vector<std::string>()) << "looking changes nothing";
}

FlowRule To(uint32_t queue, uint32_t location) { return {.location = location, .exact = true, .ring_cookie = queue}; }

TEST(NicRows, EachFaultIsItsOwnRowsAlone) {
  const struct {
    const char* check;
    Verdict verdict;
    std::function<void(Stage&)> provoke;
    const char* found;
    const char* fix;
  } kRows[] = {
      {"driver", Verdict::kWarn, [](Stage& s) { s.told.driver = "virtio_net"; }, "virtio_net, firmware 229.1", "--canary"},
      {"driver", Verdict::kWarn, [](Stage& s) { s.told = {.mtu = 9000}; }, "none is told", ""},
      {"mtu", Verdict::kWarn, [](Stage& s) { s.told.mtu = 4167; }, "4167", "ip link set eth0 mtu 9000"},
      {"mtu", Verdict::kFail, [](Stage& s) { s.told.mtu = 576; }, "576", "ip link set eth0 mtu 9000"},
      {"xdp", Verdict::kFail, [](Stage& s) { s.told.xdp = true; }, "an XDP program", "ip link set eth0 xdp off"},
      {"header-split", Verdict::kFail, [](Stage& s) { s.nic.splits = false; }, "no tcp-data-split", "another NIC"},
      {"ntuple", Verdict::kWarn,
       [](Stage& s) {
         s.nic.features["rx-ntuple-filter"] = {false, false};
       },
       "off", "ethtool -K eth0 ntuple on"},
      {"ntuple", Verdict::kFail,
       [](Stage& s) {
         s.nic.features["rx-ntuple-filter"] = {false, true};
       },
       "cannot turn it on", ""},
      {"rules", Verdict::kFail, [](Stage& s) { s.nic.rule_room = 1, s.nic.rule_table = {To(0, 0)}; },
       "0 free of 1: the rule table is full", "ethtool -N"},
      {"rules", Verdict::kWarn, [](Stage& s) { s.nic.rule_room = 7; }, "7 free of 7", "--steer address"},
      {"queues", Verdict::kWarn,
       [](Stage& s) { s.nic.rule_table = {To(2, 0), To(3, 1), To(4, 2), To(5, 3), To(6, 4), To(7, 5)}; },
       "1 free of 8; queue 2: the ntuple rule at location 0 leads to it", "ethtool -L eth0 combined 9"},
      {"queues", Verdict::kFail, [](Stage& s) { s.nic.contexts[1] = {1, 2, 3, 4, 5, 6, 7}; },
       "0 free of 8; queue 1: RSS context 1 leads", ""},
      {"rss", Verdict::kWarn,
       [](Stage& s) {
         s.nic.rss = {6, 7};
       },
       "moves it off 6,7, all that it leads to", "ethtool -X eth0 default"},
      {"bind", Verdict::kFail,
       [](Stage& s) { s.bind = MakeError(absl::StatusCode::kUnimplemented, "no memory provider", {.action = "another"}); },
       "no memory provider", "another"},
      {"bind", Verdict::kSkip, [](Stage& s) { s.bind = absl::PermissionDeniedError("not permitted"); }, "not permitted",
       "run as root"},
  };
  for (const auto& row : kRows) {
    Stage stage;
    row.provoke(stage);
    for (const Row& told : stage.Look()) {
      if (told.check != row.check) {
        EXPECT_EQ(told.verdict, Verdict::kPass) << row.check << " provoked, " << told.check << ": " << told.found;
        continue;
      }
      EXPECT_EQ(told.verdict, row.verdict) << row.check << ": " << told.found;
      EXPECT_THAT(told.found, HasSubstr(row.found)) << row.check;
      EXPECT_THAT(told.fix, HasSubstr(row.fix)) << row.check;
    }
  }
}

TEST(NicRows, ALinkThatIsDownHasNoQueuesToAskFor) {
  Stage stage;
  stage.nic.up = false;
  stage.nic.queues.clear();
  for (const Row& row : stage.Look()) {
    if (row.check == "link") {
      EXPECT_EQ(row.verdict, Verdict::kFail);
      EXPECT_EQ(row.fix, "ip link set eth0 up");
    }
    if (row.check == "queues" || row.check == "bind") {
      EXPECT_EQ(row.verdict, Verdict::kSkip) << row.found;
    }
  }
}

TEST(NicRows, HeaderSplitThatIsOffIsTurnedOnByTheDaemonUnlessItsConditionIsNot) {
  Stage stage;
  const auto split = [&stage] {
    const Rows rows = stage.Look();
    return *std::find_if(rows.begin(), rows.end(), [](const Row& row) { return row.check == "header-split"; });
  };
  EXPECT_THAT(split().found, HasSubstr("off now; the daemon turns it on"));
  stage.nic.features["rx-gro-hw"] = {false, true};
  EXPECT_EQ(split().verdict, Verdict::kPass);
  stage.told.driver = "mlx5_core";
  EXPECT_EQ(split().verdict, Verdict::kFail);
  EXPECT_THAT(split().found, HasSubstr("rx-gro-hw"));
  stage.nic.split_set = HeaderSplit::kOn;
  EXPECT_EQ(split().found, "on");
}

TEST(NicRows, WithoutANicTheSameChecksAreSkipped) {
  Stage stage;
  const Rows looked = stage.Look(), none = NoNicRows("eth9", "there is none");
  ASSERT_EQ(looked.size(), none.size());
  for (size_t i = 0; i < none.size(); ++i) {
    EXPECT_EQ(none[i], (Row{.check = looked[i].check, .object = "eth9", .verdict = Verdict::kSkip, .found = "there is none"}));
  }
}

}  // namespace
}  // namespace devmem::doctor
