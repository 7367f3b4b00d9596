// SPDX-License-Identifier: Apache-2.0
#include "service/cli/summary.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "service/cli/cursor_text.h"

namespace devmem::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

Summary Example() {
  Summary summary;
  summary.stream_id = "s-1";
  summary.path = "copy";
  summary.path_reason = "the CPU device, over io_uring";
  summary.samples = 1000;
  summary.batches = 10;
  summary.epochs = 1;
  summary.bytes = 2000000000;
  summary.seconds = 0.5;
  summary.first_batch_ms = 12.5;
  summary.longest_gap_ms = 1700;
  summary.cpu_seconds = 0.8;
  summary.cpu_includes_daemon = true;
  summary.peak_rss_mib = 160;
  summary.statistics.emplace();
  summary.statistics->set_bytes(2000000000);
  summary.statistics->set_bytes_received(2200000000);
  summary.statistics->set_requests(240);
  summary.statistics->set_retries(3);
  summary.stalls.set_network(250000);
  summary.stalls.set_trainer(10000);
  summary.cursor.set_plan_version(1);
  summary.cursor.set_position(1000);
  summary.cursor.set_listing_fingerprint(255);
  return summary;
}

TEST(SummaryJson, HasWhatIsPromised) {
  const std::string text = SummaryJson(Example());
  EXPECT_THAT(text, Not(HasSubstr("\n"))) << "one line";
  const Json json = Json::parse(text);
  EXPECT_FALSE(json.contains("error"));
  EXPECT_EQ(json["path"], "copy");
  EXPECT_EQ(json["path_reason"], "the CPU device, over io_uring");
  EXPECT_EQ(json["samples"], 1000);
  EXPECT_EQ(json["batches"], 10);
  EXPECT_EQ(json["epochs"], 1);
  EXPECT_EQ(json["bytes"], 2000000000);
  EXPECT_EQ(json["seconds"], 0.5);
  EXPECT_EQ(json["gb_per_s"], 4.0);
  EXPECT_EQ(json["cpu_s_per_gb"], 0.4);
  EXPECT_EQ(json["cpu_includes_daemon"], true);
  EXPECT_EQ(json["first_batch_ms"], 12.5);
  EXPECT_EQ(json["longest_gap_ms"], 1700);
  EXPECT_EQ(json["peak_rss_mib"], 160.0);
  EXPECT_EQ(json["requests"], 240);
  EXPECT_EQ(json["amplification"], 1.1);
  EXPECT_EQ(json["retries"], 3);
  EXPECT_EQ(json["stalls"],
            Json({{"trainer", 0.01}, {"network", 0.25}, {"first_byte", 0.0}, {"device", 0.0}, {"memory", 0.0}}));
  EXPECT_EQ(json["skipped"], 0);
  EXPECT_EQ(json["stream_id"], "s-1");
  EXPECT_FALSE(json.contains("interrupted"));
  auto cursor = ReadCursor(json["cursor"]);
  ASSERT_TRUE(cursor.ok()) << cursor.status();
  EXPECT_EQ(cursor->position(), 1000u);
  EXPECT_EQ(json["fingerprint"], "00000000000000ff");
}

TEST(SummaryJson, WhatIsNotKnownIsNull) {
  const Json json = Json::parse(SummaryJson(Summary{}));
  for (const char* key :
       {"cpu_s_per_gb", "first_batch_ms", "longest_gap_ms", "requests", "amplification", "retries", "cursor"}) {
    EXPECT_TRUE(json.contains(key) && json[key].is_null()) << key;
  }
  EXPECT_EQ(json["gb_per_s"], 0.0);
}

