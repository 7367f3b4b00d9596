// SPDX-License-Identifier: Apache-2.0
#include "net/autoindex.h"

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kDate[] = "Sun, 22 Nov 2026 16:11:40 GMT";

absl::StatusOr<std::vector<AutoindexEntry>> Parse(std::string_view json, std::string_view where) {
  std::vector<AutoindexEntry> entries;
  const absl::Status status = ParseAutoindex(json, where, [&entries](AutoindexEntry entry) {
    entries.push_back(std::move(entry));
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return entries;
}

TEST(Autoindex, ReadsWhatNginxWrites) {
  // Verbatim from nginx 1.22.
  const auto entries = Parse(R"([
{ "name":"sub", "type":"directory", "mtime":"Sun, 22 Nov 2026 16:11:40 GMT" },
{ "name":"a b.txt", "type":"file", "mtime":"Sun, 22 Nov 2026 16:11:40 GMT", "size":3 },
{ "name":"pipe", "type":"other", "mtime":"Sun, 22 Nov 2026 16:11:40 GMT" },
{ "name":"q\"\\\u0001x", "type":"file", "mtime":"Sun, 22 Nov 2026 16:11:40 GMT", "size":2 }
])",
                             "http://h/");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, ElementsAre(AutoindexEntry{"sub", true, 0, ""}, AutoindexEntry{"a b.txt", false, 3, kDate},
                                    AutoindexEntry{"q\"\\\x01x", false, 2, kDate}));
  EXPECT_TRUE(Parse("[\n]", "x")->empty());
}

TEST(Autoindex, UnknownKeysAndOddDatesAreNoHarm) {
  const auto entries =
      Parse(R"([{"type":"file","size":9223372036854775807,"mode":7,"x":null,"mtime":"then","name":"n"}])", "x");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, ElementsAre(AutoindexEntry{"n", false, 9223372036854775807u, ""}));
}

TEST(Autoindex, Errors) {
  struct Row {
    const char* json;
    absl::StatusCode code;
    const char* says;
  };
  constexpr auto kNot = absl::StatusCode::kFailedPrecondition;
  constexpr auto kHostile = absl::StatusCode::kInvalidArgument;
  for (const Row& row : {
           Row{"", kNot, "autoindex_format json"},
           Row{"<html>", kNot, "devmem-loader index"},
           Row{"{}", kNot, "not an array"},
           Row{"[[]]", kNot, "array"},
           Row{"[1]", kNot, "number"},
           Row{"\"x\"", kNot, "string"},
           Row{"17", kNot, "number"},
           Row{"null", kNot, "null"},
           Row{"[{\"name\":\"x\",\"type\":\"file\"}]", kNot, "without a size"},
           Row{"[{\"type\":\"file\",\"size\":1}]", kNot, "without a name"},
           Row{"[{\"name\":{\"a\":1}}]", kNot, "object"},
           Row{"[{\"name\":1e5,\"type\":\"file\"}]", kNot, "whole"},
           Row{"[{\"name\":\"x\",\"type\":\"file\",\"size\":-1}]", kNot, "negative"},
           Row{"[{\"name\":\"x\",\"type\":\"file\",\"size\":1.5}]", kNot, "whole"},
           Row{"[{\"name\":\"x\",\"type\":\"file\",\"size\":\"1\"}]", kNot, "not a number"},
           Row{"[{\"name\":\"x\",\"type\":\"file\",\"size\":9223372036854775808}]", kNot, "2^63"},
           Row{"[{\"name\":\"x\",\"type\":\"file\",\"size\":1}", kNot, "not JSON"},
           Row{"[{\"name\":\"\xff\",\"type\":\"file\",\"size\":1}\xff]", kNot, "not JSON"},
           Row{"[{\"name\":\"\xff/\",\"type\":\"file\",\"size\":1}]", kHostile, "\\xff/"},
           Row{"[{\"name\":\"../x\",\"type\":\"file\",\"size\":1}]", kHostile, "\"../x\""},
           Row{"[{\"name\":\"/etc/passwd\",\"type\":\"file\",\"size\":1}]", kHostile, "/etc/passwd"},
           Row{"[{\"name\":\"a/b\",\"type\":\"file\",\"size\":1}]", kHostile, "a/b"},
           Row{"[{\"name\":\"a\\u0000b\",\"type\":\"directory\"}]", kHostile, "a\\x00b"},
           Row{"[{\"name\":\"\",\"type\":\"file\",\"size\":1}]", kHostile, "empty"},
       }) {
    const auto entries = Parse(row.json, "http://h/d/");
    EXPECT_EQ(entries.status().code(), row.code) << row.json << ": " << entries.status();
    EXPECT_THAT(Text(entries.status()), HasSubstr(row.says)) << row.json;
    EXPECT_EQ(GetErrorInfo(entries.status()).object, "http://h/d/") << row.json;
  }
}

