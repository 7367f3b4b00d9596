// SPDX-License-Identifier: Apache-2.0
#include "net/rx/rx_journal.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/testing/temporary_folder.h"

namespace devmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string Folder() { return TemporaryFolder("journal"); }

sockaddr_storage Endpoint(const char* address, uint16_t port) {
  sockaddr_storage storage{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
  }
  return storage;
}

RxJournal Full() {
  return {.pid = 4242,
          .pid_namespace = 4026531836,
          .start_time = 123456,
          .boot_id = "4a1e0d2c-0000-0000-0000-000000000000",
          .netns = 4026531840,
          .interface = "eth0",
          .ifindex = 7,
          .nic = {"bnxt_en", "0000:3b:00.0", "02:00:00:00:00:07"},
          .queues = {6, 7},
          .dmabuf = 3,
          .features = {{"rx-gro-hw", false}},
          .header_split = {{HeaderSplit::kOff, 256}},
          .rss = {{{0, 1, 6, 7}, {0, 1, 0, 1}, false, true}},
          .rules = {{{Endpoint("192.0.2.2", 80), Endpoint("192.0.2.1", 40112)}, 6},
                    {{Endpoint("2001:db8::2", 443), Endpoint("2001:db8::1", 0)}, 7}}};
}

TEST(RxJournal, ReadsBackWhatItWrites) {
  for (const RxJournal& journal : {Full(), RxJournal{.boot_id = "x"}}) {
    const auto parsed = RxJournal::Parse(journal.ToJson());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->ToJson(), journal.ToJson());
    ASSERT_EQ(parsed->rules.size(), journal.rules.size());
    for (size_t i = 0; i < parsed->rules.size(); ++i) EXPECT_TRUE(parsed->rules[i].match == journal.rules[i].match);
  }
}

TEST(RxJournal, IsLegible) {
  EXPECT_EQ(
      Full().ToJson(),
      R"({"boot_id":"4a1e0d2c-0000-0000-0000-000000000000","dmabuf":3,"features":[{"name":"rx-gro-hw","was":false}],)"
      R"("header_split":{"resetting":false,"threshold_was":256,"was":"off"},"ifindex":7,"interface":"eth0","netns":4026531840,)"
      R"("nic":{"bus":"0000:3b:00.0","driver":"bnxt_en","permanent_mac":"02:00:00:00:00:07"},"pid":4242,"pid_namespace":4026531836,)"
      R"("queues":[6,7],"rss":{"by_kernel":true,"resetting":false,"set":[0,1,0,1],"was":[0,1,6,7]},"rules":[{"destination":{"address":"192.0.2.1",)"
      R"("port":40112},"queue":6,"source":{"address":"192.0.2.2","port":80}},{"destination":{"address":"2001:db8::1",)"
      R"("port":0},"queue":7,"source":{"address":"2001:db8::2","port":443}}],"start_time":123456,"version":2})"
      "\n");
}

