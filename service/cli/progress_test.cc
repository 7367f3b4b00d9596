// SPDX-License-Identifier: Apache-2.0
#include "service/cli/progress.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/error.h"

namespace devmem::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

devmem_loader::v1::StreamOpened Opened() {
  devmem_loader::v1::StreamOpened opened;
  opened.set_stream_id("s-1");
  opened.mutable_path()->set_name("copy");
  opened.mutable_path()->set_reason("no GPU");
  opened.set_samples(1000);
  opened.set_steps_per_epoch(10);
  opened.add_warnings("many small requests");
  return opened;
}

void RunAll(Progress& progress) {
  progress.Opening("headers", 3, 10);
  progress.Opened(Opened(), 20);
  Totals totals;
  totals.samples = 500;
  totals.batches = 5;
  totals.bytes = 1000000;
  totals.stalls.set_network(1);
  progress.Tick(Clock::now() + std::chrono::seconds(1), totals);
  progress.Skipped("evil\x1b[2J\xc2\x9b\xe2\x80\xae.npy", 7, "truncated body");
  progress.Skipped("b.npy", std::nullopt, "bad magic");
  progress.Reconnect(absl::UnavailableError("the daemon went away"));
  progress.Warning("w");
  devmem_loader::v1::EpochEnd end;
  end.set_batches(10);
  progress.EpochEnd(end);
  progress.Error(MakeError(absl::StatusCode::kDataLoss, "broken", {.object = "x.npy"}));
  progress.Finish();
}

TEST(JsonLines, OneObjectALine) {
  std::string text;
  auto progress = MakeJsonLines([&](std::string_view more) { text.append(more); });
  RunAll(*progress);
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  std::vector<std::string> events;
  events.reserve(lines.size());
  for (const Json& line : lines) events.push_back(line["event"]);
  EXPECT_EQ(events, (std::vector<std::string>{"opening", "opened", "warning", "progress", "skipped", "skipped", "reconnect",
                                              "warning", "epoch_end", "error"}));
  EXPECT_EQ(lines[1]["path_reason"], "no GPU");
  EXPECT_EQ(lines[2]["message"], "many small requests");
  EXPECT_EQ(lines[3]["percent"], 25.0);
  EXPECT_EQ(lines[3]["samples"], 500);
  EXPECT_GT(lines[3]["eta_s"], 0.0);
  EXPECT_EQ(lines[4]["sample"], 7);
  EXPECT_EQ(lines[4]["object"], "evil\x1b[2J\xc2\x9b\xe2\x80\xae.npy");
  for (const char* control : {"\x1b", "\xc2\x9b", "\xe2\x80\xae"}) EXPECT_THAT(text, Not(HasSubstr(control)));
  EXPECT_FALSE(lines[5].contains("sample"));
  EXPECT_EQ(lines[6]["code"], "UNAVAILABLE");
  EXPECT_EQ(lines[9]["object"], "x.npy");
}

TEST(LiveLine, StaysOnOneLineAndShowsNoControlCharacters) {
  std::string text;
  auto progress = MakeLiveLine([&](std::string_view more) { text.append(more); }, [] { return size_t{30}; });
  RunAll(*progress);
  EXPECT_THAT(text, HasSubstr("path copy: no GPU\n"));
  EXPECT_THAT(text, HasSubstr("warning: many small requests\n"));
  EXPECT_THAT(text, HasSubstr("skipped sample 7 of evil\\x1b[2J\\u009b\\u202e.npy: truncated body\n"));
  EXPECT_THAT(text, Not(HasSubstr("evil\x1b")));
  EXPECT_THAT(text, HasSubstr(" GB/s"));
  EXPECT_THAT(text, Not(HasSubstr("ETA"))) << "cut at the terminal's width";
}

TEST(LiveLine, FitsTheTerminalHoweverLongTheReason) {
  std::vector<std::string> written;
  auto progress = MakeLiveLine([&](std::string_view more) { written.emplace_back(more); }, [] { return size_t{40}; });
  auto opened = Opened();
  opened.mutable_path()->set_reason(std::string(300, 'r'));
  opened.clear_warnings();
  progress->Opening(std::string(90, 'p'), 1, 2);
  progress->Opened(opened, 20);
  Totals totals;
  totals.batches = 5;
  totals.bytes = 1000000;
  progress->Tick(Clock::now() + std::chrono::seconds(1), totals);
  ASSERT_EQ(written.size(), 3u);
  for (std::string line : written) {
    for (const char* control : {"\r", "\x1b[K", "\n"}) {
      for (size_t at; (at = line.find(control)) != std::string::npos;) line.erase(at, std::string(control).size());
    }
    EXPECT_LE(line.size(), 40u) << line;
  }
  EXPECT_THAT(written[1], HasSubstr("path copy: rrr"));
  EXPECT_THAT(written[1], HasSubstr("...\n"));
  EXPECT_THAT(written[2], Not(HasSubstr("rrr"))) << "the live line names the path and no more";
}

TEST(Progress, TicksAtItsOwnPace) {
  const Time now = Clock::now();
  auto live = MakeLiveLine([](std::string_view) {}, [] { return size_t{80}; });
  live->Tick(now, {});
  EXPECT_EQ(live->next_tick(), now + std::chrono::milliseconds(200));
  auto lines = MakeJsonLines([](std::string_view) {});
  lines->Tick(now, {});
  EXPECT_EQ(lines->next_tick(), now + std::chrono::seconds(5));
}

TEST(ExpectedBatches, CountsFromTheCursor) {
  devmem_loader::v1::StreamSpec spec;
  spec.set_batch_size(4);
  spec.set_world_size(2);
  spec.set_epochs(3);
  auto opened = Opened();
  EXPECT_EQ(ExpectedBatches(opened, spec), 30u);
  opened.mutable_cursor()->set_epoch(1);
  opened.mutable_cursor()->set_position(16);
  EXPECT_EQ(ExpectedBatches(opened, spec), 18u);
  opened.mutable_cursor()->set_epoch(9);
  EXPECT_EQ(ExpectedBatches(opened, spec), 0u);
}

}  // namespace
}  // namespace devmem::cli
