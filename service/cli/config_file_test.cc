// SPDX-License-Identifier: Apache-2.0
#include "service/cli/config_file.h"

#include <gmock/gmock.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/text_format.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;
using ::testing::HasSubstr;

// The message, or the error.
std::string Read(const std::string& text) {
  v1::Config config;
  FileValues values;
  const absl::Status status = ReadConfig(text, "f", &config, &values);
  EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kFailedPrecondition) << status;
  return status.ok() ? config.ShortDebugString() : Text(status);
}

TEST(ConfigFile, Good) {
  const std::pair<const char*, const char*> kRows[] = {
      {"", ""},
      {"# nothing said\n", ""},
      {"---\n", ""},
      {"---\nqueues: 8\n...\n# the end\n", "queues: 8"},
      {"queues: 8", "queues: 8"},
      {"queues: \"8\"", "queues: 8"},
      {"memory_limit: 64MiB\nlog_level: debug\n", "memory_limit: 67108864 log_level: LOG_LEVEL_DEBUG"},
      {"memory_limit: 4096", "memory_limit: 4096"},
      {"socket_mode: 0600", "socket_mode: 384"},
      {"drain_timeout: 5", "drain_timeout { seconds: 5 }"},
      {"take_over: true", "take_over: true"},
      {"take_over: off", ""},
      {"interface: eth1", "interface: \"eth1\""},
      {"interface: eth1,eth2", "interface: \"eth1\" interface: \"eth2\""},
      {"interface: [eth1, eth2]", "interface: \"eth1\" interface: \"eth2\""},
      {"interface:\n  - eth1\n  - eth2\n", "interface: \"eth1\" interface: \"eth2\""},
      {"interface: []", ""},
      {"log_file: ''", ""},
      {"log_file: no", "log_file: \"no\""},
      {R"({"transport": "copy", "queues": 8, "take_over": true, "interface": ["eth1"]})",
       "take_over: true transport: TRANSPORT_COPY interface: \"eth1\" queues: 8"},
      {"stall_timeout: &t 3s\nread_timeout: *t\n", "stall_timeout { seconds: 3 } read_timeout { seconds: 3 }"},
  };
  for (const auto& [text, message] : kRows) EXPECT_EQ(Read(text), message) << text;
}

TEST(ConfigFile, Bad) {
  const std::pair<const char*, const char*> kRows[] = {
      {"memroy_limit: 1G", "f:1:1: unknown key 'memroy_limit'; did you mean memory_limit?"},
      {"memory-limit: 1G", "f:1:1: unknown key 'memory-limit'; did you mean memory_limit?"},
      {"queues: 2\n\n  # a remark\nwibble: 3\n", "f:4:1: unknown key 'wibble'"},
      {"queues: 2\nworkers: 1\nqueues: 3\n", "f:3:1: 'queues' is said twice, first in line 1"},
      {"queues: 0", "f:1:9: 'queues': '0': expected a whole number from 1 to 1024"},
      {"queues: many", "f:1:9: 'queues': 'many': expected a whole number from 1 to 1024"},
      {"queues: 1.0", "f:1:9: 'queues': '1.0': expected a whole number from 1 to 1024"},
      {"queues: 18446744073709551616", "f:1:9: 'queues': '18446744073709551616': expected a whole number from 1 to 1024"},
      {"queues:", "f:1:1: 'queues' has no value; leave the key away for its default"},
      {"queues: ~", "f:1:1: 'queues' has no value; leave the key away for its default"},
      {"queues: [1]", "f:1:9: 'queues': expected one value, not a list"},
      {"queues:\n  most: 1\n", "f:2:3: 'queues': expected one value, not a mapping"},
      {"interface: {eth1: 1}", "f:1:12: 'interface': expected a value or a list of values, not a mapping"},
      {"interface: [eth1, [eth2]]", "f:1:19: 'interface': expected a list of values"},
      {"interface: [eth1, 'eth2,eth3']", "f:1:19: 'interface': 'eth2,eth3': expected no commas in a name"},
      {"interface: [eth1, '']", "f:1:19: 'interface': '': expected names separated by commas"},
      {"transport: quic", "f:1:12: 'transport': 'quic': expected auto, devmem or copy"},
      {"memory_limit: 12 GB of it", "f:1:15: 'memory_limit': '12 GB of it': expected a size such as 4096, 64KiB, 256MiB or 1G"},
      {"stall_timeout: 0s", "f:1:16: 'stall_timeout': '0s': expected a time above 0, such as 250ms, 5s, 2m or 1h"},
      {"take_over: maybe", "f:1:12: 'take_over': 'maybe': expected 1 or 0 (or true, false, yes, no, on, off)"},
      {"socket: ''", "f:1:9: 'socket': '': expected something, not an empty text"},
      {"\"a\\0\\e[1m\": 1", "f:1:1: unknown key 'a\\000\\033[1m'"},
      {"log_file: \"a\\nb\"", "f:1:11: 'log_file': 'a\\nb': expected one line without control characters"},
      {"recover: true", "f:1:1: unknown key 'recover'"},
      {"- queues: 1", "f:1:1: expected keys with values, such as 'memory_limit: 64GiB'"},
      {"just words", "f:1:1: expected keys with values, such as 'memory_limit: 64GiB'"},
      {"? [a]\n: 1\n", "f:1:3: expected a key, not a list or a mapping"},
      {",", "f:1:1: expected one document, and here a second one begins"},
      {"queues: 1\n---\nqueues: 2\n", "f:2:1: expected one document, and here a second one begins"},
      // Of the parser's own: what is not closed is missed in the last line.
      {"queues: [1", "f:1:1: end of sequence flow not found"},
      {"queues: 1\n\tworkers: 2\n", "f:2:1: illegal tab when looking for indentation"},
      {"{\"queues\": 1,\n \"workers\" 2}", "f:2:12: end of map flow not found"},
      {"queues: *nothing", "f:1:9: the referenced anchor is not defined"},
      // All of them, in the order of the file.
      {"queue: 1\nworkers: x\n\nlog_level: loud\n",
       "f:1:1: unknown key 'queue'; did you mean queues?\n"
       "f:2:10: 'workers': 'x': expected a whole number from 0 to 1024\n"
       "f:4:12: 'log_level': 'loud': expected debug, info, warning or error"},
  };
  for (const auto& [text, message] : kRows) EXPECT_EQ(Read(text), message) << text;
}

