// SPDX-License-Identifier: Apache-2.0
#include "service/metrics.h"

#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Render(const NodeSnapshot& node) { return RenderMetrics(node, {.cpu_seconds = 1.5, .open_fds = 7}); }

// By "name{labels}".
std::map<std::string, double> Samples(const std::string& page) {
  std::map<std::string, double> samples;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t blank = line.rfind(' ');
    const auto [at, is_new] = samples.emplace(line.substr(0, blank), std::stod(line.substr(blank + 1)));
    EXPECT_TRUE(is_new) << "twice: " << line;
  }
  return samples;
}

NodeSnapshot CopyNode() { return {.version = "1.2.3", .serving = true, .workers = 2, .path = {.name = "copy"}}; }

NodeSnapshot DevmemNode() {
  NodeSnapshot node{.version = "1.2.3", .path = {.name = "devmem"}};
  node.path.nics.push_back({.interface = "eth0",
                            .driver = "devmemsim",
                            .queues = {1, 2},
                            .page_size = 4096,
                            .posted = 10,
                            .inflight = 30,
                            .alloc_fail = 3,
                            .packets = 400,
                            .rules = 5,
                            .rule_capacity = 64,
                            .landing_pool = 1 << 20,
                            .rebinds = 2});
  node.path.nics.push_back({.interface = "eth1", .driver = "other", .intact = false});
  node.path.counters = {.linear_bytes = 11, .tokens_outstanding = 12, .fall_backs = {{"rule_table_full", 6}, {"a \"b\"\n", 1}}};
  return node;
}

TEST(RenderMetrics, ANodeThatCopies) {
  NodeSnapshot node = CopyNode();
  node.slab_bytes = 100;
  node.listing_bytes = 50;
  node.kept_listing_bytes = 20;
  node.kept_slabs = 2;
  node.kept_slab_bytes = 30;
  node.slab_limit = 1000;
  node.open = 3;
  node.opened = 9;
  node.credits = 12;
  node.totals.credits_taken = 20;
  node.totals.credits_back = 15;
  node.totals.skipped_samples = 6;
  node.totals.delivered[Index(BytePath::kCopy)][2] = {.batches = 20, .samples = 640, .bytes = 1 << 20};
  node.totals.received_bytes[Index(BytePath::kCopy)][Index(StoreKind::kS3)] = 2 << 20;
  node.totals.stall_microseconds[Index(StallCause::kFirstByte)] = 1'500'000;
  node.totals.errors[Index(StoreKind::kHttp)][static_cast<size_t>(absl::StatusCode::kNotFound)] = 1;
  node.transfers.retries[Index(StoreKind::kS3)][Index(RetryCode::kHttp503)] = 4;
  node.refused["no_zero_copy"] = 2;
  const auto samples = Samples(Render(node));
  const auto expect = [&](const std::string& name, double value) {
    ASSERT_TRUE(samples.contains(name)) << name;
    EXPECT_EQ(samples.at(name), value) << name;
  };
  expect("devmem_loader_build_info{version=\"1.2.3\"}", 1);
  expect("devmem_loader_serving", 1);
  expect("devmem_loader_path_info{path=\"copy\"}", 1);
  expect("devmem_loader_slab_bytes", 100);
  expect("devmem_loader_listing_bytes", 50);
  expect("devmem_loader_kept_listing_bytes", 20);
  expect("devmem_loader_kept_slabs", 2);
  expect("devmem_loader_kept_slab_bytes", 30);
  expect("devmem_loader_skipped_samples_total", 6);
  expect("devmem_loader_slab_limit_bytes", 1000);
  expect("devmem_loader_streams", 3);
  expect("devmem_loader_streams_opened_total", 9);
  expect("devmem_loader_credits", 12);
  expect("devmem_loader_credits_held", 5);
  expect("devmem_loader_batches_total{path=\"copy\",format=\"npy\"}", 20);
  expect("devmem_loader_batches_total{path=\"devmem\",format=\"npy\"}", 0);
  expect("devmem_loader_samples_total{path=\"copy\",format=\"npy\"}", 640);
  expect("devmem_loader_received_bytes_total{path=\"copy\",store=\"s3\"}", 2 << 20);
  expect("devmem_loader_stall_seconds_total{cause=\"first_byte\"}", 1.5);
  expect("devmem_loader_range_errors_total{store=\"http\",code=\"not_found\"}", 1);
  expect("devmem_loader_range_errors_total{store=\"file\",code=\"not_found\"}", 0);
  expect("devmem_loader_retries_total{store=\"s3\",code=\"http_503\"}", 4);
  expect("devmem_loader_streams_refused_total{reason=\"no_zero_copy\"}", 2);
  expect("devmem_loader_streams_refused_total{reason=\"permission_denied\"}", 0);
  expect("process_cpu_seconds_total", 1.5);
  expect("process_open_fds", 7);
}