TEST(RxJournal, NothingElseIsTakenForOne) {
  const std::string whole = Full().ToJson();
  // Every truncation but the last newline's.
  for (size_t length = 0; length + 2 < whole.size(); ++length) {
    ASSERT_EQ(RxJournal::Parse(whole.substr(0, length)).status().code(), absl::StatusCode::kDataLoss) << length;
  }
  for (const std::string text :
       {"null", "[]", "{}", "{\"version\":1}", "{\"version\":\"2\"}", "\xff", "{\"version\":2,\"pid\":\"x\"}"}) {
    EXPECT_EQ(RxJournal::Parse(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST(RxJournalFile, IsReplacedAsAWhole) {
  const std::string folder = Folder() + "/made/on/demand";
  RxJournal journal = Full();
  auto file = RxJournalFile::Make(folder, journal);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string path = folder + "/rx-7-4026531840-4026531836-4242-123456.json";
  EXPECT_THAT(RxJournalFile::All(folder), ElementsAre(path));
  journal.rules.clear();
  ASSERT_TRUE((*file)->Write(journal).ok());
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), journal.ToJson());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1) << "nothing is left beside it";
  EXPECT_EQ(RxJournalFile::Make(folder, journal).status().code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE((*file)->Remove().ok());
  EXPECT_THAT(RxJournalFile::All(folder), IsEmpty());
}

TEST(RxJournalFile, AFolderThatCannotBeWrittenIsAnError) {
  RxJournal journal = Full();
  const auto file = RxJournalFile::Make("/proc/self/none", journal);
  EXPECT_FALSE(file.ok());
  EXPECT_THAT(Text(file.status()), HasSubstr("/proc/self/none"));
}

// A child that makes a journal, writes it again, and lives until it is killed.
class Owner {
 public:
  explicit Owner(const std::string& folder) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_ = fork();
    if (pid_ == 0) {
      RxJournal journal = Full();
      auto file = RxJournalFile::Make(folder, journal);
      const bool ok = file.ok() && (*file)->Write(journal).ok();
      if (write(ready[1], ok ? "y" : "n", 1) != 1) _exit(1);
      while (true) pause();
    }
    char said = 0;
    EXPECT_EQ(read(ready[0], &said, 1), 1);
    EXPECT_EQ(said, 'y');
    close(ready[0]);
    close(ready[1]);
  }
  ~Owner() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  pid_t pid_ = 0;
};

TEST(RxJournalFile, BelongsToItsProcessUntilThatIsDead) {
  const std::string folder = Folder();
  Owner owner(folder);
  const std::vector<std::string> paths = RxJournalFile::All(folder);
  ASSERT_EQ(paths.size(), 1);
  EXPECT_EQ(RxJournalFile::Adopt(paths[0]).status().code(), absl::StatusCode::kUnavailable);
  owner.Kill();
  auto file = RxJournalFile::Adopt(paths[0]);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->text(), Full().ToJson());
  EXPECT_EQ(RxJournalFile::Adopt(paths[0]).status().code(), absl::StatusCode::kUnavailable) << "two cannot recover at once";
  ASSERT_TRUE((*file)->Remove().ok());
  EXPECT_EQ(RxJournalFile::Adopt(paths[0]).status().code(), absl::StatusCode::kNotFound);
}

// Process 1 of two containers, which share the folder: with the host's network, or each with its own, where indexes are the
// same.
TEST(RxJournalFile, ContainersDoNotCollide) {
  const std::string folder = Folder();
  RxJournal first = Full(), second = Full(), third = Full();
  first.pid = second.pid = third.pid = 1;
  second.pid_namespace += 1;
  third.netns += 1;
  third.nic.permanent_mac = "02:00:00:00:00:08";
  std::vector<std::unique_ptr<RxJournalFile>> files;
  for (RxJournal* const journal : {&first, &second, &third}) {
    auto file = RxJournalFile::Make(folder, *journal);
    ASSERT_TRUE(file.ok()) << file.status();
    files.push_back(*std::move(file));
  }
  EXPECT_THAT(RxJournalFile::All(folder), SizeIs(3));
  const std::vector<OtherJournal> others = files[0]->Others(first);
  ASSERT_THAT(others, SizeIs(1)) << "of this NIC, besides its own";
  EXPECT_TRUE(others[0].lives);
  EXPECT_EQ(others[0].journal.ToJson(), second.ToJson());
  files[1].reset();
  EXPECT_FALSE(files[0]->Others(first).at(0).lives);
}

TEST(RxJournalFile, WhatThisProcessLeftGoesOn) {
  const std::string folder = Folder();
  RxJournal journal = Full();
  ASSERT_TRUE(RxJournalFile::Make(folder, journal).ok()) << "and nobody holds it any more";
  RxJournal next = Full();
  next.features.clear();
  next.header_split.reset();
  next.rss.reset();
  next.rules.clear();
  next.queues = {5};
  ASSERT_TRUE(RxJournalFile::Make(folder, next).ok());
  journal.queues = {5};
  EXPECT_EQ(next.ToJson(), journal.ToJson());
}