TEST(ConfigFile, FaultsBeyondAScreenAreCounted) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "nonsense" + std::to_string(i) + ": 1\n";
  const std::string error = Read(text);
  EXPECT_THAT(error, HasSubstr("f:20:1: unknown key 'nonsense19'\nf: and 30 faults more"));
  EXPECT_EQ(error.find("nonsense20"), std::string::npos);
}

TEST(ConfigFile, NestingHasAnEnd) {
  const std::string error = Read("interface: " + std::string(100000, '['));
  EXPECT_EQ(error.rfind("f:1:", 0), 0u) << error;
}

TEST(ConfigFile, ValuesAreAsTypedWithTheirLines) {
  v1::Config config;
  FileValues values;
  ASSERT_TRUE(
      ReadConfig("queues: 8\n# -\nmemory_limit: 1G\ninterface:\n  - a\n  - b\nsteer_address: []\n", "f", &config, &values)
          .ok());
  ASSERT_EQ(values.size(), 3u);
  EXPECT_EQ(values["--queues"].text, "8");
  EXPECT_EQ(values["--memory-limit"].text, "1G");
  EXPECT_EQ(values["--memory-limit"].line, 3);
  EXPECT_EQ(values["--memory-limit"].path, "f");
  EXPECT_EQ(values["--interface"].text, "a,b");
  EXPECT_EQ(values["--interface"].line, 4);
}

// A schema with what that of the daemon has not: a list of messages, and one in it.
class Nested : public ::testing::Test {
 protected:
  Nested() {
    google::protobuf::FileDescriptorProto file;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
        R"pb(
          name: "nested.proto"
          syntax: "proto3"
          message_type {
            name: "Outer"
            field { name: "rules" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Rule" }
            field { name: "rest" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Rule" }
          }
          message_type {
            name: "Rule"
            field { name: "uid" number: 1 label: LABEL_OPTIONAL type: TYPE_UINT32 }
            field { name: "buckets" number: 2 label: LABEL_REPEATED type: TYPE_STRING }
            field {
              name: "memory"
              number: 3
              label: LABEL_OPTIONAL
              type: TYPE_UINT64
              options {
                [devmem_loader.v1.setting] { form: SIZE lowest: 4096 highest: 1048576 }
              }
            }
            field { name: "inner" number: 4 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Rule" }
            field { name: "ratio" number: 5 label: LABEL_OPTIONAL type: TYPE_DOUBLE }
          })pb",
        &file));
    message_.reset(factory_.GetPrototype(pool_.BuildFile(file)->FindMessageTypeByName("Outer"))->New());
  }