TEST(RenderMetrics, ANodeWithNics) {
  const std::string page = Render(DevmemNode());
  const auto samples = Samples(page);
  EXPECT_EQ(samples.at("devmem_loader_nic_bound{interface=\"eth0\",driver=\"devmemsim\"}"), 1);
  EXPECT_EQ(samples.at("devmem_loader_nic_bound{interface=\"eth1\",driver=\"other\"}"), 0);
  EXPECT_EQ(samples.at("devmem_loader_nic_queues{interface=\"eth0\"}"), 2);
  EXPECT_EQ(samples.at("devmem_loader_landing_pool_used_bytes{interface=\"eth0\"}"), 30 * 4096);
  EXPECT_EQ(samples.at("devmem_loader_landing_pool_bytes{interface=\"eth0\"}"), 1 << 20);
  EXPECT_EQ(samples.at("devmem_loader_steering_rule_capacity{interface=\"eth0\"}"), 64);
  EXPECT_FALSE(samples.contains("devmem_loader_steering_rule_capacity{interface=\"eth1\"}")) << "its driver does not say";
  EXPECT_EQ(samples.at("devmem_loader_fall_backs_total{reason=\"rule_table_full\"}"), 6);
  EXPECT_THAT(page, HasSubstr("{reason=\"a \\\"b\\\"\\n\"} 1\n")) << "whatever a cause holds";
  EXPECT_EQ(samples.at("devmem_loader_tokens"), 12);
}

TEST(RenderMetrics, HistogramsAreCumulative) {
  NodeSnapshot node = CopyNode();
  node.totals.batch.counts[0] = 2;
  node.totals.batch.counts[4] = 3;
  node.totals.batch.counts.back() = 1;
  node.totals.batch.nanoseconds = 2'500'000'000;
  const auto samples = Samples(Render(node));
  EXPECT_EQ(samples.at("devmem_loader_batch_seconds_count"), 6);
  EXPECT_EQ(samples.at("devmem_loader_batch_seconds_sum"), 2.5);
  EXPECT_EQ(samples.at("devmem_loader_batch_seconds_bucket{le=\"+Inf\"}"), 6);
  double last = 0;
  size_t buckets = 0;
  for (const Duration bound : LatencyHistogram::kBounds) {
    std::ostringstream le;
    le << std::chrono::duration<double>(bound).count();
    bool found = false;
    for (const auto& [name, value] : samples) {
      if (!name.starts_with("devmem_loader_batch_seconds_bucket{le=\"")) continue;
      const std::string text = name.substr(name.find('"') + 1);
      if (text.starts_with("+") || std::stod(text) != std::chrono::duration<double>(bound).count()) continue;
      EXPECT_GE(value, last);
      last = value;
      found = true;
      ++buckets;
    }
    EXPECT_TRUE(found) << le.str();
  }
  EXPECT_EQ(buckets, LatencyHistogram::kBounds.size());
}

