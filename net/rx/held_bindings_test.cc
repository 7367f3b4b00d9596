// SPDX-License-Identifier: Apache-2.0
// Putting together what a NIC of our own (testing/fake_nic.h), handles and journals tell; against a real kernel:
// tests/guest/e2e/bindings_test.py.
#include "net/rx/held_bindings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "net/rx/testing/fake_nic.h"

namespace devmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Memory = ListedBinding::Memory;
using State = ListedBinding::State;

constexpr uint64_t kPage = 65536;

class HeldBindingsTest : public ::testing::Test {
 protected:
  // As if somebody had bound dma-buf `id` to queues of the NIC.
  void Bind(uint32_t id, const std::vector<uint32_t>& queues) {
    for (const uint32_t queue : queues) {
      nic_.queues[queue].dmabuf = id;
      nic_.pools.push_back(
          {.id = 100 + queue, .ifindex = nic_.ifindex, .inflight = 256, .inflight_bytes = 256 * kPage, .dmabuf = id});
    }
  }

  void AddRule(uint32_t queue) {
    nic_.rule_table.push_back({.location = static_cast<uint32_t>(nic_.rule_table.size()), .exact = true, .ring_cookie = queue});
  }

  [[nodiscard]] RxJournal Journal(int64_t pid, uint32_t dmabuf) const {
    RxJournal journal = self_;
    journal.pid = pid;
    journal.interface = nic_.name;
    journal.ifindex = nic_.ifindex;
    journal.nic = {nic_.driver, "0000:00:07.0", nic_.permanent_mac};
    journal.queues = {6, 7};
    journal.dmabuf = dmabuf;
    return journal;
  }

  HeldBindings List() {
    const auto kernel = nic_.Kernel();
    return PutTogether(*kernel, {.self = self_, .handles = handles_, .journals = journals_});
  }

  // The only one there is, and nothing that could not be read.
  ListedBinding Only() {
    const HeldBindings held = List();
    EXPECT_THAT(held.unread, IsEmpty());
    EXPECT_THAT(held.notes, IsEmpty());
    EXPECT_THAT(held.bindings, SizeIs(1));
    return held.bindings.empty() ? ListedBinding{} : held.bindings[0];
  }

  FakeNic nic_;
  RxJournal self_{.pid = 1, .pid_namespace = 50, .boot_id = "this boot", .netns = 60};
  absl::StatusOr<std::vector<HeldHandle>> handles_ = absl::UnimplementedError("not loaded");
  absl::StatusOr<std::vector<SeenJournal>> journals_ = absl::NotFoundError("no folder");
};

TEST_F(HeldBindingsTest, NothingIsHeld) {
  HeldBindings held = List();
  EXPECT_THAT(held.bindings, IsEmpty());
  EXPECT_THAT(held.unread, IsEmpty()) << "neither module nor folder must be";
  EXPECT_FALSE(held.module_loaded);
  handles_ = std::vector<HeldHandle>{};
  journals_ = std::vector<SeenJournal>{};
  held = List();
  EXPECT_THAT(held.bindings, IsEmpty());
  EXPECT_TRUE(held.module_loaded);
}

TEST_F(HeldBindingsTest, SomeoneElsesHasNoProcess) {
  Bind(11, {6, 7});
  for (const uint32_t queue : {6, 7, 7, 3}) AddRule(queue);
  const ListedBinding held = Only();
  EXPECT_EQ(held.interface, "eth0");
  EXPECT_EQ(held.ifindex, 7);
  EXPECT_THAT(held.queues, ElementsAre(6, 7));
  EXPECT_EQ(held.memory, Memory::kDmabuf);
  EXPECT_EQ(held.dmabuf, 11);
  EXPECT_EQ(held.page_size, kPage) << "from what the pools say";
  EXPECT_EQ(held.inflight, 512);
  EXPECT_EQ(held.rules, 3);
  EXPECT_EQ(held.state, State::kLive);
  EXPECT_FALSE(held.handle || held.process);
  EXPECT_EQ(held.journal, "");
}

TEST_F(HeldBindingsTest, OursIsKnownByItsJournalWhetherItsProcessLivesOrNot) {
  Bind(11, {6, 7});
  for (const bool lives : {true, false}) {
    journals_ = std::vector<SeenJournal>{{"/run/rx.json", lives, Journal(77, 11)}};
    const ListedBinding held = Only();
    EXPECT_EQ(held.state, State::kLive) << "the kernel has it bound";
    EXPECT_EQ(held.process, (ListedBinding::Process{.pid = 77, .lives = lives}));
    EXPECT_EQ(held.journal, "/run/rx.json");
  }
}