  std::string Read(const std::string& text) {
    message_->Clear();
    values_.clear();
    const absl::Status status = ReadConfig(text, "f", message_.get(), &values_);
    return status.ok() ? message_->ShortDebugString() : Text(status);
  }

  google::protobuf::DescriptorPool pool_;
  google::protobuf::DynamicMessageFactory factory_;
  std::unique_ptr<google::protobuf::Message> message_;
  FileValues values_;
};

TEST_F(Nested, Good) {
  EXPECT_EQ(Read("rules:\n  - uid: 1000\n    buckets: ['s3://a/x,y', s3://b]\n    memory: 64KiB\n  - inner: [{uid: 1}]\n"),
            "rules { uid: 1000 buckets: \"s3://a/x,y\" buckets: \"s3://b\" memory: 65536 } rules { inner { uid: 1 } }");
  EXPECT_EQ(values_["rules"].text, "2 entries");
  EXPECT_EQ(values_["rules"].line, 1);
  EXPECT_EQ(Read("rest: {uid: 7}"), "rest { uid: 7 }");
  EXPECT_EQ(Read("rules: []"), "");
}

TEST_F(Nested, Bad) {
  const std::pair<const char*, const char*> kRows[] = {
      {"rules: everyone", "f:1:8: 'rules': expected a list of mappings"},
      {"rules: {uid: 1}", "f:1:8: 'rules': expected a list of mappings"},
      {"rules:\n  - uid: 1\n  - 7\n", "f:3:5: expected keys with values, such as 'memory_limit: 64GiB'"},
      {"rules:\n  - uid: 1\n    bucket: x\n", "f:3:5: unknown key 'bucket'; did you mean buckets?"},
      {"rules:\n  - uid: 1\n    uid: 2\n", "f:3:5: 'uid' is said twice, first in line 2"},
      {"rules:\n  - uid: -1\n", "f:2:10: 'uid': '-1': expected a whole number from 0 to 4294967295"},
      {"rules:\n  - inner:\n      - uid: x\n", "f:3:14: 'uid': 'x': expected a whole number from 0 to 4294967295"},
      {"rules:\n  - memory: 1\n", "f:2:13: 'memory': '1': expected a size from 4.00 KiB to 1.00 MiB"},
      {"rules:\n  - memory: 2MiB\n", "f:2:13: 'memory': '2MiB': expected a size from 4.00 KiB to 1.00 MiB"},
      {"rules:\n  - uid: 1\n    buckets: []\n",
       "f:3:14: 'buckets' is an empty list; leave the key away for no limit by it, or the whole entry out"},
      {"rest: 1", "f:1:7: expected keys with values, such as 'memory_limit: 64GiB'"},
      {"rest: {ratio: 1}", "f:1:15: 'ratio': '1': Rule.ratio is of no type that a setting can have"},
  };
  for (const auto& [text, message] : kRows) EXPECT_EQ(Read(text), message) << text;
}

// Aliases make a node reachable many times over: what is read of them must not grow with the ways there.
TEST_F(Nested, AliasesDoNotMultiply) {
  std::string text = "rules:\n  - &a0 {uid: 1}\n";
  for (int i = 1; i < 40; ++i) {
    const std::string of = "*a" + std::to_string(i - 1);
    text += "  - &a" + std::to_string(i) + " {inner: [" + of + ", " + of + "]}\n";
  }
  EXPECT_THAT(Read(text), HasSubstr("too many"));
}

TEST(LoadConfig, OfTheDisk) {
  std::string folder = ::testing::TempDir() + "/config_XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  v1::Config config;
  const std::string path = folder + "/config.yaml";
  auto none = LoadConfig(path, false, &config);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());

  const absl::Status missing = LoadConfig(path, true, &config).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(missing), HasSubstr(path + ": cannot be opened: No such file or directory"));
  const absl::Status is_folder = LoadConfig(folder, false, &config).status();
  EXPECT_THAT(Text(is_folder), HasSubstr(folder + ": cannot be read: Is a directory"));

  std::ofstream(path) << "queues: 8\n";
  const auto read = LoadConfig(path, true, &config);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((*read)->at("--queues").text, "8");
  EXPECT_EQ(config.queues(), 0u) << "who has the last word on a flag is not the file's to say";

  std::ofstream(path) << std::string((1 << 20) + 1, '#');
  const absl::Status large = LoadConfig(path, true, &config).status();
  EXPECT_EQ(large.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(large), HasSubstr("is larger than 1048576 bytes"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace devmem::cli