TEST(SummaryJson, FailureComesFirst) {
  Summary summary = Example();
  summary.status = MakeError(
      absl::StatusCode::kDataLoss, "body ended early",
      {.object = "train/1.npy", .offset = 4096, .length = 1024, .cause = "truncated body", .action = "check the store"});
  summary.skipped_samples = 1;
  summary.skipped_objects = 1;
  summary.skipped = {{.object = "a.npy", .cause = "bad magic"}, {.object = "b.npy", .sample = 7, .cause = "truncated body"}};
  const std::string text = SummaryJson(summary);
  EXPECT_EQ(text.rfind("{\"error\":{\"code\":\"DATA_LOSS\"", 0), 0u) << text;
  const Json json = Json::parse(text);
  EXPECT_EQ(json["error"]["object"], "train/1.npy");
  EXPECT_EQ(json["error"]["offset"], 4096);
  EXPECT_EQ(json["error"]["length"], 1024);
  EXPECT_EQ(json["error"]["cause"], "truncated body");
  EXPECT_EQ(json["error"]["action"], "check the store");
  EXPECT_EQ(json["samples"], 1000);
  EXPECT_TRUE(json["cursor"].is_string());
  EXPECT_EQ(json["skipped"], 2);
  EXPECT_EQ(json["skipped_list"], Json::parse(R"([{"object":"a.npy","cause":"bad magic"},
                                                  {"object":"b.npy","sample":7,"cause":"truncated body"}])"));
}

TEST(SummaryJson, SurvivesBytesThatAreNotUtf8) {
  Summary summary = Example();
  summary.skipped = {{.object = "\xff\xfe.npy", .cause = "x"}};
  EXPECT_EQ(Json::parse(SummaryJson(summary))["skipped_list"][0]["object"], "\xEF\xBF\xBD\xEF\xBF\xBD.npy");
}

TEST(ErrorJson, NamesTheCode) {
  const Json json = Json::parse(ErrorJson(absl::NotFoundError("no such bucket")));
  EXPECT_EQ(json["error"]["code"], "NOT_FOUND");
  EXPECT_EQ(json["error"]["message"], "no such bucket");
}

TEST(SummaryText, SaysTheSame) {
  const std::string text = SummaryText(Example());
  for (const char* part :
       {"Done:", "copy (the CPU device, over io_uring)", "1000 samples, 10 batches, 1 epoch, 1.86 GiB in 0.5 s",
        "4.000 GB/s, 2000 samples/s", "0.400 s per GB, daemon included", "12.5 ms", "240, amplification 1.100, 3 retries",
        "trainer 10.0 ms, network 0.2 s"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  Summary failed = Example();
  failed.status = absl::UnavailableError("gone");
  EXPECT_THAT(SummaryText(failed), HasSubstr("Failed; until then"));
}

TEST(SummaryText, OneIsNotMany) {
  Summary summary = Example();
  summary.samples = summary.batches = summary.skipped_objects = summary.skipped_samples = 1;
  summary.statistics->set_retries(1);
  const std::string text = SummaryText(summary);
  for (const char* part : {"1 sample, 1 batch, 1 epoch", ", 1 retry\n", "Done:\n  SKIPPED         1 object whole, 1 sample\n"})
    EXPECT_THAT(text, HasSubstr(part));
}

TEST(SummaryText, NoFiguresOfNothing) {
  Summary summary;
  summary.status = absl::NotFoundError("gone");
  EXPECT_EQ(SummaryText(summary), "Failed before the stream was open.\n");
  summary.interrupted = true;
  EXPECT_EQ(SummaryText(summary), "Interrupted before the stream was open.\n");
  Summary small = Example();
  small.bytes = 8;
  EXPECT_THAT(SummaryText(small), Not(HasSubstr("per GB")));
}

TEST(TopStall, NamesTheLongest) {
  devmem_loader::v1::Stall stall;
  EXPECT_EQ(TopStall(stall, 1), "");
  stall.set_network(410000);
  stall.set_trainer(100000);
  EXPECT_EQ(TopStall(stall, 1), "network 41%");
  EXPECT_EQ(TopStall(stall, 0), "");
  EXPECT_EQ(TopStall(stall, 1000), "") << "not worth a word";
}

}  // namespace
}  // namespace devmem::cli