TEST_F(HeldBindingsTest, AProcessOfAContainerHasANumberOfItsOwn) {
  Bind(11, {6, 7});
  RxJournal journal = Journal(1, 11);
  journal.pid_namespace = 51;
  journals_ = std::vector<SeenJournal>{{"/run/rx.json", true, journal}};
  EXPECT_EQ(Only().process, (ListedBinding::Process{.pid = 1, .lives = true, .of_other_namespace = true}));
}

TEST_F(HeldBindingsTest, AHandleIsFoundByItsDmabuf) {
  Bind(11, {6, 7});
  AddRule(6);
  handles_ = std::vector<HeldHandle>{{.id = 3,
                                      .ifindex = 7,
                                      .dmabuf = 11,
                                      .page_size = 4096,
                                      .queues = {6, 7},
                                      .resets_rss = true,
                                      .rules = 5,
                                      .creator_pid = 88}};
  const ListedBinding held = Only();
  EXPECT_EQ(held.interface, "eth0");
  EXPECT_EQ(held.handle, 3);
  EXPECT_EQ(held.page_size, 4096) << "as the module has it";
  EXPECT_EQ(held.rules, 5) << "its own";
  EXPECT_EQ(held.inflight, 512);
  EXPECT_EQ(held.state, State::kLive);
  EXPECT_EQ(held.process, (ListedBinding::Process{.pid = 88, .lives = true}));
  EXPECT_TRUE(held.resets_rss);
  EXPECT_FALSE(held.resets_split);
}

TEST_F(HeldBindingsTest, AHandleWithoutItsCreatorIsTheJournalsWriters) {
  Bind(11, {6, 7});
  handles_ = std::vector<HeldHandle>{{.id = 3, .ifindex = 7, .dmabuf = 11, .page_size = 4096, .queues = {6, 7}}};
  EXPECT_FALSE(Only().process.has_value());
  journals_ = std::vector<SeenJournal>{{"/run/rx.json", true, Journal(77, 11)}};
  const ListedBinding held = Only();
  EXPECT_EQ(held.handle, 3);
  EXPECT_EQ(held.process, (ListedBinding::Process{.pid = 77, .lives = true}));
  EXPECT_EQ(held.journal, "/run/rx.json");
}

TEST_F(HeldBindingsTest, AHandleTellsItsQueuesWhileTheLinkIsDown) {
  nic_.queues.clear();  // as the kernel lists those of a link that is down
  handles_ = std::vector<HeldHandle>{{.id = 3, .ifindex = 7, .dmabuf = 11, .page_size = 4096, .queues = {6, 7}}};
  const ListedBinding held = Only();
  EXPECT_EQ(held.interface, "eth0");
  EXPECT_THAT(held.queues, ElementsAre(6, 7));
  EXPECT_EQ(held.state, State::kLive);
}

TEST_F(HeldBindingsTest, AHandleOfADeviceThatIsGoneStandsAlone) {
  // The NIC's number is another's by now, which has something bound itself; a reader still has bytes of the old one.
  Bind(12, {7});
  nic_.pools.push_back({.id = 1, .ifindex = 0, .inflight = 4, .inflight_bytes = 16384, .dmabuf = 11, .detached = true});
  handles_ = std::vector<HeldHandle>{
      {.id = 3, .ifindex = 7, .dmabuf = 11, .page_size = 4096, .queues = {6}, .gone = true, .creator_pid = 88}};
  const HeldBindings held = List();
  ASSERT_THAT(held.bindings, SizeIs(2));
  const ListedBinding& gone = held.bindings[0];
  EXPECT_EQ(gone.interface, "");
  EXPECT_EQ(gone.ifindex, 7);
  EXPECT_EQ(gone.state, State::kGone);
  EXPECT_EQ(gone.handle, 3);
  EXPECT_THAT(gone.queues, ElementsAre(6));
  EXPECT_EQ(gone.inflight, 4);
  EXPECT_EQ(held.bindings[1].dmabuf, 12);
  EXPECT_FALSE(held.bindings[1].handle.has_value());
}

TEST_F(HeldBindingsTest, ADeadProcesssJournalIsLeftForTheNextStart) {
  AddRule(6);
  journals_ = std::vector<SeenJournal>{{"/run/rx.json", false, Journal(77, 11)}};
  const ListedBinding held = Only();
  EXPECT_EQ(held.state, State::kLeft);
  EXPECT_EQ(held.memory, Memory::kNone);
  EXPECT_EQ(held.dmabuf, 0) << "it is bound no more";
  EXPECT_THAT(held.queues, ElementsAre(6, 7));
  EXPECT_EQ(held.rules, 1) << "still leads there";
  EXPECT_EQ(held.process, (ListedBinding::Process{.pid = 77, .lives = false}));
  EXPECT_EQ(held.journal, "/run/rx.json");
}