// nginx writes the bytes of a name, whatever they are.
TEST(Autoindex, NamesThatAreNotUtf8) {
  for (const std::string name :
       {"caf\xe9.npy", "\xff", "\xc3", "\xe2\x82", "both \xc3\xa9 and \xe9", "\xf4\x8f\xbf\xa9 and \xe9", "\xf4\x90\x80\x80"}) {
    const std::string json = R"([{"name":")" + name + R"(","type":"file","size":1},{"name":"ok","type":"file","size":2}])";
    const auto entries = Parse(json, "x");
    ASSERT_TRUE(entries.ok()) << entries.status();
    EXPECT_THAT(*entries, ElementsAre(AutoindexEntry{name, false, 1, ""}, AutoindexEntry{"ok", false, 2, ""}));
  }
}

TEST(Autoindex, OneBadNameSpoilsNothingElse) {
  const std::string longest(5000, 'x');
  const auto entries = Parse(R"([{"name":"..","type":"directory"},{"name":".","type":"file","size":1},)"
                             R"({"name":"a\u0000b","type":"file","size":1},{"name":")" +
                                 longest + R"(","type":"file","size":1},{"name":"ok","type":"file","size":2}])",
                             "x");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, ElementsAre(AutoindexEntry{std::string("a\0b", 3), false, 1, ""}, AutoindexEntry{longest, false, 1, ""},
                                    AutoindexEntry{"ok", false, 2, ""}));
}

TEST(Autoindex, ALongTokenIsNeverHeld) {
  const std::string long_name(1 << 20, 'n');
  for (const std::string& json :
       {"[{\"name\":\"" + long_name + "\",\"type\":\"file\",\"size\":1}]", "[{\"size\":" + std::string(1 << 20, '1') + "}]",
        "[{\"name\":\"" + long_name, "[" + std::string(1 << 20, '\\')}) {
    EXPECT_THAT(Text(Parse(json, "x").status()), HasSubstr("a name or a value of 1048")) << json.substr(0, 20);
  }
  // 4 KiB of name, every byte escaped, is a name.
  std::string escaped;
  for (int i = 0; i < 4096; ++i) escaped += "\\u0041";
  const auto entries = Parse("[{\"name\":\"" + escaped + "\",\"type\":\"file\",\"size\":1}]", "x");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->front().name, std::string(4096, 'A'));
  // What is no listing at all is told so, however long.
  EXPECT_THAT(Text(Parse("<html>" + long_name, "x").status()), HasSubstr("not JSON"));
}

TEST(Autoindex, EndsWhereItsTakerDoes) {
  int taken = 0;
  const absl::Status status = ParseAutoindex(R"([{"name":"a","type":"file","size":1},{"name":"b","type":"file","size":1}])",
                                             "x", [&taken](const AutoindexEntry&) {
                                               ++taken;
                                               return absl::ResourceExhaustedError("full");
                                             });
  EXPECT_EQ(status, absl::ResourceExhaustedError("full"));
  EXPECT_EQ(taken, 1);
}

TEST(Autoindex, DeepNestingEndsAtTheFirstStep) { EXPECT_FALSE(Parse(std::string(1 << 20, '['), "x").ok()); }

}  // namespace
}  // namespace devmem