TEST(RxFolder, IsHeldByOneAtATime) {
  const std::string folder = Folder() + "/made";
  int pauses = 0;
  const auto pause = [&](Duration) { ++pauses; };
  auto held = RxFolder::Hold(folder, Clock::now(), pause);
  ASSERT_TRUE(held.ok()) << held.status();
  const auto late = RxFolder::Hold(folder, Clock::now() + std::chrono::milliseconds(2), pause);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Text(late.status()), HasSubstr(folder));
  EXPECT_GT(pauses, 0);
  held = absl::InternalError("let go");
  EXPECT_TRUE(RxFolder::Hold(folder, Clock::now(), pause).ok());
}

constexpr auto kNoPause = [](Duration) { FAIL() << "nobody has the folder"; };

TEST(LookAtJournals, TellsWhoLivesAndLeavesAllAsItIs) {
  const std::string folder = Folder();
  std::string dead;
  {
    Owner killed(folder);
    dead = RxJournalFile::All(folder).at(0);
  }
  RxJournal journal = Full();
  journal.ifindex = 8;
  const auto living = RxJournalFile::Make(folder, journal);
  ASSERT_TRUE(living.ok()) << living.status();
  std::ofstream(folder + "/rx-9-1.json") << "{";
  std::ofstream(folder + "/rx-9-1.json.new") << "{";
  std::ofstream(folder + "/loader.sock") << "another's";
  const auto seen = LookAtJournals(folder, Clock::now(), kNoPause);
  ASSERT_TRUE(seen.ok()) << seen.status();
  ASSERT_THAT(*seen, SizeIs(3));
  EXPECT_EQ((*seen)[0].path, dead);
  EXPECT_FALSE((*seen)[0].lives);
  ASSERT_TRUE((*seen)[0].journal.ok());
  EXPECT_EQ((*seen)[0].journal->ToJson(), Full().ToJson());
  EXPECT_EQ((*seen)[1].path, (*living)->path());
  EXPECT_TRUE((*seen)[1].lives);
  EXPECT_EQ((*seen)[2].journal.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Text((*seen)[2].journal.status()), HasSubstr("rx-9-1.json"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/rx-9-1.json.new")) << "who only looks removes nothing";
  EXPECT_TRUE(RxJournalFile::Adopt(dead).ok()) << "and holds nothing";
}

TEST(LookAtJournals, WaitsForWhoPutsBackAndNeverMakesAFolder) {
  const std::string folder = Folder();
  const auto none = LookAtJournals(folder + "/none", Clock::now(), kNoPause);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(folder + "/none"));
  std::ofstream(folder + "/file") << "";
  const auto file = LookAtJournals(folder + "/file", Clock::now(), kNoPause);
  EXPECT_EQ(file.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(file.status()), HasSubstr("/file: the journal's folder cannot be opened: Not a directory"));

  int pauses = 0;
  auto held = RxFolder::Hold(folder, Clock::now(), kNoPause);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_TRUE(absl::IsUnavailable(LookAtJournals(folder, Clock::now(), kNoPause).status()));
  const auto let_go = [&](Duration) {
    ++pauses;
    held = absl::InternalError("let go");
  };
  EXPECT_TRUE(LookAtJournals(folder, Clock::now() + std::chrono::hours(1), let_go).ok());
  EXPECT_EQ(pauses, 1);
}

TEST(RxJournalFile, HalfWrittenOnesOfTheDeadGo) {
  const std::string folder = Folder();
  std::ofstream(folder + "/rx-7-1.json.new") << "{";
  std::ofstream(folder + "/rx-7-1.txt") << "another's";
  EXPECT_THAT(RxJournalFile::All(folder), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(folder + "/rx-7-1.json.new"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/rx-7-1.txt"));
}

TEST(RxJournal, KnowsWhereItIs) {
  const auto journal = RxJournal::Here("lo", 1);
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_EQ(journal->pid, getpid());
  EXPECT_GT(journal->start_time, 0);
  EXPECT_EQ(journal->boot_id.size(), 36);
  EXPECT_GT(journal->netns, 0);
}

}  // namespace
}  // namespace devmem
