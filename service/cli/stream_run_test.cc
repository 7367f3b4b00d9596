// SPDX-License-Identifier: Apache-2.0
#include "service/cli/stream_run.h"

#include <gmock/gmock.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX, for mkdtemp

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "service/testing/fake_daemon.h"

namespace devmem::cli {
namespace {

using testing::FakeDaemon;
using testing::FakeDaemonOptions;

class StreamRunTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(folder_.data()), nullptr); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Starts the daemon and a run against it; every batch has one sample with a source.
  std::unique_ptr<StreamRun> Run(FakeDaemonOptions daemon, StreamRun::Options options = {}) {
    daemon.path = folder_ + "/s";
    daemon.edit = [more = daemon.edit](devmem_loader::v1::OpenStreamResponse& response) {
      if (more) more(response);
      if (!response.has_batches()) return;
      for (auto& batch : *response.mutable_batches()->mutable_batches()) {
        batch.clear_sample_ids();
        batch.add_sample_ids(batch.sequence());
        batch.clear_sources();
        auto* source = batch.add_sources();
        source->set_object("o");
        source->set_bytes(testing::kWords * 8);
        batch.mutable_stall()->set_network(10);
      }
    };
    daemon_ = FakeDaemon::Start(daemon);
    auto client = Client::Connect(daemon.path, {});
    EXPECT_TRUE(client.ok()) << client.status();
    progress_ = MakeJsonLines([this](std::string_view text) { said_.append(text); });
    options.spec.set_bucket("http://b/");
    options.client = *std::move(client);
    options.progress = progress_.get();
    return std::make_unique<StreamRun>(options);
  }

  std::string folder_ = ::testing::TempDir() + "/run_XXXXXX";
  std::unique_ptr<FakeDaemon> daemon_;
  std::unique_ptr<Progress> progress_;
  std::string said_;
};

TEST_F(StreamRunTest, ReadsToTheEndAndMeasures) {
  auto run = Run({.batches = 10, .epochs = 2});
  ASSERT_TRUE(run->Open().ok());
  run->Read();
  const Summary& summary = run->summary();
  EXPECT_TRUE(summary.status.ok()) << summary.status;
  EXPECT_EQ(summary.batches, 20u);
  EXPECT_EQ(summary.samples, 20u);
  EXPECT_EQ(summary.bytes, 20 * testing::kWords * 8);
  EXPECT_EQ(summary.epochs, 2u);
  EXPECT_EQ(summary.stalls.network(), 200u);
  EXPECT_TRUE(summary.statistics.has_value());
  EXPECT_TRUE(summary.first_batch_ms.has_value());
  EXPECT_TRUE(summary.cpu_includes_daemon);
  EXPECT_FALSE(summary.interrupted);
  EXPECT_GT(summary.seconds, 0);
}

TEST_F(StreamRunTest, WarnsOfARunThatDeliversNothing) {
  struct Row {
    uint64_t batches, position;
    const char* expected;
  };
  for (const Row& row : std::vector<Row>{{0, 0, "no sample was delivered: the objects hold none"},
                                         {10, 10, "no sample was delivered: the cursor of --resume stands at the end"},
                                         {10, 9, ""}}) {
    daemon_.reset();  // the next one takes its socket
    said_.clear();
    StreamRun::Options options;
    if (row.position > 0) options.spec.mutable_resume()->set_position(row.position);
    auto run = Run({.batches = row.batches}, options);
    ASSERT_TRUE(run->Open().ok());
    run->Read();
    EXPECT_TRUE(run->summary().status.ok()) << run->summary().status;
    if (*row.expected == '\0') {
      EXPECT_TRUE(run->summary().warnings.empty());
      EXPECT_EQ(said_.find("\"warning\""), std::string::npos) << said_;
    } else {
      EXPECT_EQ(run->summary().warnings, std::vector<std::string>{row.expected});
      EXPECT_NE(said_.find(row.expected), std::string::npos) << said_;
    }
  }
}

TEST_F(StreamRunTest, SaysWhatIsSkippedAsItHappens) {
  auto run = Run({.batches = 3, .edit = [](devmem_loader::v1::OpenStreamResponse& response) {
                    if (response.has_opened()) {
                      auto* const whole = response.mutable_opened()->add_skipped();
                      whole->set_object("whole");
                      whole->mutable_error()->set_cause("bad magic");
                    }
                    if (!response.has_batches() || response.batches().batches(0).sequence() != 1) return;
                    auto* const sample = response.mutable_batches()->mutable_batches(0)->add_skipped();
                    sample->set_sample_id(7);
                    sample->mutable_error()->set_object("part");
                    sample->mutable_error()->set_cause("truncated body");
                  }});
  ASSERT_TRUE(run->Open().ok());
  EXPECT_NE(said_.find(R"({"event":"skipped","object":"whole","cause":"bad magic"})"), std::string::npos) << said_;
  run->Read();
  const size_t sample = said_.find(R"({"event":"skipped","object":"part","sample":7,"cause":"truncated body"})");
  EXPECT_LT(sample, said_.find("epoch_end")) << said_;
  EXPECT_EQ(run->summary().skipped_objects, 1u);
  EXPECT_EQ(run->summary().skipped_samples, 1u);
}

