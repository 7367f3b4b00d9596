// SPDX-License-Identifier: Apache-2.0
#include "service/cli/flag_table.h"

#include <gmock/gmock.h>

#include <map>

#include "base/error.h"

namespace devmem::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Options {
  std::string bucket;
  uint32_t batch = 0;
  bool pad = false;
  std::vector<std::string> tensors;
  int mode = -1;
  std::string uri;
};

class FlagTableTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<FlagValue>> Parse(const std::vector<std::string>& arguments) {
    return Table().Parse(arguments, [this](const char* name) -> const char* {
      auto found = environment_.find(name);
      return found == environment_.end() ? nullptr : found->second.c_str();
    });
  }
  FlagTable Table() {
    return FlagTable(
        {.usage = {"tool --bucket URI"}, .about = "A tool.", .examples = {{"one", "tool --bucket x"}}, .closing = "End."},
        {{.name = "--bucket", .value = "URI", .group = "Data", .help = "where", .set = SetText(&options_.bucket)},
         {.name = "--batch-size",
          .value = "N",
          .fallback = "1",
          .group = "Data",
          .help = "how many",
          .set = SetWhole(&options_.batch, 1)},
         {.name = "--pad", .group = "Order", .help = "fill up", .set = SetOn(&options_.pad)},
         {.name = "--tensor",
          .value = "T",
          .group = "Data",
          .help = "which",
          .set = SetTexts(&options_.tensors),
          .repeatable = true},
         {.name = "--mode",
          .value = "MODE",
          .group = "Order",
          .help = "how",
          .set = SetChoice<int>(&options_.mode, {{"slow", 1}, {"fast", 2}, {"faster", 3}})},
         {.name = "URI", .value = "URI", .group = "Data", .help = "positional", .set = SetText(&options_.uri)}});
  }
  Options options_;
  std::map<std::string, std::string> environment_;
};

TEST_F(FlagTableTest, FlagBeatsEnvironmentBeatsDefault) {
  environment_ = {{"DEVMEM_BATCH_SIZE", "7"}, {"DEVMEM_TENSOR", "a=1  b=2"}, {"DEVMEM_BUCKET", "env"}, {"DEVMEM_PAD", "yes"}};
  auto values = Parse({"--bucket", "flag", "--mode=fast"});
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_EQ(options_.bucket, "flag");
  EXPECT_EQ(options_.batch, 7u);
  EXPECT_TRUE(options_.pad);
  EXPECT_THAT(options_.tensors, ElementsAre("a=1", "b=2"));
  EXPECT_EQ(options_.mode, 2);
  EXPECT_EQ((*values)[0].origin, FlagValue::Origin::kFlag);
  EXPECT_EQ((*values)[1].origin, FlagValue::Origin::kEnvironment);
  const std::string config = PrintConfig(*values, false);
  EXPECT_THAT(config, HasSubstr("environment DEVMEM_BATCH_SIZE"));
  EXPECT_THAT(PrintConfig(*values, true), HasSubstr(R"("batch-size":{"value":"7","origin":"environment"})"));
}

TEST_F(FlagTableTest, DefaultsAreSetThroughTheSetter) {
  auto values = Parse({});
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(options_.batch, 1u);
  EXPECT_EQ((*values)[1].value, "1");
  EXPECT_EQ((*values)[1].origin, FlagValue::Origin::kDefault);
  EXPECT_EQ(options_.mode, -1);
}

TEST_F(FlagTableTest, RepeatedFlagsAndPositionals) {
  ASSERT_TRUE(Parse({"--tensor", "a", "uri", "--tensor", "b", "--batch-size", "2", "--batch-size", "3"}).ok());
  EXPECT_THAT(options_.tensors, ElementsAre("a", "b"));
  EXPECT_EQ(options_.uri, "uri");
  EXPECT_EQ(options_.batch, 3u);
}

TEST_F(FlagTableTest, ErrorsNameTheFlagTheValueAndWhatIsAccepted) {
  struct Case {
    std::vector<std::string> arguments;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {{"--batchsize", "3"}, {"--batchsize", "did you mean --batch-size?"}},
      {{"--batchsize=3"}, {"--batchsize", "did you mean --batch-size?"}},
      {{"--zzzzzzzz"}, {"unknown flag --zzzzzzzz", "--help"}},
      {{"--batch-size", "0"}, {"--batch-size", "'0'", "from 1 to 4294967295"}},
      {{"--batch-size", "many"}, {"--batch-size", "'many'"}},
      {{"--batch-size"}, {"--batch-size: expected a value, N", "--help"}},
      {{"--batch-size", "--pad"}, {"--batch-size: expected a value, N"}},
      {{"--mode", "medium"}, {"--mode", "'medium'", "slow, fast or faster"}},
      {{"--pad=perhaps"}, {"--pad", "'perhaps'", "expected 1 or 0"}},
      {{"--pad="}, {"--pad", "''", "expected 1 or 0"}},
      {{"uri", "another"}, {"'another'"}},
  };
  for (const Case& test : cases) {
    auto values = Parse(test.arguments);
    ASSERT_FALSE(values.ok()) << test.arguments[0];
    EXPECT_EQ(values.status().code(), absl::StatusCode::kInvalidArgument);
    for (const std::string& part : test.parts) EXPECT_THAT(Text(values.status()), HasSubstr(part));
  }
}

