// SPDX-License-Identifier: Apache-2.0
// BindingWatch on a binding of a NIC of our own (testing/fake_nic.h), by a clock of our own.
#include "net/rx/binding_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "base/testing/temporary_folder.h"
#include "net/rx/rx_binding_on.h"
#include "net/rx/testing/fake_nic.h"

namespace devmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class BindingWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto binding = CreateRxBinding(
        nic_.Kernel(), {.interface = "eth0", .queues = {6, 7}, .dmabuf_fd = 99, .journal_folder = TemporaryFolder("watch")});
    ASSERT_TRUE(binding.ok()) << binding.status();
    binding_ = *std::move(binding);
    watch_ = std::make_unique<BindingWatch>(
        *binding_,
        [this] {
          ++rebinds_;
          return binding_->Rebind(99);
        },
        [this](Severity severity, std::string_view line) {
          (severity == Severity::kWarning ? warned_ : told_).emplace_back(line);
        });
    ASSERT_TRUE(LookAfter(Duration{}));
  }
  // Whether its queues are bound then.
  bool LookAfter(Duration duration) {
    now_ += duration;
    return watch_->Look(now_).ready.ok();
  }
  void ResetRss() { nic_.rss = nic_.rss_default; }

  FakeNic nic_;
  std::unique_ptr<RxBinding> binding_;
  std::unique_ptr<BindingWatch> watch_;
  Time now_ = Clock::now();
  int rebinds_ = 0;
  std::vector<std::string> warned_, told_;
};

TEST_F(BindingWatchTest, WhatIsLostIsMendedAtOnce) {
  ResetRss();
  EXPECT_TRUE(LookAfter(milliseconds(100)));
  EXPECT_TRUE(binding_->Look()->intact);
  EXPECT_EQ(rebinds_, 1);
  EXPECT_THAT(told_, ElementsAre(HasSubstr("bound eth0 again after: the RSS table leads to bound queues")));
  EXPECT_THAT(warned_, IsEmpty());
}

TEST_F(BindingWatchTest, WhatAnotherToolSetsAgainIsItsOwn) {
  for (int i = 0; i < 25; ++i) {
    ResetRss();
    EXPECT_EQ(LookAfter(milliseconds(600)), i == 0) << i;
    if (i > 0) {
      EXPECT_EQ(nic_.rss, nic_.rss_default) << "it stays";
    }
  }
  EXPECT_EQ(rebinds_, 1);
  EXPECT_THAT(warned_, ElementsAre(AllOf(HasSubstr("the RSS table leads to bound queues"), HasSubstr("given up"))));
  for (const RxQueueState& queue : nic_.queues) EXPECT_EQ(queue.dmabuf, 0) << "it would take the traffic of others";
  nic_.rss = {0, 1, 2, 3};
  const auto seen = watch_->Look(now_ + std::chrono::hours(1));
  EXPECT_THAT(Text(seen.ready), HasSubstr("given up until the next start"));
  EXPECT_EQ(rebinds_, 1);
  EXPECT_THAT(warned_, SizeIs(1)) << "said once";
}

TEST_F(BindingWatchTest, RulesArePutInAgainHoweverOftenTheyGo) {
  FlowMatch match;
  match.source.ss_family = match.destination.ss_family = AF_INET;
  ASSERT_TRUE(binding_->AddRule(match, 0).ok());
  for (int i = 0; i < 10; ++i) {
    nic_.rule_table.clear();
    EXPECT_TRUE(LookAfter(BindingWatch::kRebindMost)) << i;
    EXPECT_THAT(nic_.rule_table, SizeIs(1));
  }
  EXPECT_THAT(warned_, IsEmpty());
}

TEST_F(BindingWatchTest, AMendingThatWasNeverSeenToHoldIsAFightToo) {
  ResetRss();
  EXPECT_TRUE(LookAfter(milliseconds(100)));
  ResetRss();  // before the next look
  EXPECT_FALSE(LookAfter(milliseconds(100)));
  EXPECT_EQ(rebinds_, 1);
}

TEST_F(BindingWatchTest, AMinuteLaterIsAnotherTime) {
  for (int i = 0; i < 3; ++i) {
    ResetRss();
    EXPECT_TRUE(LookAfter(seconds(1))) << i;
    EXPECT_TRUE(LookAfter(BindingWatch::kSettled)) << i;
  }
  EXPECT_EQ(rebinds_, 3);
  EXPECT_THAT(warned_, IsEmpty());
}

TEST_F(BindingWatchTest, AnotherKindOfLossIsMendedToo) {
  ResetRss();
  EXPECT_TRUE(LookAfter(milliseconds(100)));
  nic_.split_set = HeaderSplit::kOff;
  EXPECT_TRUE(LookAfter(milliseconds(200)));
  EXPECT_EQ(rebinds_, 2);
  nic_.split_set = HeaderSplit::kOff;
  EXPECT_FALSE(LookAfter(milliseconds(400)));
  EXPECT_EQ(rebinds_, 2);
}

TEST_F(BindingWatchTest, TriesComeMoreAndMoreSeldomAndAreToldOnce) {
  nic_.Unbind(binding_->dmabuf_id());
  nic_.up = false;
  std::vector<int64_t> tries;
  for (int64_t at = 100; at < 100'000; at += 100) {
    const int before = rebinds_;
    EXPECT_FALSE(LookAfter(milliseconds(100)));
    if (rebinds_ > before) tries.push_back(at);
  }
  EXPECT_THAT(tries, ElementsAre(100, 300, 700, 1500, 3100, 6300, 12700, 25500, 51100, 81100));
  EXPECT_THAT(warned_, ElementsAre(HasSubstr("the link is down")));
  nic_.up = true;
  EXPECT_TRUE(LookAfter(BindingWatch::kRebindMost));
  // The back-off is that of before until it has held.
  nic_.Unbind(binding_->dmabuf_id());
  nic_.queues[6].dmabuf = 42;
  EXPECT_FALSE(LookAfter(seconds(1)));
  EXPECT_EQ(rebinds_, 11);
}

TEST_F(BindingWatchTest, BuffersOnTheirWayBackNeedNobody) {
  nic_.looks_until_free = 1 << 20;
  nic_.Unbind(binding_->dmabuf_id());
  EXPECT_FALSE(LookAfter(milliseconds(100)));
  EXPECT_FALSE(LookAfter(milliseconds(200)));
  EXPECT_THAT(warned_, IsEmpty());
  EXPECT_THAT(told_, ElementsAre(HasSubstr("are not back yet")));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(LookAfter(BindingWatch::kRebindMost));
  EXPECT_THAT(warned_, ElementsAre(HasSubstr("are not back yet"))) << "but not for ever";
  nic_.looks_until_free = 0;
  nic_.pools.clear();
  EXPECT_TRUE(LookAfter(BindingWatch::kRebindMost));
}

TEST_F(BindingWatchTest, WhatComesInTheNicsPlaceIsUsed) {
  ResetRss();
  EXPECT_TRUE(LookAfter(milliseconds(100)));
  ResetRss();
  EXPECT_FALSE(LookAfter(milliseconds(100)));
  for (int i = 0; i < 2; ++i) {
    nic_.there = false;
    EXPECT_FALSE(LookAfter(seconds(1)));
    nic_ = FakeNic();
    nic_.remade = static_cast<uint32_t>(i) + 1;
    nic_.next_dmabuf = 20 + static_cast<uint32_t>(i);
    EXPECT_TRUE(LookAfter(seconds(5))) << i;
  }
}

}  // namespace
}  // namespace devmem