TEST_F(HeldBindingsTest, ALivingProcessMayHaveNothingBound) {
  for (const uint32_t dmabuf : {0U, 11U}) {  // it sets up; a reset took it off
    journals_ = std::vector<SeenJournal>{{"/run/rx.json", true, Journal(77, dmabuf)}};
    EXPECT_EQ(Only().state, State::kUnbound) << dmabuf;
  }
}

TEST_F(HeldBindingsTest, BuffersThatAreOutAfterTheEndAreListed) {
  Bind(11, {6, 7});
  nic_.looks_until_free = 1000;
  nic_.Unbind(11);
  journals_ = std::vector<SeenJournal>{{"/run/rx.json", false, Journal(77, 11)}};
  const HeldBindings held = List();
  ASSERT_THAT(held.bindings, SizeIs(2));
  EXPECT_EQ(held.bindings[0].state, State::kDraining);
  EXPECT_EQ(held.bindings[0].interface, "eth0");
  EXPECT_EQ(held.bindings[0].dmabuf, 11);
  EXPECT_EQ(held.bindings[0].inflight, 512);
  EXPECT_THAT(held.bindings[0].queues, IsEmpty());
  EXPECT_EQ(held.bindings[0].process, (ListedBinding::Process{.pid = 77, .lives = false}));
  EXPECT_EQ(held.bindings[1].state, State::kLeft) << "and its settings are to be put back besides";
}

TEST_F(HeldBindingsTest, IoUringAndXdpHaveTheirQueues) {
  nic_.queues[4].io_uring = true;
  nic_.queues[5].xsk = true;
  nic_.pools.push_back({.id = 1, .ifindex = 7, .napi_id = 104, .inflight = 64, .inflight_bytes = 262144, .io_uring = true});
  const HeldBindings held = List();
  ASSERT_THAT(held.bindings, SizeIs(2));
  EXPECT_EQ(held.bindings[0].memory, Memory::kIoUring);
  EXPECT_THAT(held.bindings[0].queues, ElementsAre(4));
  EXPECT_EQ(held.bindings[0].inflight, 64);
  EXPECT_EQ(held.bindings[0].page_size, 4096);
  EXPECT_EQ(held.bindings[1].memory, Memory::kXsk);
  EXPECT_THAT(held.bindings[1].queues, ElementsAre(5));
  EXPECT_EQ(held.bindings[1].inflight, std::nullopt) << "it has no page pool";
}

TEST_F(HeldBindingsTest, WhatIsElsewhereOrOfAnotherBootIsANote) {
  RxJournal elsewhere = Journal(77, 11), before = Journal(78, 11);
  elsewhere.nic.permanent_mac = "02:00:00:00:00:99";
  elsewhere.netns = 61;
  before.boot_id = "another boot";
  journals_ = std::vector<SeenJournal>{{"/run/a.json", false, elsewhere},
                                       {"/run/b.json", true, elsewhere},  // lives, where it is
                                       {"/run/c.json", false, before}};
  const HeldBindings held = List();
  EXPECT_THAT(held.bindings, IsEmpty());
  EXPECT_THAT(held.unread, IsEmpty());
  EXPECT_THAT(held.notes, ElementsAre(HasSubstr("/run/a.json: eth0 (fake at 0000:00:07.0, 02:00:00:00:00:99) is not in this"),
                                      HasSubstr("/run/c.json: from before this machine's last start")));
}

TEST_F(HeldBindingsTest, WhatCannotBeReadIsSaidAndTheRestListed) {
  Bind(11, {6, 7});
  handles_ = absl::PermissionDeniedError("no handles");
  journals_ = std::vector<SeenJournal>{{"/run/a.json", false, absl::PermissionDeniedError("/run/a.json: not readable")}};
  HeldBindings held = List();
  EXPECT_THAT(held.bindings, SizeIs(1));
  EXPECT_THAT(held.unread, ElementsAre("no handles", "/run/a.json: not readable"));
  handles_ = std::vector<HeldHandle>{};
  journals_ = absl::PermissionDeniedError("no folder to be read");
  held = List();
  EXPECT_THAT(held.bindings, SizeIs(1));
  EXPECT_THAT(held.unread, ElementsAre("no folder to be read"));
}

TEST(ListHeldBindings, AFolderMustBeOne) {
  EXPECT_EQ(ListHeldBindings("/dev/null", false).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ListHeldBindings("/proc/self/none", true).status().code(), absl::StatusCode::kNotFound);
  const auto held = ListHeldBindings("/proc/self/none", false);
  EXPECT_TRUE(held.ok()) << held.status();
}

}  // namespace
}  // namespace devmem