TEST_F(FlagTableTest, TheEnvironmentsFaultIsAnotherCode) {
  environment_ = {{"DEVMEM_BATCH_SIZE", "x"}};
  auto values = Parse({});
  EXPECT_EQ(values.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(values.status()), HasSubstr("DEVMEM_BATCH_SIZE"));
  EXPECT_TRUE(Parse({"--batch-size", "2"}).ok()) << "a flag hides what the environment says";
}

TEST_F(FlagTableTest, ASwitchCanBeTurnedOff) {
  environment_ = {{"DEVMEM_PAD", "yes"}};
  ASSERT_TRUE(Parse({"--pad=false"}).ok());
  EXPECT_FALSE(options_.pad);
  ASSERT_TRUE(Parse({"--pad=false", "--pad"}).ok());
  EXPECT_TRUE(options_.pad);
}

TEST(FlagTableFile, FillsWhatNobodyElseSaid) {
  int batch = 0;
  std::string mode;
  std::vector<std::string> asked;
  bool finished = false;
  const FlagTable table({},
                        {{.name = "--batch", .value = "N", .fallback = "1", .set = SetWhole(&batch)},
                         {.name = "--mode", .value = "M", .set = SetText(&mode)},
                         {.name = "rules", .file_only = true},
                         {.name = "--file",
                          .value = "FILE",
                          .fallback = "/default",
                          .read = [&](const std::string& path, bool by) -> absl::StatusOr<std::optional<FileValues>> {
                            asked.push_back(path + (by ? " asked" : ""));
                            if (path == "/bad") return absl::FailedPreconditionError("bad");
                            if (path == "/default") return std::nullopt;
                            return FileValues{{"--batch", {"7", path, 3}}, {"rules", {"2 entries", path, 4}}, {"--other", {}}};
                          }}},
                        [&] {
                          finished = true;
                          return absl::OkStatus();
                        });
  const auto none = [](const char*) -> const char* { return nullptr; };
  auto values = table.Parse({"--mode", "x"}, none);
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_TRUE(finished);
  EXPECT_EQ(batch, 1);
  EXPECT_EQ(values->back().value, "") << "a default file that is not there is none";

  values = table.Parse({"--file=/f", "--mode", "x"}, none);
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_EQ(batch, 7);
  EXPECT_EQ(PrintConfig(*values, false),
            "--batch                   7                                 file /f:3\n"
            "--mode                    x                                 flag\n"
            "rules                     2 entries                         file /f:4\n"
            "--file                    /f                                flag\n");
  ASSERT_TRUE(table.Parse({"--batch=8", "--file=/f"}, none).ok());
  EXPECT_EQ(batch, 8);

  finished = false;
  EXPECT_FALSE(table.Parse({"--file=/bad"}, none).ok());
  EXPECT_EQ(batch, 8) << "nothing is set of what cannot be read";
  EXPECT_FALSE(finished);
  EXPECT_THAT(asked, ElementsAre("/default", "/f asked", "/f asked", "/bad asked"));
  EXPECT_EQ(table.Help().find("rules"), std::string::npos);
  EXPECT_EQ(Text(table.Parse({"rules=1"}, none).status()).find("unexpected argument 'rules=1'"), 0u);
}

TEST(FlagTableFile, ABadValueNamesItsLine) {
  int batch = 0;
  const FlagTable table({}, {{.name = "--batch", .value = "N", .set = SetWhole(&batch, 1)},
                             {.name = "--file", .value = "FILE", .fallback = "/f", .read = [](const std::string& path, bool) {
                                return absl::StatusOr<std::optional<FileValues>>(FileValues{{"--batch", {"0", path, 3}}});
                              }}});
  const absl::Status status = table.Parse({}, [](const char*) -> const char* { return nullptr; }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), HasSubstr("/f:3: --batch: '0'"));
}

TEST_F(FlagTableTest, HelpIsGroupedAndNarrow) {
  const std::string help = Table().Help(80);
  EXPECT_THAT(help, HasSubstr("Usage: tool --bucket URI\n"));
  EXPECT_THAT(help, HasSubstr("--batch-size N"));
  EXPECT_THAT(help, HasSubstr("(default: 1)"));
  EXPECT_LT(help.find("Data:"), help.find("Order:"));
  EXPECT_EQ(help.find("Data:", help.find("Data:") + 1), std::string::npos) << "each group once";
}

TEST(PrintConfig, ShowsNoSecrets) {
  const std::vector<FlagValue> values = {{.name = "--bucket", .value = "http://key:secret@h/a?sig=abc"},
                                         {.name = "--tensor", .value = "a?b@c"}};
  for (const bool json : {false, true}) {
    const std::string text = PrintConfig(values, json);
    EXPECT_THAT(text, testing::Not(testing::AnyOf(testing::HasSubstr("secret"), testing::HasSubstr("abc")))) << text;
    EXPECT_THAT(text, testing::HasSubstr("h/a"));
    EXPECT_THAT(text, testing::HasSubstr("a?b@c")) << "no URI";
  }
}

}  // namespace
}  // namespace devmem::cli