TEST_F(StreamRunTest, StopsAtTheLimit) {
  auto run = Run({.batches = 100}, {.limit_batches = 3});
  ASSERT_TRUE(run->Open().ok());
  run->Read();
  EXPECT_TRUE(run->summary().status.ok()) << run->summary().status;
  EXPECT_EQ(run->summary().batches, 3u);
  EXPECT_EQ(run->summary().cursor.position(), 3u);
}

TEST_F(StreamRunTest, KeepsWhatWasMeasuredWhenItFails) {
  auto run = Run({.batches = 10,
                  .fail_after = 4,
                  .failure = MakeError(absl::StatusCode::kDataLoss, "short", {.object = "o", .cause = "truncated"})});
  ASSERT_TRUE(run->Open().ok());
  run->Read();
  EXPECT_EQ(run->summary().status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(GetErrorInfo(run->summary().status).object, "o");
  EXPECT_EQ(run->summary().batches, 4u);
  EXPECT_EQ(run->summary().cursor.position(), 4u);
  EXPECT_FALSE(run->summary().statistics.has_value()) << "an older daemon sends none";
}

TEST_F(StreamRunTest, StatisticsOfAStreamThatFails) {
  devmem_loader::v1::StreamStatistics statistics;
  statistics.set_requests(9);
  statistics.set_retries(5);
  const absl::Status failure = MakeError(absl::StatusCode::kDataLoss, "short", {.object = "o", .cause = "truncated"});
  auto run = Run({.batches = 10, .fail_after = 4, .failure = WithStatistics(failure, statistics)});
  ASSERT_TRUE(run->Open().ok());
  run->Read();
  const nlohmann::json json = nlohmann::json::parse(SummaryJson(run->summary()));
  EXPECT_EQ(json["error"]["object"], "o");
  EXPECT_EQ(json["requests"], 9);
  EXPECT_EQ(json["retries"], 5);
}

TEST_F(StreamRunTest, DigestSeesTheMappedBytes) {
  auto digest = DigestWriter::Open(folder_ + "/d");
  ASSERT_TRUE(digest.ok());
  auto run = Run({.batches = 5}, {.digest = digest->get()});
  ASSERT_TRUE(run->Open().ok());
  run->Read();
  ASSERT_TRUE(run->summary().status.ok()) << run->summary().status;
  std::ifstream file(folder_ + "/d");
  std::vector<std::string> hashes;
  for (std::string line; std::getline(file, line);) hashes.push_back(nlohmann::json::parse(line)["sha256"]);
  ASSERT_EQ(hashes.size(), 5u);
  EXPECT_NE(hashes[0], hashes[1]) << "each batch has words of its own";
}

TEST_F(StreamRunTest, ADigestThatCannotBeWrittenFailsTheRun) {
  auto digest = DigestWriter::Open("/dev/full");
  ASSERT_TRUE(digest.ok());
  auto run = Run({.batches = 5}, {.digest = digest->get()});
  ASSERT_TRUE(run->Open().ok());
  run->Read();
  EXPECT_EQ(GetErrorInfo(run->summary().status).object, "/dev/full");
  EXPECT_FALSE(run->summary().interrupted);
}

TEST_F(StreamRunTest, InterruptsAnOpenThatHangs) {
  auto run = Run({.answer = false});
  std::thread signal([&] { run->Interrupt(); });
  EXPECT_EQ(run->Open().code(), absl::StatusCode::kCancelled);
  signal.join();
  EXPECT_TRUE(run->summary().interrupted);
  daemon_.reset();  // ends the call; its thread holds nothing of the run's but the client
}

TEST_F(StreamRunTest, InterruptEndsReading) {
  auto run = Run({.batches = uint64_t{1} << 40});
  ASSERT_TRUE(run->Open().ok());
  std::thread signal([&] { run->Interrupt(); });
  run->Read();
  signal.join();
  EXPECT_TRUE(run->summary().interrupted);
  EXPECT_TRUE(run->summary().status.ok()) << run->summary().status;
}

}  // namespace
}  // namespace devmem::cli
