// SPDX-License-Identifier: Apache-2.0
// RxBinding and Recover() against a NIC of our own (testing/fake_nic.h); against real drivers' code: tests/guest/rx.
#include "net/rx/rx_binding.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/testing/temporary_folder.h"
#include "net/rx/rx_binding_on.h"
#include "net/rx/rx_journal.h"
#include "net/rx/testing/fake_nic.h"

namespace devmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
namespace fs = std::filesystem;

std::string Folder() { return TemporaryFolder("rx"); }

FlowMatch Flow(uint16_t port) {
  FlowMatch match;
  auto& source = reinterpret_cast<sockaddr_in&>(match.source);
  auto& destination = reinterpret_cast<sockaddr_in&>(match.destination);
  source.sin_family = destination.sin_family = AF_INET;
  source.sin_addr.s_addr = inet_addr("192.0.2.2");
  destination.sin_addr.s_addr = inet_addr("192.0.2.1");
  source.sin_port = htons(80);
  destination.sin_port = htons(port);
  return match;
}

RxBindingOptions Options(const std::string& folder) {
  return {.interface = "eth0", .queues = {6, 7}, .dmabuf_fd = 99, .page_size = 0, .journal_folder = folder};
}

Time Soon() { return Clock::now() + milliseconds(50); }

std::vector<std::string> RecoverFrom(FakeNic& nic, const std::string& folder, Duration patience = milliseconds(50)) {
  return RecoverOn([&nic]() -> absl::StatusOr<std::unique_ptr<RxKernel>> { return nic.Kernel(); }, folder, patience);
}

std::string Read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return std::move(text).str();
}

// What NICs there are, as far as set-up and restoring differ.
struct Kind {
  const char* name;
  void (*prepare)(FakeNic&);
  std::vector<std::string> set_up;    // calls
  std::vector<std::string> put_back;  // without rules
};

const Kind kKinds[] = {
    {"plain", [](FakeNic&) {}, {"SetHeaderSplit", "SetRss", "Bind"}, {"Unbind", "ResetRss", "SetHeaderSplit"}},
    {"mlx5 wants rx-gro-hw before header split, and takes rules without ntuple",
     [](FakeNic& nic) {
       nic.split_wants_gro_hw = true;
       nic.features["rx-ntuple-filter"].active = false;
     },
     {"Insert", "Delete", "SetHeaderSplit", "SetFeature rx-gro-hw on", "SetHeaderSplit", "SetRss", "Bind"},
     {"Unbind", "ResetRss", "SetHeaderSplit", "SetFeature rx-gro-hw off"}},
    {"bnxt reports on while unset and refuses off; ntuple gates rules",
     [](FakeNic& nic) {
       nic.split_default = HeaderSplit::kOn;
       nic.split_refuses_off = nic.ntuple_gates = true;
       nic.features["rx-ntuple-filter"].active = false;
     },
     {"Insert", "SetFeature rx-ntuple-filter on", "Insert", "Delete", "SetHeaderSplit", "SetRss", "Bind"},
     {"Unbind", "ResetRss", "SetHeaderSplit", "SetFeature rx-ntuple-filter off"}},
    {"an RSS table of the operator's, header split of his with a threshold",
     [](FakeNic& nic) {
       nic.rss = {0, 1, 6, 7, 0, 1, 6, 7};
       nic.split_set = HeaderSplit::kOn;
       nic.threshold = 256;
     },
     {"SetHeaderSplit", "SetRss", "Bind"},
     // Threshold, reset, and what then still differs.
     {"Unbind", "ResetRss", "SetRss", "SetHeaderSplit", "SetHeaderSplit", "SetHeaderSplit"}},
    {"RSS avoids the queues already: it is not touched",
     [](FakeNic& nic) {
       nic.rss = {0, 1, 2, 3};
     },
     {"SetHeaderSplit", "Bind"},
     {"Unbind", "SetHeaderSplit"}},
    {"a kernel without thresholds, a driver without those features",
     [](FakeNic& nic) {
       nic.threshold.reset();
       nic.features.clear();
     },
     {"SetHeaderSplit", "SetRss", "Bind"},
     {"Unbind", "ResetRss", "SetHeaderSplit"}},
};

class RxBindingKinds : public ::testing::TestWithParam<Kind> {
 protected:
  RxBindingKinds() {
    GetParam().prepare(nic_);
    before_ = nic_.Settings();
  }
  const std::string folder_ = Folder();
  FakeNic nic_;
  std::string before_;
};

INSTANTIATE_TEST_SUITE_P(Nics, RxBindingKinds, ::testing::ValuesIn(kKinds),
                         [](const auto& kind) { return "kind_" + std::to_string(kind.index); });

// The same NICs where devmem_binding is loaded.
class RxBindingByHandle : public RxBindingKinds {
 protected:
  RxBindingByHandle() { nic_.module = true; }
};

INSTANTIATE_TEST_SUITE_P(Nics, RxBindingByHandle, ::testing::ValuesIn(kKinds),
                         [](const auto& kind) { return "kind_" + std::to_string(kind.index); });