TEST(RenderMetrics, EachFamilyIsThereAndSaysWhatItIs) {
  const auto families = [](const std::string& page) {
    std::map<std::string, std::pair<bool, std::string>> found;  // help, type
    std::istringstream lines(page);
    for (std::string hash, word, name, rest; lines >> hash >> word >> name && std::getline(lines, rest);) {
      if (hash != "#") continue;
      if (word == "HELP") found[name].first = rest.size() > 10;
      if (word == "TYPE") found[name].second = rest.substr(1);
    }
    return found;
  };
  std::string only_comments;
  const auto comments = [&](const NodeSnapshot& node) {
    std::istringstream lines(Render(node));
    std::string text;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("#")) text += line + "\n";
    }
    return families(text);
  };
  const auto copy = comments(CopyNode());
  EXPECT_EQ(copy, comments(DevmemNode())) << "whatever the node has";
  EXPECT_GT(copy.size(), 50u);
  for (const auto& [name, family] : copy) {
    EXPECT_TRUE(family.first) << name << " has no help";
    EXPECT_EQ(family.second == "counter", name.ends_with("_total")) << name << " is a " << family.second;
    EXPECT_TRUE(name.starts_with("devmem_loader_") || name.starts_with("process_")) << name;
  }
}

TEST(RenderMetrics, StreamsHaveSeriesAndNoNamesOfOthers) {
  NodeSnapshot node = CopyNode();
  devmem_loader::v1::StreamStatus& stream = node.streams.emplace_back();
  stream.set_stream_id("s1-0");
  stream.set_bucket("http://user:password@host/secret/");
  stream.set_rank(3);
  stream.set_world_size(8);
  stream.set_peer_uid(1000);
  stream.set_slots(16);
  stream.set_slots_held(4);
  stream.mutable_path()->set_name("copy");
  stream.mutable_path()->set_reason("because of /secret/");
  stream.mutable_statistics()->set_batches(5);
  stream.mutable_statistics()->mutable_stall()->set_trainer(2'000'000);
  node.streams_without_series = 7;
  const std::string page = Render(node);
  const auto samples = Samples(page);
  EXPECT_EQ(samples.at("devmem_loader_stream_info{stream=\"s1-0\",path=\"copy\",rank=\"3\",world_size=\"8\",uid=\"1000\"}"), 1);
  EXPECT_EQ(samples.at("devmem_loader_stream_batches_total{stream=\"s1-0\"}"), 5);
  EXPECT_EQ(samples.at("devmem_loader_stream_stall_seconds_total{stream=\"s1-0\",cause=\"trainer\"}"), 2);
  EXPECT_EQ(samples.at("devmem_loader_stream_credits{stream=\"s1-0\"}"), 16);
  EXPECT_EQ(samples.at("devmem_loader_stream_credits_held{stream=\"s1-0\"}"), 4);
  EXPECT_EQ(samples.at("devmem_loader_streams_without_series"), 7);
  EXPECT_THAT(page, Not(HasSubstr("secret")));
  EXPECT_THAT(page, Not(HasSubstr("password")));
}

TEST(EndReason, IsOfAClosedList) {
  const auto with = [](absl::StatusCode code, Fault fault) { return EndReason(MakeError(code, "it", {.fault = fault})); };
  EXPECT_EQ(EndReason(absl::OkStatus()), "completed");
  EXPECT_EQ(with(absl::StatusCode::kFailedPrecondition, Fault::kNoZeroCopy), "no_zero_copy");
  EXPECT_EQ(with(absl::StatusCode::kFailedPrecondition, Fault::kListingChanged), "failed_precondition");
  EXPECT_EQ(with(absl::StatusCode::kUnavailable, Fault::kDraining), "draining");
  EXPECT_EQ(with(absl::StatusCode::kUnavailable, Fault::kUnspecified), "unavailable");
}

}  // namespace
}  // namespace devmem
