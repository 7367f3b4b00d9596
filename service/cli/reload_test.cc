// SPDX-License-Identifier: Apache-2.0
#include "service/cli/reload.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/error.h"

namespace devmem::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReloadTest : public ::testing::Test {
 protected:
  ReloadTest() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    path_ = folder_ + "/config.yaml";
  }
  ~ReloadTest() override { std::filesystem::remove_all(folder_); }

  void Start(const std::string& text, std::vector<std::string> flags = {}) {
    Write(text);
    arguments_ = std::move(flags);
    arguments_.insert(arguments_.end(), {"--config", path_});
    auto values = DaemonTable(&options_).Parse(arguments_, Environment());
    ASSERT_TRUE(values.ok()) << values.status();
    values_ = *std::move(values);
  }
  void Write(const std::string& text) const { std::ofstream(path_) << text; }
  FlagTable::GetEnvironment Environment() {
    return [this](const char* name) {
      const auto found = environment_.find(name);
      return found == environment_.end() ? nullptr : found->second.c_str();
    };
  }
  absl::StatusOr<Changes> Again(const std::string& text) {
    Write(text);
    return Reload(arguments_, Environment(), &options_, &values_);
  }
  const FlagValue& Value(const std::string& name) {
    for (const FlagValue& value : values_) {
      if (value.name == name) return value;
    }
    std::abort();
  }

  std::string folder_ = ::testing::TempDir() + "/reload_XXXXXX";
  std::string path_;
  std::map<std::string, std::string> environment_;
  std::vector<std::string> arguments_;
  DaemonCommandOptions options_;
  std::vector<FlagValue> values_;
};

TEST_F(ReloadTest, WhatCanChangeDoes) {
  Start("memory_limit: 1GiB\nlog_level: info\nqueues: 4\n");
  const auto changes =
      Again("memory_limit: 2GiB\nlog_level: debug\ndefault_prefetch: 64MiB\nread_timeout: 1m\nmax_retries: 3\n");
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_THAT(changes->applied, ElementsAre("default_prefetch: 128MiB -> 64MiB", "memory_limit: 1GiB -> 2GiB",
                                            "read_timeout: 5m -> 1m", "max_retries: 12 -> 3", "log_level: info -> debug"));
  EXPECT_THAT(changes->restart, IsEmpty());
  EXPECT_EQ(options_.daemon.memory_limit, uint64_t{2} << 30);
  EXPECT_EQ(options_.daemon.default_prefetch, uint64_t{64} << 20);
  EXPECT_EQ(options_.daemon.policy.total_timeout, std::chrono::minutes(1));
  EXPECT_EQ(options_.daemon.policy.max_retries, 3);
  EXPECT_EQ(options_.log_level, "debug");
  EXPECT_EQ(Value("--memory-limit").value, "2GiB");
  EXPECT_EQ(Value("--memory-limit").line, 1);
}

TEST_F(ReloadTest, AccessRulesChange) {
  Start("memory_limit: 1GiB\n");
  const auto changes =
      Again("memory_limit: 1GiB\naccess:\n  - {uid: [1000, 1001], bucket: [s3://a], memory: 1GiB, streams: 4}\n");
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_THAT(changes->applied, ElementsAre("access: (not set) -> 1 entry"));
  EXPECT_EQ(options_.daemon.access,
            *AccessRules::Create({{.uids = {1000, 1001}, .buckets = {"s3://a"}, .memory = 1 << 30, .streams = 4}}));
  const auto same_length = Again("memory_limit: 1GiB\naccess: [{uid: 1000, bucket: s3://b}]\n");
  ASSERT_TRUE(same_length.ok()) << same_length.status();
  EXPECT_THAT(same_length->applied, ElementsAre("access: changed"));
  const absl::Status bad = Again("access: [{bucket: b}]\n").status();
  EXPECT_THAT(Text(bad), HasSubstr("access: rule 1: b: "));
  EXPECT_EQ(options_.daemon.access, *AccessRules::Create({{.uids = {1000}, .buckets = {"s3://b"}}})) << "nothing was changed";
  const auto emptied = Again("memory_limit: 1GiB\n");
  ASSERT_TRUE(emptied.ok()) << emptied.status();
  EXPECT_THAT(emptied->restart, ElementsAre("access: 1 entry -> (not set)"));
  EXPECT_EQ(options_.daemon.access, *AccessRules::Create({{.uids = {1000}, .buckets = {"s3://b"}}}))
      << "nobody is let in by a file that is empty";
}

TEST_F(ReloadTest, WhatCannotIsSaidEachTimeUntilItIsPutBack) {
  Start("queues: 4\ninterface: [eth1]\n");
  for (int i = 0; i < 2; ++i) {
    const auto changes = Again("queues: 8\ninterface: [eth1, eth2]\nlog_level: error\n");
    ASSERT_TRUE(changes.ok()) << changes.status();
    EXPECT_THAT(changes->restart, ElementsAre("interface: eth1 -> eth1,eth2", "queues: 4 -> 8"));
    EXPECT_EQ(changes->applied.size(), i == 0 ? 1u : 0u);
    EXPECT_EQ(options_.daemon.queues, 4u);
    EXPECT_THAT(options_.daemon.interfaces, ElementsAre("eth1"));
  }
  const auto back = Again("queues: 4\ninterface: eth1\nlog_level: error\n");
  ASSERT_TRUE(back.ok());
  EXPECT_THAT(back->restart, IsEmpty());
  EXPECT_THAT(back->applied, IsEmpty());
}

TEST_F(ReloadTest, AFileWithFaultsChangesNothing) {
  Start("memory_limit: 1GiB\n");
  const absl::Status status = Again("memory_limit: 2GiB\nlog_levle: debug\n").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text(status), path_ + ":2:1: unknown key 'log_levle'; did you mean log_level?");
  EXPECT_EQ(options_.daemon.memory_limit, uint64_t{1} << 30);
  std::filesystem::remove(path_);
  EXPECT_THAT(Text(Reload(arguments_, Environment(), &options_, &values_).status()), HasSubstr("cannot be opened"));
  EXPECT_EQ(options_.daemon.memory_limit, uint64_t{1} << 30);
}

TEST_F(ReloadTest, FlagsAndEnvironmentStillWin) {
  environment_ = {{"DEVMEM_MAX_RETRIES", "7"}};
  Start("memory_limit: 1GiB\nmax_retries: 1\n", {"--memory-limit", "4GiB"});
  const auto changes = Again("memory_limit: 2GiB\nmax_retries: 2\n");
  ASSERT_TRUE(changes.ok());
  EXPECT_THAT(changes->applied, IsEmpty());
  EXPECT_EQ(options_.daemon.memory_limit, uint64_t{4} << 30);
  EXPECT_EQ(options_.daemon.policy.max_retries, 7);
}

TEST_F(ReloadTest, TheSameInOtherWordsIsNoChange) {
  Start("memory_limit: 1GiB\nread_timeout: 60s\n");
  const auto changes = Again("memory_limit: 1024MiB\nread_timeout: 1m\ninterface: []\n");
  ASSERT_TRUE(changes.ok());
  EXPECT_THAT(changes->applied, IsEmpty());
  EXPECT_THAT(changes->restart, IsEmpty());
}

}  // namespace
}  // namespace devmem::cli