TEST_P(RxBindingByHandle, SetsUpTheSameAndPutsAllBack) {
  SCOPED_TRACE(GetParam().name);
  auto binding = CreateRxBinding(nic_.Kernel(), Options(folder_));
  ASSERT_TRUE(binding.ok()) << binding.status();
  EXPECT_EQ(nic_.calls, GetParam().set_up);
  EXPECT_TRUE((*binding)->by_handle());
  const auto location = (*binding)->AddRule(Flow(40000), 1);
  ASSERT_TRUE(location.ok() && (*binding)->AddRule(Flow(40001), 0).ok());
  const auto paths = RxJournalFile::All(folder_);
  ASSERT_THAT(paths, SizeIs(1));
  EXPECT_THAT(RxJournal::Parse(Read(paths[0]))->rules, IsEmpty()) << "the handle keeps them";
  EXPECT_TRUE((*binding)->RemoveRule(*location).ok());
  EXPECT_THAT(nic_.rule_table, SizeIs(1));
  EXPECT_TRUE((*binding)->Look()->intact);
  EXPECT_TRUE((*binding)->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_P(RxBindingByHandle, LeavesOnlyFeaturesAndChosenTablesToTheNextStart) {
  auto binding = CreateRxBinding(nic_.Kernel(), Options(folder_));
  ASSERT_TRUE(binding.ok()) << binding.status();
  ASSERT_TRUE((*binding)->AddRule(Flow(40000), 1).ok());
  FakeNic dead = nic_;
  const std::string folder = Folder();
  for (const std::string& path : RxJournalFile::All(folder_)) {
    std::ofstream(folder + "/" + fs::path(path).filename().string()) << Read(path);
  }
  dead.End(11);
  EXPECT_THAT(dead.rule_table, IsEmpty());
  EXPECT_EQ(dead.Split(), FakeNic(nic_).handles[11].reset.split_before);
  dead.calls.clear();
  const auto lines = RecoverFrom(dead, folder);
  EXPECT_EQ(dead.Settings(), before_) << ::testing::PrintToString(lines);
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST_P(RxBindingKinds, SetsUpInOrderAndPutsAllBack) {
  SCOPED_TRACE(GetParam().name);
  auto binding = CreateRxBinding(nic_.Kernel(), Options(folder_));
  ASSERT_TRUE(binding.ok()) << binding.status();
  EXPECT_EQ(nic_.calls, GetParam().set_up);
  EXPECT_EQ((*binding)->dmabuf_id(), 11);
  EXPECT_EQ((*binding)->posted(), 2 * 256);
  EXPECT_EQ((*binding)->page_size(), sysconf(_SC_PAGESIZE));
  EXPECT_EQ((*binding)->rule_capacity(), 16);
  ASSERT_THAT((*binding)->queues(), SizeIs(2));
  EXPECT_EQ((*binding)->queues()[1].queue, 7);
  EXPECT_EQ((*binding)->queues()[1].napi_id, 107);
  for (const uint32_t queue : nic_.rss) EXPECT_TRUE(queue < 6) << queue;
  const auto state = (*binding)->Look();
  ASSERT_TRUE(state.ok());
  EXPECT_TRUE(state->intact) << state->why;

  nic_.calls.clear();
  EXPECT_TRUE((*binding)->Undo(Soon()).ok());
  EXPECT_EQ(nic_.calls, GetParam().put_back);
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_TRUE(fs::is_empty(folder_));
  binding->reset();
  EXPECT_EQ(nic_.calls, GetParam().put_back) << "undone once";
}

TEST_P(RxBindingKinds, EachStepStandsInTheJournalBeforeItIsMade) {
  bool setting_up = true;
  nic_.before = [&](const std::string& call) {
    const auto paths = RxJournalFile::All(folder_);
    ASSERT_THAT(paths, SizeIs(1)) << call;
    const auto journal = RxJournal::Parse(Read(paths[0]));
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_THAT(journal->queues, ElementsAre(6, 7));
    if (!setting_up) return;
    if (call == "SetHeaderSplit") {
      EXPECT_TRUE(journal->header_split.has_value());
    }
    if (call == "SetRss") {
      ASSERT_TRUE(journal->rss.has_value());
      EXPECT_EQ(journal->rss->was, nic_.rss);
    }
    if (call.starts_with("SetFeature")) {
      ASSERT_THAT(journal->features, SizeIs(1));
      EXPECT_THAT(call, HasSubstr(journal->features[0].name));
      EXPECT_FALSE(journal->features[0].was);
    }
    if (call == "Insert" || call == "Delete") {
      EXPECT_THAT(journal->rules, SizeIs(1));
    }
  };
  auto binding = CreateRxBinding(nic_.Kernel(), Options(folder_));
  ASSERT_TRUE(binding.ok()) << binding.status();
  ASSERT_TRUE((*binding)->AddRule(Flow(40000), 1).ok());
  setting_up = false;
}

TEST_P(RxBindingKinds, AStepThatFailsUndoesTheFormer) {
  for (const std::string& step : GetParam().set_up) {
    SCOPED_TRACE(step);
    FakeNic nic = nic_;
    nic.fail[step] = absl::InternalError("the step fails");
    const auto binding = CreateRxBinding(nic.Kernel(), Options(folder_));
    // A probe that fails in a way of its own is tried with ntuple on first; deleting it may then fail for good.
    ASSERT_FALSE(binding.ok());
    EXPECT_THAT(Text(binding.status()), HasSubstr("the step fails"));
    nic.fail.clear();
    (void)RecoverFrom(nic,
                      folder_);  // for what could not be undone then, with the process dead: its lock went with the binding
    EXPECT_EQ(nic.Settings(), before_);
    EXPECT_TRUE(fs::is_empty(folder_));
    fs::remove_all(folder_);
  }
}

// At every call that changes the NIC in a life with rules, the process dies: before the call, and right after it.
void RecoverFromDeathAtEveryStep(FakeNic& nic_, const std::string& folder_, const std::string& before_) {
  struct Moment {
    std::string call;
    FakeNic nic;
    std::map<std::string, std::string> disk;
  };
  std::vector<Moment> moments;
  const auto snap = [&](const std::string& call) {
    Moment moment{call, nic_, {}};
    moment.nic.before = [](const std::string&) {};
    moment.nic.calls.clear();
    for (const auto& each : fs::directory_iterator(folder_)) moment.disk[each.path().filename()] = Read(each.path());
    moments.push_back(std::move(moment));
  };
  nic_.before = snap;
  {
    auto binding = CreateRxBinding(nic_.Kernel(), Options(folder_));
    ASSERT_TRUE(binding.ok()) << binding.status();
    const auto first = (*binding)->AddRule(Flow(40000), 0);
    ASSERT_TRUE(first.ok() && (*binding)->AddRule(Flow(40001), 1).ok());
    ASSERT_TRUE((*binding)->RemoveRule(*first).ok());
    ASSERT_TRUE((*binding)->AddRule(Flow(40002), 1).ok());
    ASSERT_TRUE((*binding)->Undo(Soon()).ok());
  }
  snap("end");
  ASSERT_GE(moments.size(), 8);
  for (size_t i = 0; i + 1 < moments.size(); ++i) {
    for (const size_t nic_at : {i, i + 1}) {
      SCOPED_TRACE(moments[i].call + (nic_at == i ? ", before" : ", right after"));
      const std::string folder = Folder();
      for (const auto& [name, text] : moments[i].disk) std::ofstream(folder + "/" + name) << text;
      FakeNic nic = moments[nic_at].nic;
      for (uint32_t id = 1; id < 20; ++id) nic.End(id);
      const auto lines = RecoverFrom(nic, folder);
      EXPECT_EQ(nic.Settings(), before_);
      EXPECT_TRUE(fs::is_empty(folder)) << ::testing::PrintToString(lines);
      EXPECT_THAT(lines, Contains(HasSubstr("is put back")));
    }
  }
}

TEST_P(RxBindingKinds, RecoversFromDeathAtEveryStep) { RecoverFromDeathAtEveryStep(nic_, folder_, before_); }
TEST_P(RxBindingByHandle, RecoversFromDeathAtEveryStep) { RecoverFromDeathAtEveryStep(nic_, folder_, before_); }

// --- one NIC from here on ---------------------------------------------------------------------------------------------

class RxBindingTest : public ::testing::Test {
 protected:
  std::unique_ptr<RxBinding> Bind(uint32_t page_size = 0) {
    RxBindingOptions options = Options(folder_);
    options.page_size = page_size;
    auto binding = CreateRxBinding(nic_.Kernel(), options);
    EXPECT_TRUE(binding.ok()) << binding.status();
    return binding.ok() ? *std::move(binding) : nullptr;
  }
  absl::Status Refused(const RxBindingOptions& options) {
    const auto binding = CreateRxBinding(nic_.Kernel(), options);
    EXPECT_FALSE(binding.ok());
    EXPECT_THAT(nic_.calls, IsEmpty()) << "refused before anything was touched";
    EXPECT_TRUE(fs::is_empty(folder_));
    return binding.status();
  }
  const std::string folder_ = Folder();
  FakeNic nic_;
  const std::string before_ = nic_.Settings();
};

TEST_F(RxBindingTest, RefusesWhatIsInUseAndNamesTheUser) {
  struct {
    const char* description;
    void (*prepare)(FakeNic&);
    const char* said;
  } const table[] = {
      {"another's dma-buf", [](FakeNic& nic) { nic.queues[7].dmabuf = 5; }, "Rx queue 7 is in use: dma-buf 5"},
      {"io_uring", [](FakeNic& nic) { nic.queues[6].io_uring = true; }, "Rx queue 6 is in use: io_uring"},
      {"AF_XDP", [](FakeNic& nic) { nic.queues[6].xsk = true; }, "Rx queue 6 is in use: an AF_XDP socket"},
      {"an RSS context",
       [](FakeNic& nic) {
         nic.contexts[3] = {4, 7};
       },
       "Rx queue 7 is in use: RSS context 3"},
      {"a rule", [](FakeNic& nic) { nic.rule_table = {{.location = 12, .match = Flow(1), .exact = true, .ring_cookie = 6}}; },
       "Rx queue 6 is in use: the ntuple rule at location 12"},
      {"a rule of another kind", [](FakeNic& nic) { nic.rule_table = {{.location = 13, .ring_cookie = 6}}; },
       "the ntuple rule at location 13"},
      {"a rule that adds its queue to a context's",
       [](FakeNic& nic) {
         nic.contexts[2] = {0, 1};
         nic.rule_table = {{.location = 14, .ring_cookie = 6, .has_context = true, .context = 2}};
       },
       "location 14 leads to it by RSS context 2"},
      {"the link", [](FakeNic& nic) { nic.up = false; }, "the link is down"},
      {"a missing queue", [](FakeNic& nic) { nic.queues = FakeNic::MakeQueues(7); }, "there is no Rx queue 7, only 0 to 6"},
      {"a missing NIC", [](FakeNic& nic) { nic.there = false; }, "no such device"},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.description);
    nic_ = FakeNic();
    row.prepare(nic_);
    const absl::Status status = Refused(Options(folder_));
    EXPECT_THAT(Text(status), HasSubstr(row.said));
    EXPECT_THAT(Text(status), HasSubstr("eth0"));
  }
}

TEST_F(RxBindingTest, WhatLeadsElsewhereIsNoHindrance) {
  nic_.contexts[3] = {4, 5};
  nic_.rule_table = {{.location = 1, .match = Flow(1), .exact = true, .ring_cookie = 5},
                     {.location = 2, .ring_cookie = 6, .discards = true},
                     {.location = 3, .ring_cookie = (1ULL << 32) + 6},  // a virtual function's queue 6
                     {.location = 4, .ring_cookie = 0, .has_context = true, .context = 3}};
  const std::string before = nic_.Settings();
  Bind();
  EXPECT_EQ(nic_.Settings(), before) << "rules of others stay";
}

TEST_F(RxBindingTest, OptionsAreChecked) {
  for (const std::vector<uint32_t>& queues : std::vector<std::vector<uint32_t>>{{}, {0}, {7, 6}, {6, 6}}) {
    RxBindingOptions options = Options(folder_);
    options.queues = queues;
    EXPECT_EQ(Refused(options).code(), absl::StatusCode::kInvalidArgument);
  }
  RxBindingOptions options = Options(folder_);
  options.dmabuf_fd = -1;
  EXPECT_EQ(Refused(options).code(), absl::StatusCode::kInvalidArgument);
  options = Options(folder_);
  options.page_size = 5000;
  EXPECT_EQ(Refused(options).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RxBindingTest, NoHeaderSplitIsRefused) {
  nic_.splits = false;
  const auto binding = CreateRxBinding(nic_.Kernel(), Options(folder_));
  EXPECT_EQ(binding.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(binding.status()), HasSubstr("tcp-data-split"));
}

TEST_F(RxBindingTest, NothingIsChangedWithoutAJournal) {
  RxBindingOptions options = Options("/proc/self/none");
  EXPECT_THAT(Text(Refused(options)), HasSubstr("/proc/self/none"));
}

TEST_F(RxBindingTest, ANicIsBoundOnceAProcess) {
  const auto first = Bind();
  RxBindingOptions options = Options(folder_);
  options.queues = {4};
  const auto second = CreateRxBinding(nic_.Kernel(), options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(first->Look()->intact);
}

TEST_F(RxBindingTest, PageSizeIsTriedFromLargeToSmall) {
  struct {
    uint32_t wanted, limit, got;
    std::vector<std::string> tried;
  } const table[] = {
      {65536, 1 << 20, 65536, {"Bind 65536"}},
      {65536, 16384, 16384, {"Bind 65536", "Bind 32768", "Bind 16384"}},
      {32768, 0, 4096, {"Bind 32768", "Bind 16384", "Bind 8192", "Bind"}},
      {4096, 0, 4096, {"Bind"}},
      {0, 65536, 4096, {"Bind"}},
  };
  ASSERT_EQ(sysconf(_SC_PAGESIZE), 4096);
  for (const auto& row : table) {
    nic_ = FakeNic();
    nic_.page_limit = row.limit;
    const auto binding = Bind(row.wanted);
    EXPECT_EQ(binding->page_size(), row.got);
    std::vector<std::string> tried;
    for (const std::string& call : nic_.calls) {
      if (call.starts_with("Bind")) tried.push_back(call);
    }
    EXPECT_EQ(tried, row.tried);
  }
}

TEST_F(RxBindingTest, ABindThatFailsForAnotherReasonIsTriedOnce) {
  nic_.fail["Bind 65536"] = absl::PermissionDeniedError("no CAP_NET_ADMIN");
  RxBindingOptions options = Options(folder_);
  options.page_size = 65536;
  const auto binding = CreateRxBinding(nic_.Kernel(), options);
  EXPECT_EQ(binding.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(nic_.calls, Contains("Bind 65536").Times(1));
  EXPECT_THAT(nic_.calls, ::testing::Not(Contains("Bind 32768")));
}

TEST_F(RxBindingTest, RssGoesToTheOthersInTurn) {
  nic_.rss = nic_.rss_default = {7, 6, 2, 7, 3, 6, 2, 7};
  const auto binding = Bind();
  EXPECT_THAT(nic_.rss, ElementsAre(2, 3, 2, 2, 3, 3, 2, 2));
}

TEST_F(RxBindingTest, RssThatLeadsOnlyToBoundQueuesGoesToAllThatNobodyHas) {
  nic_.rss = nic_.rss_default = {6, 7, 6, 7, 6, 7};
  nic_.queues[1].dmabuf = 5;
  nic_.queues[2].xsk = true;
  const auto binding = Bind();
  EXPECT_THAT(nic_.rss, ElementsAre(0, 3, 4, 5, 0, 3));
}

TEST_F(RxBindingTest, RulesAreCountedAndGo) {
  auto binding = Bind();
  const auto location = binding->AddRule(Flow(40000), 1);
  ASSERT_TRUE(location.ok());
  EXPECT_EQ(binding->rules(), 1);
  EXPECT_EQ(nic_.rule_table[0].ring_cookie, 7);
  EXPECT_TRUE(binding->RemoveRule(*location).ok());
  EXPECT_TRUE(binding->RemoveRule(*location).ok()) << "gone already";
  EXPECT_EQ(binding->rules(), 0);
  ASSERT_TRUE(binding->AddRule(Flow(40001), 0).ok());
  EXPECT_FALSE(binding->AddRule(Flow(40002), 2).ok()) << "there is no third queue";
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_EQ(binding->AddRule(Flow(40003), 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(RxBindingTest, ARuleThatIsRefusedLeavesNothing) {
  auto binding = Bind();
  nic_.fail["Insert"] = absl::ResourceExhaustedError("the table is full");
  EXPECT_EQ(binding->AddRule(Flow(40000), 0).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(binding->rules(), 0);
  EXPECT_THAT(RxJournal::Parse(Read(RxJournalFile::All(folder_)[0]))->rules, IsEmpty());
}

TEST_F(RxBindingTest, AnothersRuleInPlaceOfOursStays) {
  auto binding = Bind();
  const uint32_t location = *binding->AddRule(Flow(40000), 0);
  nic_.rule_table[0].match = Flow(1);
  EXPECT_EQ(binding->RemoveRule(location).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(binding->rules(), 0);
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_THAT(nic_.rule_table, SizeIs(1));
}

TEST_F(RxBindingTest, ARuleThatWillNotGoIsTriedAgainAtUndo) {
  auto binding = Bind();
  const uint32_t location = *binding->AddRule(Flow(40000), 0);
  nic_.fail["Delete"] = absl::InternalError("the driver is busy");
  EXPECT_EQ(binding->RemoveRule(location).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(binding->rules(), 1);
  nic_.fail.clear();
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RxBindingTest, UndoTakesRulesOutFirst) {
  auto binding = Bind();
  ASSERT_TRUE(binding->AddRule(Flow(40000), 0).ok());
  nic_.calls.clear();
  ASSERT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_THAT(nic_.calls, ElementsAre("Delete", "Unbind", "ResetRss", "SetHeaderSplit"));
}

TEST_F(RxBindingTest, UndoWaitsForPools) {
  auto binding = Bind();
  nic_.looks_until_free = 3;
  EXPECT_TRUE(binding->Undo(Clock::now() + seconds(5)).ok());
  EXPECT_THAT(nic_.pools, IsEmpty());
}

TEST_F(RxBindingTest, UndoTellsWhoStillHoldsBuffersAndPutsTheNicBack) {
  auto binding = Bind();
  nic_.looks_until_free = 1 << 20;
  const absl::Status status = binding->Undo(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Text(status), HasSubstr("dma-buf 11: page pool 1094 with 256 buffers out"));
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(RxBindingTest, UndoWaitsForTheLinkBeforeItUnbinds) {
  auto binding = Bind();
  nic_.up = false;
  const auto deadline = Clock::now() + milliseconds(40);
  EXPECT_TRUE(binding->Undo(deadline).ok()) << "it does not wait for ever";
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RxBindingTest, WhatOthersChangedMeanwhileStays) {
  struct {
    const char* description;
    void (*change)(FakeNic&);
    const char* said;
  } const table[] = {
      {"RSS", [](FakeNic& nic) { nic.rss = {0, 0, 0, 0, 1, 1, 1, 1}; }, "RSS table was changed by another"},
      {"threshold", [](FakeNic& nic) { nic.threshold = 100; }, "header split on, threshold 100 was set by another"},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.description);
    nic_ = FakeNic();
    auto binding = Bind();
    row.change(nic_);
    const std::vector<uint32_t> rss = nic_.rss;
    const auto threshold = nic_.threshold;
    const absl::Status status = binding->Undo(Soon());
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(Text(status), HasSubstr(row.said));
    if (rss != nic_.rss_default) {
      EXPECT_TRUE(nic_.rss == rss || nic_.rss == nic_.rss_default);
    }
    EXPECT_EQ(nic_.threshold, threshold);
    EXPECT_TRUE(fs::is_empty(folder_)) << "there is nothing left to put back";
  }
}

TEST_F(RxBindingTest, WhatOthersPutBackThemselvesIsFine) {
  auto binding = Bind();
  nic_.rss = nic_.rss_default;
  nic_.calls.clear();
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_THAT(nic_.calls, ElementsAre("Unbind", "SetHeaderSplit"));
}

TEST_F(RxBindingTest, NtupleStaysOnWhileRulesOfOthersNeedIt) {
  nic_.ntuple_gates = true;
  nic_.features["rx-ntuple-filter"].active = false;
  auto binding = Bind();
  nic_.rule_table.push_back({.location = 9, .match = Flow(1), .exact = true, .ring_cookie = 2});
  const absl::Status status = binding->Undo(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(Text(status), HasSubstr("rx-ntuple-filter stays on: 1 rules of others need it"));
  EXPECT_THAT(nic_.rule_table, SizeIs(1));
}

TEST_F(RxBindingTest, NtupleStaysOnForAnothersDeviceMemoryThatHasNoRuleJustNow) {
  nic_.ntuple_gates = true;
  nic_.features["rx-ntuple-filter"].active = false;
  auto binding = Bind();
  nic_.queues[3].dmabuf = 42;
  EXPECT_THAT(Text(binding->Undo(Soon())), HasSubstr("rx-ntuple-filter stays on: dma-buf 42 on queue 3 needs it"));
  EXPECT_TRUE(nic_.features["rx-ntuple-filter"].active);
}

TEST_F(RxBindingTest, ADriverThatTakesRulesWithoutNtupleIsIntactWithoutIt) {
  auto binding = Bind();
  nic_.features["rx-ntuple-filter"].active = false;
  EXPECT_THAT(binding->Look()->why, HasSubstr("rx-ntuple-filter is off")) << "whether rules go in without is not tried here";
  ASSERT_TRUE(binding->Rebind(99).ok());
  EXPECT_FALSE(nic_.features["rx-ntuple-filter"].active) << "as another has set it";
  EXPECT_TRUE(binding->Look()->intact);
}

TEST_F(RxBindingTest, WhatAnothersDeviceMemoryNeedsStays) {
  nic_.split_wants_gro_hw = true;
  auto binding = Bind();
  nic_.queues[3].dmabuf = 42;  // on another queue, since then
  const absl::Status status = binding->Undo(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(Text(status), HasSubstr("header split stays on: dma-buf 42 on queue 3 needs it"));
  EXPECT_THAT(Text(status), HasSubstr("rx-gro-hw stays on: dma-buf 42 on queue 3 needs it"));
  EXPECT_EQ(nic_.Split(), HeaderSplit::kOn);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(RxBindingTest, WhoComesSecondLeavesHeaderSplitToTheFirst) {
  nic_.queues[3].dmabuf = 42;
  nic_.split_set = HeaderSplit::kOn;
  auto binding = Bind();
  nic_.calls.clear();
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_THAT(nic_.calls, ElementsAre("Unbind", "ResetRss"));
}

TEST_F(RxBindingTest, WhatCannotBePutBackKeepsTheJournal) {
  auto binding = Bind();
  nic_.fail["ResetRss"] = absl::InternalError("the firmware says no");
  const absl::Status status = binding->Undo(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Text(status), HasSubstr("RSS table cannot be put back: the firmware says no"));
  EXPECT_EQ(nic_.Split(), HeaderSplit::kOff) << "the rest is put back";
  EXPECT_THAT(RecoverFrom(nic_, folder_), IsEmpty()) << "this process lives";
  nic_.calls.clear();
  binding.reset();
  EXPECT_THAT(nic_.calls, IsEmpty()) << "not tried again at the end, where nobody hears of it";
  nic_.fail.clear();
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("the RSS table is put back")));
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RxBindingTest, ANicThatIsNotThereIsPutBackWhereItTurnsUp) {
  auto binding = Bind();
  nic_.there = false;
  EXPECT_EQ(binding->Look().status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = binding->Undo(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(status), HasSubstr("eth0 (fake at 0000:00:07.0, 02:00:00:00:00:07) is not here any more"));
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  binding.reset();
  EXPECT_FALSE(fs::is_empty(folder_));
  nic_.there = true;
  nic_.ifindex = 12;
  nic_.name = "eth5";
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("removed: eth5 is put back")));
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(RxBindingTest, ANicMayBeRenamed) {
  auto binding = Bind();
  nic_.name = "eth9";
  EXPECT_TRUE(binding->Look()->intact);
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RxBindingTest, LookCountsSinceTheBind) {
  nic_.stats = {{.queue = 6, .packets = 10, .bytes = 1000, .alloc_fail = 1}, {.queue = 0, .packets = 77}};
  auto binding = Bind();
  nic_.stats[0] = {.queue = 6, .packets = 15, .bytes = 3000, .alloc_fail = 4};
  nic_.pools[0].inflight += 3;
  nic_.pools.push_back({.id = 1, .inflight = 2, .dmabuf = 11, .detached = true});
  nic_.queues[6].napi_id = 555;
  const auto state = binding->Look();
  ASSERT_TRUE(state.ok());
  EXPECT_EQ(state->packets, 5);
  EXPECT_EQ(state->bytes, 2000);
  EXPECT_EQ(state->alloc_fail, 3);
  EXPECT_EQ(state->inflight, 2 * 256 + 3 + 2);
  EXPECT_EQ(state->detached, 1);
  EXPECT_EQ(state->queues[0].napi_id, 555) << "read again";
  nic_.stats[0] = {.queue = 6, .packets = 2, .bytes = 100, .alloc_fail = 0};  // a reset had them begin anew
  EXPECT_EQ(binding->Look()->packets, 7);
  EXPECT_EQ(binding->Look()->bytes, 2100);
  EXPECT_EQ(binding->Look()->alloc_fail, 3);
}

TEST_F(RxBindingTest, LookSeesWhatIsLostAndRebindDoesItAgain) {
  struct {
    const char* description;
    void (*lose)(FakeNic&);
    const char* said;
    uint32_t id;
  } const table[] = {
      {"one queue lost its dma-buf", [](FakeNic& nic) { nic.queues[7].dmabuf = 0; },
       "Rx queue 7 has host memory instead of dma-buf 11", 12},
      {"a reset took everything",
       [](FakeNic& nic) {
         nic.Unbind(11);
         nic.split_set = HeaderSplit::kUnknown;
         nic.rss = nic.rss_default;
         nic.rule_table.clear();
       },
       "Rx queue 6 has host memory", 12},
      {"header split went off", [](FakeNic& nic) { nic.split_set = HeaderSplit::kOff; }, "header split is off", 11},
      {"RSS was restored over our queues", [](FakeNic& nic) { nic.rss = nic.rss_default; },
       "RSS table leads to bound queues (6,7)", 11},
      {"rules were flushed", [](FakeNic& nic) { nic.rule_table.clear(); },
       "1 of the 1 rules for its connections are gone from the NIC", 11},
      {"a rule was replaced", [](FakeNic& nic) { nic.rule_table[0].match = Flow(1); }, "1 of the 1 rules", 11},
      {"a rule leads elsewhere", [](FakeNic& nic) { nic.rule_table[0].ring_cookie = 2; }, "1 of the 1 rules", 11},
      {"ntuple was turned off, which flushes rules",
       [](FakeNic& nic) {
         nic.ntuple_gates = true;
         nic.features["rx-ntuple-filter"].active = false;
         nic.rule_table.clear();
       },
       "rx-ntuple-filter is off", 11},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.description);
    nic_ = FakeNic();
    auto binding = Bind();
    const uint32_t location = *binding->AddRule(Flow(40000), 1);
    row.lose(nic_);
    auto state = binding->Look();
    ASSERT_TRUE(state.ok());
    EXPECT_FALSE(state->intact);
    EXPECT_THAT(state->why, HasSubstr(row.said));
    ASSERT_TRUE(binding->Rebind(99).ok());
    state = binding->Look();
    EXPECT_TRUE(state->intact) << state->why;
    EXPECT_EQ(binding->dmabuf_id(), row.id);
    const auto ours = [](const FlowRule& rule) { return rule.match == Flow(40000) && rule.ring_cookie == 7; };
    EXPECT_EQ(std::count_if(nic_.rule_table.begin(), nic_.rule_table.end(), ours), 1);
    EXPECT_TRUE(binding->RemoveRule(location).ok());
    EXPECT_EQ(std::count_if(nic_.rule_table.begin(), nic_.rule_table.end(), ours), 0);
    nic_.rule_table.clear();  // of others
    EXPECT_TRUE(binding->Undo(Soon()).ok());
    FakeNic fresh;
    fresh.features["rx-ntuple-filter"].active = !nic_.ntuple_gates;  // as another had set it
    EXPECT_EQ(nic_.Settings(), fresh.Settings());
  }
}

// The new binding's list of free buffers has every buffer on it: also those that sockets still hold.
TEST_F(RxBindingTest, TheMemoryIsNotBoundAgainWhileBuffersOfItAreOut) {
  auto binding = Bind();
  nic_.looks_until_free = 1 << 20;
  nic_.Unbind(11);
  nic_.pools[0].inflight = 3;
  nic_.pools[1].inflight = 2;
  nic_.pools[1].ifindex = 0;  // as of an interface that is gone
  for (int tries = 0; tries < 3; ++tries) {
    nic_.calls.clear();
    const absl::Status status = binding->Rebind(99);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Text(status), HasSubstr("5 buffers of dma-buf 11 are not back yet"));
    EXPECT_THAT(nic_.calls, ::testing::Not(Contains("Bind")));
  }
  nic_.pools.pop_back();
  EXPECT_EQ(binding->Rebind(99).code(), absl::StatusCode::kUnavailable);
  nic_.pools.clear();
  nic_.looks_until_free = 0;
  EXPECT_TRUE(binding->Rebind(99).ok());
  EXPECT_TRUE(binding->Look()->intact);
  EXPECT_EQ(binding->dmabuf_id(), 12);
}

// --- handing on -------------------------------------------------------------------------------------------------------------

class HandOn : public RxBindingTest, public ::testing::WithParamInterface<bool> {
 protected:
  HandOn() { nic_.module = GetParam(); }
  // In "another process": the NIC's index tells them apart here.
  absl::StatusOr<std::unique_ptr<RxBinding>> AdoptElsewhere(HeldBinding held) {
    ++nic_.ifindex;
    return AdoptRxBinding(nic_.Kernel(), std::move(held), folder_);
  }
};
INSTANTIATE_TEST_SUITE_P(Ways, HandOn, ::testing::Bool(), [](const auto& way) { return way.param ? "handle" : "netlink"; });

TEST_P(HandOn, NothingIsTouchedAndTheLastPutsAllBack) {
  auto old = Bind();
  const std::string bound = nic_.Settings();
  auto held = old->Share();
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(held->by_handle, GetParam());
  nic_.calls.clear();
  auto successor = AdoptElsewhere(*std::move(held));
  ASSERT_TRUE(successor.ok()) << successor.status();
  EXPECT_EQ((*successor)->dmabuf_id(), old->dmabuf_id());
  EXPECT_EQ((*successor)->posted(), old->posted());
  EXPECT_EQ((*successor)->page_size(), old->page_size());
  old->Forget();
  old.reset();
  EXPECT_THAT(nic_.calls, IsEmpty());
  EXPECT_EQ(nic_.Settings(), bound);
  EXPECT_TRUE((*successor)->Look()->intact) << (*successor)->Look()->why;
  const auto location = (*successor)->AddRule(Flow(40000), 0);
  ASSERT_TRUE(location.ok()) << location.status();
  EXPECT_TRUE((*successor)->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_P(HandOn, ASuccessorThatFailsOrDiesLeavesItToItsPredecessor) {
  auto old = Bind();
  const std::string bound = nic_.Settings();
  {
    auto held = old->Share();
    ASSERT_TRUE(held.ok());
    held->dmabuf_id = 77;
    const auto wrong = AdoptElsewhere(*std::move(held));
    ASSERT_FALSE(wrong.ok());
    EXPECT_THAT(RxJournalFile::All(folder_), SizeIs(1)) << "the predecessor's";
  }
  auto successor = AdoptElsewhere(*old->Share());
  ASSERT_TRUE(successor.ok()) << successor.status();
  (*successor)->Forget();  // as a death before the other was told, but that its journal would stay
  successor->reset();
  EXPECT_EQ(nic_.Settings(), bound);
  EXPECT_TRUE(old->Look()->intact);
  EXPECT_TRUE(old->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_P(HandOn, WhatIsThereMustNotBeGivenAway) {
  auto old = Bind();
  const auto location = old->AddRule(Flow(40000), 0);
  ASSERT_TRUE(location.ok());
  EXPECT_THAT(Text(old->Share().status()), HasSubstr("1 rule of its connections is there"));
  EXPECT_TRUE(old->Offer().ok()) << "a successor may look at what connections still use";
  ASSERT_TRUE(old->RemoveRule(*location).ok());
  EXPECT_TRUE(old->Share().ok());
  old->LetGo();
  EXPECT_EQ(old->Share().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(old->AddRule(Flow(40000), 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

// Killed after the successor had it, and before it could forget.
TEST_P(HandOn, ADeadPredecessorsJournalIsNoReasonToWait) {
  auto old = Bind();
  const std::string path = RxJournalFile::All(folder_).at(0);
  const std::string text = Read(path);
  auto successor = AdoptElsewhere(*old->Share());
  ASSERT_TRUE(successor.ok()) << successor.status();
  const std::string bound = nic_.Settings();
  old->Forget();
  std::ofstream(path) << text;
  const auto lines = RecoverFrom(nic_, folder_);
  EXPECT_THAT(lines, ElementsAre(HasSubstr("handed on")));
  EXPECT_EQ(nic_.Settings(), bound);
  EXPECT_THAT(RxJournalFile::All(folder_), SizeIs(1));
  EXPECT_TRUE((*successor)->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_P(HandOn, NotWithoutThePredecessorsJournal) {
  auto old = Bind();
  ++nic_.ifindex;
  const std::string elsewhere = Folder();
  const auto successor = AdoptRxBinding(nic_.Kernel(), *old->Share(), elsewhere);
  EXPECT_EQ(successor.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(successor.status()), HasSubstr("journal is not in"));
  EXPECT_THAT(RxJournalFile::All(elsewhere), IsEmpty());
  EXPECT_TRUE(old->Look()->intact);
}

// Killed when it had put rules in already: they go, its predecessor's binding stays.
TEST_P(HandOn, ADeadSuccessorsRulesGo) {
  auto old = Bind();
  auto successor = AdoptElsewhere(*old->Share());
  ASSERT_TRUE(successor.ok()) << successor.status();
  ASSERT_TRUE((*successor)->AddRule(Flow(40000), 0).ok());
  const auto paths = RxJournalFile::All(folder_);
  ASSERT_THAT(paths, SizeIs(2));
  const std::string path = fs::path(paths[0]).filename().string().starts_with("rx-8-") ? paths[0] : paths[1];
  const std::string text = Read(path);
  (*successor)->Forget();  // its rules stay: nothing is undone
  std::ofstream(path) << text;
  const auto lines = RecoverFrom(nic_, folder_);
  EXPECT_THAT(lines, Contains(HasSubstr("handed on")));
  if (!GetParam()) {  // by a handle they are the handle's, and go with it
    EXPECT_THAT(nic_.rule_table, IsEmpty());
  }
  EXPECT_THAT(RxJournalFile::All(folder_), SizeIs(1));
  EXPECT_TRUE(old->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

// Rules find other places when they are inserted again, and one's former place may be another's by then.
TEST_F(RxBindingTest, ByHandleRulesMoveWithoutHurtingEachOther) {
  nic_.module = true;
  auto binding = Bind();
  ASSERT_TRUE(binding->AddRule(Flow(40000), 0).ok());
  ASSERT_TRUE(binding->AddRule(Flow(40001), 1).ok());
  nic_.before = [&](const std::string& call) {
    if (call == "Bind") nic_.rule_table.push_back({.location = 0, .match = Flow(9), .exact = true, .ring_cookie = 1});
  };
  nic_.Unbind(11);
  ASSERT_TRUE(binding->Rebind(99).ok());
  EXPECT_THAT(nic_.rule_table, SizeIs(3));
  EXPECT_TRUE(binding->Look()->intact) << binding->Look()->why;
  nic_.before = [](const std::string&) {};
  nic_.rule_table.erase(nic_.rule_table.begin());
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

// A driver reloaded: the same name, another index, and nothing set on it.
void ComeBack(FakeNic& nic) {
  const FakeNic gone = nic;
  nic = FakeNic();
  nic.remade = gone.remade + 1;
  nic.next_dmabuf = gone.next_dmabuf;
  nic.ntuple_gates = true;
  nic.features["rx-ntuple-filter"].active = false;
}

TEST_F(RxBindingTest, ANicThatComesBackIsSetUpAnew) {
  auto binding = Bind();
  const uint32_t location = *binding->AddRule(Flow(40000), 1);
  nic_.there = false;
  EXPECT_EQ(binding->Rebind(99).code(), absl::StatusCode::kNotFound);
  ComeBack(nic_);
  const std::string before = nic_.Settings();
  nic_.before = [&](const std::string& call) {
    if (call == "Unbind") return;
    std::vector<RxJournal> journals;
    for (const std::string& path : RxJournalFile::All(folder_)) journals.push_back(*RxJournal::Parse(Read(path)));
    EXPECT_EQ(std::ranges::count(journals, 107u, &RxJournal::ifindex), 1) << call;
  };
  nic_.stats = {{.queue = 6, .packets = 10}};
  ASSERT_TRUE(binding->Rebind(99).ok());
  EXPECT_THAT(nic_.calls, ElementsAre("Insert", "SetFeature rx-ntuple-filter on", "Insert", "Delete", "SetHeaderSplit",
                                      "SetRss", "Bind", "Insert"));
  EXPECT_EQ(binding->dmabuf_id(), 12);
  const auto state = binding->Look();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(state->intact) << state->why;
  EXPECT_EQ(state->packets, 0) << "counted from the new bind";
  EXPECT_EQ(state->queues[0].ifindex, 107u);
  ASSERT_THAT(nic_.rule_table, SizeIs(1));
  EXPECT_THAT(RxJournalFile::All(folder_), SizeIs(1));
  EXPECT_TRUE(binding->RemoveRule(location).ok()) << "by the name it had";
  EXPECT_THAT(nic_.rule_table, IsEmpty());
  EXPECT_TRUE(binding->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before);
  EXPECT_TRUE(fs::is_empty(folder_));
  nic_.before = [](const std::string&) {};
}

TEST_F(RxBindingTest, WhatComesInTheNicsPlaceMustBeFit) {
  struct {
    const char* description;
    void (*prepare)(FakeNic&);
    const char* said;
    absl::StatusCode undone;  // kOk: it is that NIC, and nothing of ours is on it
  } const table[] = {
      {"another driver", [](FakeNic& nic) { nic.driver = "other"; }, "another NIC has its name now",
       absl::StatusCode::kNotFound},
      {"the link", [](FakeNic& nic) { nic.up = false; }, "the link is down", absl::StatusCode::kOk},
      {"buffers of the old one",
       [](FakeNic& nic) { nic.pools = {{.id = 5, .inflight = 4, .dmabuf = 11}}, nic.looks_until_free = 1; },
       "4 buffers of dma-buf 11", absl::StatusCode::kOk},
      {"a user", [](FakeNic& nic) { nic.queues[7].dmabuf = 5; }, "Rx queue 7 is in use: dma-buf 5",
       absl::StatusCode::kInternal},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.description);
    nic_ = FakeNic();
    auto binding = Bind();
    nic_.there = false;
    ComeBack(nic_);
    row.prepare(nic_);
    EXPECT_THAT(Text(binding->Rebind(99)), HasSubstr(row.said));
    EXPECT_THAT(nic_.calls, ::testing::Not(Contains("SetHeaderSplit")));
    EXPECT_EQ(binding->Look().status().code(), absl::StatusCode::kNotFound) << "it is still not there";
    EXPECT_EQ(binding->Undo(Soon()).code(), row.undone);
    EXPECT_EQ(fs::is_empty(folder_), row.undone == absl::StatusCode::kOk) << "the journal of what is not put back stays";
    binding.reset();
    fs::remove_all(folder_);
    fs::create_directory(folder_);
  }
}

TEST_F(RxBindingTest, AStepThatFailsOnANicThatCameBackUndoesTheFormer) {
  for (const char* step : {"Insert", "SetHeaderSplit", "SetRss", "Bind"}) {
    SCOPED_TRACE(step);
    nic_ = FakeNic();
    auto binding = Bind();
    ComeBack(nic_);
    const std::string before = nic_.Settings();
    nic_.fail[step] = absl::InternalError("the step fails");
    EXPECT_THAT(Text(binding->Rebind(99)), HasSubstr("the step fails"));
    nic_.fail.clear();
    EXPECT_TRUE(binding->Rebind(99).ok());
    EXPECT_TRUE(binding->Look()->intact);
    EXPECT_TRUE(binding->Undo(Soon()).ok());
    EXPECT_EQ(nic_.Settings(), before);
    EXPECT_TRUE(fs::is_empty(folder_));
  }
}

TEST_F(RxBindingTest, ARuleThatHadToMoveKeepsItsName) {
  auto binding = Bind();
  const uint32_t first = *binding->AddRule(Flow(40000), 0);
  nic_.rule_table[0] = {.location = first, .match = Flow(1), .exact = true, .ring_cookie = 2};  // another's in its place
  ASSERT_TRUE(binding->Rebind(99).ok());
  ASSERT_THAT(nic_.rule_table, SizeIs(2));
  nic_.rule_table.erase(nic_.rule_table.begin());  // the other goes, and ours gets its location
  const uint32_t second = *binding->AddRule(Flow(40001), 0);
  EXPECT_NE(second, first);
  EXPECT_TRUE(binding->RemoveRule(first).ok());
  ASSERT_THAT(nic_.rule_table, SizeIs(1));
  EXPECT_TRUE(nic_.rule_table[0].match == Flow(40001));
  EXPECT_TRUE(binding->RemoveRule(second).ok());
  EXPECT_THAT(nic_.rule_table, IsEmpty());
}

TEST_F(RxBindingTest, RebindDoesNotFight) {
  auto binding = Bind();
  nic_.Unbind(11);
  nic_.queues[7].dmabuf = 42;
  const absl::Status status = binding->Rebind(99);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), HasSubstr("Rx queue 7 is in use by another: dma-buf 42"));
  nic_.up = false;
  EXPECT_THAT(Text(binding->Rebind(99)), HasSubstr("the link is down"));
  nic_.up = true;
  const absl::Status undone = binding->Undo(Soon());
  EXPECT_THAT(Text(undone), HasSubstr("another's by now"));
  EXPECT_EQ(nic_.Split(), HeaderSplit::kOn) << "its owner needs it";
}

// --- several processes on one NIC -----------------------------------------------------------------------------------------

struct Sharing {
  const char* name;
  void (*prepare)(FakeNic&);
};

const Sharing kSharings[] = {
    {"plain", [](FakeNic&) {}},
    {"ntuple gates rules and is off; header split wants rx-gro-hw",
     [](FakeNic& nic) {
       nic.ntuple_gates = nic.split_wants_gro_hw = true;
       nic.features["rx-ntuple-filter"].active = false;
     }},
    {"an operator's choices",
     [](FakeNic& nic) {
       nic.rss = {0, 1, 6, 7, 0, 5, 6, 4};
       nic.split_set = HeaderSplit::kOn;
       nic.threshold = 256;
     }},
    {"a table that avoids two of the three",
     [](FakeNic& nic) {
       nic.rss = {0, 1, 5, 3};
     }},
};

class RxBindingSharing : public ::testing::TestWithParam<Sharing> {
 protected:
  static constexpr size_t kProcesses = 3;
  void Start() {
    nic_ = FakeNic();
    GetParam().prepare(nic_);
    before_ = nic_.Settings();
    const std::vector<std::vector<uint32_t>> queues = {{6, 7}, {5}, {4}};
    for (size_t i = 0; i < kProcesses; ++i) {
      nic_.ifindex = static_cast<uint32_t>(10 + i);
      RxBindingOptions options = Options(folder_);
      options.queues = queues[i];
      auto made = CreateRxBinding(nic_.Kernel(), options);
      ASSERT_TRUE(made.ok()) << made.status();
      bindings_[i] = *std::move(made);
      AllIntact();
    }
  }
  void AllIntact() {
    for (const auto& binding : bindings_) {
      if (binding == nullptr) continue;
      const auto state = binding->Look();
      ASSERT_TRUE(state.ok()) << state.status();
      EXPECT_TRUE(state->intact) << state->why;
    }
  }
  void Kill(size_t i) {
    const std::string path = JournalOf(i), text = Read(path);
    const uint32_t dmabuf = bindings_[i]->dmabuf_id();
    const FakeNic then = nic_;
    bindings_[i].reset();
    nic_ = then;
    nic_.Unbind(dmabuf);
    std::ofstream(path) << text;
  }
  std::string JournalOf(size_t i) {
    for (const std::string& path : RxJournalFile::All(folder_)) {
      if (path.find("/rx-" + std::to_string(10 + i) + "-") != std::string::npos) return path;
    }
    return "";
  }
  const std::string folder_ = Folder();
  FakeNic nic_;
  std::string before_;
  std::array<std::unique_ptr<RxBinding>, kProcesses> bindings_;
};

INSTANTIATE_TEST_SUITE_P(Nics, RxBindingSharing, ::testing::ValuesIn(kSharings),
                         [](const auto& sharing) { return "kind_" + std::to_string(sharing.index); });

TEST_P(RxBindingSharing, TheLastToLeavePutsTheNicBack) {
  SCOPED_TRACE(GetParam().name);
  std::array<size_t, kProcesses> order = {0, 1, 2};
  do {
    SCOPED_TRACE(::testing::PrintToString(order));
    Start();
    for (const size_t i : order) {
      const absl::Status status = bindings_[i]->Undo(Soon());
      EXPECT_TRUE(status.ok()) << status;
      bindings_[i].reset();
      AllIntact();
    }
    EXPECT_EQ(nic_.Settings(), before_);
    EXPECT_TRUE(fs::is_empty(folder_));
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_P(RxBindingSharing, SoDoesOneWhoseFellowsWereKilled) {
  SCOPED_TRACE(GetParam().name);
  for (const bool recovered_at_once : {true, false}) {
    std::array<size_t, kProcesses> order = {0, 1, 2};
    do {
      SCOPED_TRACE(::testing::PrintToString(order));
      Start();
      for (size_t at = 0; at < kProcesses; ++at) {
        const size_t i = order[at];
        if (at == 1) {
          EXPECT_TRUE(bindings_[i]->Undo(Soon()).ok());
          bindings_[i].reset();
        } else {
          Kill(i);
        }
        if (recovered_at_once || at + 1 == kProcesses) (void)RecoverFrom(nic_, folder_);
        AllIntact();
      }
      EXPECT_EQ(nic_.Settings(), before_);
      EXPECT_TRUE(fs::is_empty(folder_));
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_P(RxBindingSharing, WhoComesWhileAnotherLeavesKnowsWhatWas) {
  SCOPED_TRACE(GetParam().name);
  Start();
  bindings_[0].reset();
  nic_.ifindex = 20;
  auto next = CreateRxBinding(nic_.Kernel(), Options(folder_));
  ASSERT_TRUE(next.ok()) << next.status();
  for (auto& binding : bindings_) binding.reset();
  EXPECT_TRUE((*next)->Look()->intact);
  EXPECT_TRUE((*next)->Undo(Soon()).ok());
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_P(RxBindingSharing, ATableThatAnotherSetMeanwhileStays) {
  Start();
  const std::vector<uint32_t> theirs = {0, 0, 1, 1, 2, 2, 2, 2};
  nic_.rss = theirs;
  std::string said;
  for (auto& binding : bindings_) said += Text(binding->Undo(Soon()));
  EXPECT_THAT(said, HasSubstr("RSS table was changed by another"));
  EXPECT_EQ(nic_.rss, theirs);
}

// --- Recover: what it finds besides its own -------------------------------------------------------------------------------

class RecoverTest : public RxBindingTest {
 protected:
  // A dead process's journal and NIC: bound, one rule.
  void Die() {
    auto binding = Bind();
    ASSERT_TRUE(binding->AddRule(Flow(40000), 0).ok());
    const std::string path = RxJournalFile::All(folder_)[0];
    const std::string text = Read(path);
    const FakeNic dead = nic_;
    binding.reset();
    nic_ = dead;
    nic_.Unbind(11);
    nic_.calls.clear();
    std::ofstream(path) << text;
    path_ = path;
  }
  void Rewrite(const std::string& from, const std::string& to) {
    std::string text = Read(path_);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << text;
    std::ofstream(path_) << text.replace(at, from.size(), to);
  }
  std::string path_;
};

TEST_F(RecoverTest, SaysWhatItDid) {
  Die();
  const std::string by = " (left by process " + std::to_string(getpid()) + ")";
  EXPECT_THAT(RecoverFrom(nic_, folder_),
              ElementsAre("eth0: rule tcp 192.0.2.2:80 > 192.0.2.1:40000 to queue 6 taken out (location 0)" + by,
                          "eth0: the RSS table is put back" + by, "eth0: header split is off again" + by,
                          "journal " + path_ + ": removed: eth0 is put back"));
  EXPECT_EQ(nic_.Settings(), before_);
  EXPECT_THAT(RecoverFrom(nic_, folder_), IsEmpty());
}

TEST_F(RecoverTest, NothingThereIsNothingToSay) {
  EXPECT_THAT(RecoverFrom(nic_, folder_), IsEmpty());
  EXPECT_THAT(RecoverFrom(nic_, folder_ + "/none"), IsEmpty());
}

TEST_F(RecoverTest, TheLivingAreLeftAlone) {
  const auto binding = Bind();
  nic_.calls.clear();
  EXPECT_THAT(RecoverFrom(nic_, folder_), IsEmpty());
  EXPECT_THAT(nic_.calls, IsEmpty());
  EXPECT_THAT(RxJournalFile::All(folder_), SizeIs(1));
}

TEST_F(RecoverTest, AnotherBootsJournalOnlyGoes) {
  Die();
  Rewrite(*BootId(), "00000000-0000-0000-0000-000000000000");
  EXPECT_THAT(RecoverFrom(nic_, folder_), ElementsAre(HasSubstr("removed: from before this machine's last start")));
  EXPECT_THAT(nic_.calls, IsEmpty());
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(RecoverTest, ANicThatIsNotHereIsAwaited) {
  Die();
  Rewrite("\"netns\":" + std::to_string(*NetnsInode()), "\"netns\":5");
  nic_.there = false;
  EXPECT_THAT(
      RecoverFrom(nic_, folder_),
      ElementsAre(AllOf(HasSubstr("kept: eth0 (fake at 0000:00:07.0, 02:00:00:00:00:07) is not in this network namespace"),
                        HasSubstr("(it was in 5)"))));
  EXPECT_THAT(nic_.calls, IsEmpty());
  EXPECT_FALSE(fs::is_empty(folder_));
  // The namespace ended, and the kernel gave the NIC to the first.
  nic_.there = true;
  nic_.ifindex = 30;
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("removed: eth0 is put back")));
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RecoverTest, AnotherNicUnderItsIndexIsLeftAlone) {
  for (const bool here : {true, false}) {  // with a namespace's inode come again, or not
    SCOPED_TRACE(here);
    nic_ = FakeNic();
    Die();
    if (!here) Rewrite("\"netns\":" + std::to_string(*NetnsInode()), "\"netns\":5");
    nic_.permanent_mac = "02:00:00:00:00:99";
    EXPECT_THAT(RecoverFrom(nic_, folder_), ElementsAre(HasSubstr("kept: eth0")));
    EXPECT_THAT(nic_.calls, IsEmpty());
    fs::remove(path_);
  }
}

TEST_F(RecoverTest, WithoutAPermanentAddressItIsKnownWhereItWas) {
  nic_.permanent_mac.clear();
  Die();
  nic_.ifindex = 8;
  EXPECT_THAT(RecoverFrom(nic_, folder_), ElementsAre(HasSubstr("kept: eth0 (fake at 0000:00:07.0)")));
  nic_.ifindex = 7;
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("removed: eth0 is put back")));
}

TEST_F(RecoverTest, ARenamedInterfaceIsFound) {
  Die();
  nic_.name = "eth9";
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("removed: eth9 is put back")));
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RecoverTest, WhatIsNoJournalIsKept) {
  Die();
  const std::string text = Read(path_);
  std::ofstream(path_) << text.substr(0, text.size() / 2);
  fs::create_directory(folder_ + "/rx-1-1.json");
  fs::create_symlink("/etc/passwd", folder_ + "/rx-1-2.json");
  std::ofstream(folder_ + "/rx-1-3.json") << "";
  EXPECT_THAT(RecoverFrom(nic_, folder_), AllOf(SizeIs(4), Each(HasSubstr("kept"))));
  EXPECT_THAT(nic_.calls, IsEmpty());
  EXPECT_THAT(RxJournalFile::All(folder_), SizeIs(4));
}

TEST_F(RecoverTest, OnlyTheRuleOfThatFlowToThatQueueGoes) {
  Die();
  nic_.rule_table.push_back({.location = 3, .match = Flow(40000), .exact = true, .ring_cookie = 2});
  nic_.rule_table.push_back({.location = 4, .match = Flow(40001), .exact = true, .ring_cookie = 6});
  nic_.rule_table.push_back({.location = 5, .match = Flow(40000), .exact = false, .ring_cookie = 6});
  nic_.rule_table.push_back({.location = 6, .match = Flow(40000), .exact = true, .ring_cookie = 6, .has_context = true});
  (void)RecoverFrom(nic_, folder_);
  std::vector<uint32_t> left;
  for (const FlowRule& rule : nic_.rule_table) left.push_back(rule.location);
  EXPECT_THAT(left, ElementsAre(3, 4, 5, 6));
}

TEST_F(RecoverTest, ABindingThatOutlivesItsProcessIsLeftAlone) {
  Die();
  nic_.queues[6].dmabuf = 11;  // somebody holds its netlink socket
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("dma-buf 11 is bound to queue 6 (its socket is held by someone")));
  EXPECT_EQ(nic_.Split(), HeaderSplit::kOn);
  EXPECT_FALSE(fs::is_empty(folder_)) << "for the next start";
  nic_.Unbind(11);
  EXPECT_THAT(RecoverFrom(nic_, folder_), Contains(HasSubstr("is put back")));
  EXPECT_EQ(nic_.Settings(), before_);
}

TEST_F(RecoverTest, AnothersBindingSinceThenIsLeftAlone) {
  Die();
  nic_.queues[6].dmabuf = 42;
  EXPECT_THAT(RecoverFrom(nic_, folder_, seconds(60)),
              Contains(HasSubstr("dma-buf 42 is bound to queue 6 (another's by now)")));
  EXPECT_THAT(nic_.rule_table, IsEmpty()) << "our rule went";
  EXPECT_EQ(nic_.Split(), HeaderSplit::kOn);
  EXPECT_FALSE(fs::is_empty(folder_));
}

TEST_F(RecoverTest, WithoutAKernelThatAnswersTheJournalIsKept) {
  Die();
  const auto lines = RecoverOn([]() { return absl::PermissionDeniedError("no netlink here"); }, folder_, milliseconds(1));
  EXPECT_THAT(lines, ElementsAre(AllOf(HasSubstr("kept"), HasSubstr("no netlink here"))));
}

}  // namespace
}  // namespace devmem
