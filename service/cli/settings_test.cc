// SPDX-License-Identifier: Apache-2.0
#include "service/cli/settings.h"

#include <gmock/gmock.h>

#include <set>

#include "base/error.h"

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;
using ::testing::HasSubstr;

const google::protobuf::Descriptor& Schema() { return *v1::Config::descriptor(); }
const google::protobuf::FieldDescriptor& Field(const std::string& name) { return *Schema().FindFieldByName(name); }

TEST(Settings, EachHasHelpAGroupAndADefaultThatItTakes) {
  const std::set<std::string> with_empty_defaults = {"take_over", "metrics_listen", "interface", "steer_address", "log_file"};
  v1::Config config;
  const std::vector<Flag> flags = SettingFlags(&config);
  ASSERT_EQ(flags.size(), static_cast<size_t>(Schema().field_count()));
  for (int i = 0; i < Schema().field_count(); ++i) {
    const std::string& key = Schema().field(i)->name();
    const Flag& flag = flags[static_cast<size_t>(i)];
    EXPECT_GT(flag.help.size(), 10u) << key << " has no comment";
    EXPECT_NE(flag.group, "") << key;
    if (flag.file_only) continue;
    EXPECT_EQ(flag.name, FlagOf(key));
    EXPECT_EQ(flag.fallback.empty(), with_empty_defaults.count(key) != 0) << key;
    if (!flag.fallback.empty()) {
      EXPECT_TRUE(flag.set(flag.fallback).ok()) << key;
    }
  }
  EXPECT_EQ(config.memory_limit(), 0u);
  EXPECT_EQ(config.default_prefetch(), uint64_t{128} << 20);
  EXPECT_EQ(config.socket_mode(), 0660u);
  EXPECT_EQ(config.read_timeout().seconds(), 300);
  EXPECT_EQ(config.transport(), v1::Config::TRANSPORT_AUTO);
}

TEST(Settings, OneGroupUnderAnotherHeading) {
  v1::Config config;
  for (const Flag& flag : SettingFlags(&config, "Log", "Elsewhere")) {
    EXPECT_EQ(flag.group, "Elsewhere");
    EXPECT_EQ(flag.name.rfind("--log-", 0), 0u);
  }
  EXPECT_EQ(SettingFlags(&config, "Log", "").size(), 3u);
}

TEST(Settings, HelpIsTheFirstParagraphOfTheComment) {
  EXPECT_EQ(SettingHelp(Field("connect_timeout")), "longest wait for a connection");
  EXPECT_EQ(SettingHelp(Field("socket")), "gRPC socket; its folder is made if need be, and the handle socket is PATH.fd");
  EXPECT_THAT(SettingHelp(Field("take_over")), HasSubstr("its trainers resume here"));
}

TEST(Settings, WhatStandsForTheValueFollowsFromTheType) {
  v1::Config config;
  const std::pair<const char*, const char*> kRows[] = {
      {"transport", "auto|devmem|copy"},
      {"receive_loop", "auto|io_uring|epoll"},
      {"interface", "NAME,..."},
      {"memory_limit", "SIZE"},
      {"socket_mode", "MODE"},
      {"stall_timeout", "TIME"},
      {"queues", "N"},
      {"take_over", ""},
      {"socket", "PATH"},
  };
  const std::vector<Flag> flags = SettingFlags(&config);
  for (const auto& [key, value] : kRows) {
    EXPECT_EQ(flags[static_cast<size_t>(Field(key).index())].value, value) << key;
  }
}

TEST(Settings, Values) {
  const struct {
    const char* key;
    const char* text;
    const char* result;  // the message, or what is accepted
  } kRows[] = {
      {"memory_limit", "1.5G", "memory_limit: 1610612736"},
      {"memory_limit", "-1", "expected a size such as 4096, 64KiB, 256MiB or 1G"},
      {"socket_mode", "0660", "socket_mode: 432"},
      {"socket_mode", "0888", "expected an octal file mode such as 0660"},
      {"drain_timeout", "250ms", "drain_timeout { nanos: 250000000 }"},
      {"drain_timeout", "1.5m", "drain_timeout { seconds: 90 }"},
      {"drain_timeout", "0", "drain_timeout { }"},
      {"drain_timeout", "soon", "expected a time such as 250ms, 5s, 2m or 1h"},
      {"stall_timeout", "0", "expected a time above 0"},
      {"take_over", "yes", "take_over: true"},
      {"take_over", "perhaps", "expected 1 or 0"},
      {"receive_loop", "io_uring", "receive_loop: RECEIVE_LOOP_IO_URING"},
      {"receive_loop", "unspecified", "expected auto, io_uring or epoll"},
      {"interface", "eth1,eth2", "interface: \"eth1\" interface: \"eth2\""},
      {"interface", "eth1,", "expected names separated by commas"},
      {"queues", "0", "expected a whole number from 1 to 1024"},
      {"queues", "1025", "expected a whole number from 1 to 1024"},
      {"max_retries", "0", ""},
      {"log_file", "a\nb", "expected one line without control characters"},
      {"socket", "", "expected something, not an empty text"},
  };
  for (const auto& row : kRows) {
    v1::Config config;
    const absl::Status status = SetSetting(&config, Field(row.key), row.text);
    EXPECT_THAT(status.ok() ? config.ShortDebugString() : Text(status), HasSubstr(row.result)) << row.key << ": " << row.text;
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_EQ(std::string(row.result).rfind("expected", 0), 0u) << row.key << ": " << row.text << ": " << status;
    }
  }
}

TEST(Settings, AListIsSetAnewEachTime) {
  v1::Config config;
  ASSERT_TRUE(SetSetting(&config, Field("interface"), "a,b").ok());
  ASSERT_TRUE(SetSetting(&config, Field("interface"), "c").ok());
  EXPECT_EQ(config.ShortDebugString(), "interface: \"c\"");
}

}  // namespace
}  // namespace devmem::cli
