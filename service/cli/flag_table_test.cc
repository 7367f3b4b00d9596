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
      {{"--batch-size"}, {"--batch-size"}},
      {{"--mode", "medium"}, {"--mode", "'medium'", "slow, fast or faster"}},
      {{"--pad=perhaps"}, {"--pad"}},
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

TEST_F(FlagTableTest, HelpIsGroupedAndNarrow) {
  const std::string help = Table().Help(80);
  EXPECT_THAT(help, HasSubstr("Usage: tool --bucket URI\n"));
  EXPECT_THAT(help, HasSubstr("--batch-size N"));
  EXPECT_THAT(help, HasSubstr("(default: 1)"));
  EXPECT_LT(help.find("Data:"), help.find("Order:"));
  EXPECT_EQ(help.find("Data:", help.find("Data:") + 1), std::string::npos) << "each group once";
}

}  // namespace
}  // namespace devmem::cli
