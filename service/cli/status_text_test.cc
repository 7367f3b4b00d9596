// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "service/cli/status_verb.h"

namespace devmem::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

devmem_loader::v1::GetNodeStatusResponse Example() {
  devmem_loader::v1::GetNodeStatusResponse node;
  node.set_version("0.1.0");
  node.set_api_version(1);
  node.set_pid(77);
  node.set_uptime_seconds(125);
  node.add_devices("cpu");
  auto* path = node.add_paths();
  path->set_name("copy");
  path->set_reason("no NIC");
  auto* pool = node.add_pools();
  pool->set_name("slabs");
  pool->set_bytes_used(1 << 20);
  pool->set_bytes_limit(1 << 30);
  node.set_memory_limit_source("half of memory.max of the control group /a");
  (*node.mutable_library_versions())["liburing"] = "2.3";
  auto* kept = node.add_kept_slabs();
  kept->set_stream_id("s-0");
  kept->set_peer_pid(99);
  kept->set_bytes(2 << 20);
  kept->set_kept_seconds(7);
  auto* stream = node.add_streams();
  stream->set_stream_id("s-1");
  stream->set_bucket("http://h/b\x1b[2J/");
  stream->set_rank(1);
  stream->set_world_size(2);
  stream->set_slots(8);
  stream->set_slots_held(3);
  stream->mutable_statistics()->set_batches(42);
  stream->mutable_statistics()->set_skipped_samples(17);
  stream->mutable_statistics()->mutable_stall()->set_trainer(500000);
  return node;
}

TEST(StatusText, ForPeople) {
  const std::string text = StatusText(Example());
  for (const char* part :
       {"0.1.0, API 1", "serving", "2m05s", "copy (no NIC)", "slabs: 1.00 MiB of 1.00 GiB", "1 slab of failed streams",
        "2.00 MiB", "liburing 2.3", "half of memory.max of the control group /a"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  const std::string streams = StreamsText(Example());
  for (const char* part : {"STREAM", "s-1", "1/2", "3/8", "42", "SKIPPED", "17", "http://h/b\\x1b[2J/"})
    EXPECT_THAT(streams, HasSubstr(part));
  EXPECT_THAT(streams, Not(HasSubstr("\x1b")));
  EXPECT_EQ(StreamsText({}), "No streams.\n");
}

TEST(StatusJson, ForPrograms) {
  const Json json = Json::parse(StatusJson(Example()));
  EXPECT_EQ(json["pid"], 77);
  EXPECT_EQ(json["paths"][0]["name"], "copy");
  EXPECT_EQ(json["pools"][0]["bytes_limit"], 1 << 30);
  EXPECT_EQ(json["kept_slabs"].size(), 1u);
  EXPECT_EQ(json["kept_slabs"][0]["stream_id"], "s-0");
  EXPECT_EQ(json["kept_slabs"][0]["peer_pid"], 99);
  EXPECT_EQ(json["kept_slabs"][0]["bytes"], 2 << 20);
  EXPECT_EQ(json["kept_slabs"][0]["kept_seconds"], 7);
  EXPECT_EQ(json["memory_limit_source"], "half of memory.max of the control group /a");
  EXPECT_EQ(json["library_versions"]["liburing"], "2.3");
  const Json streams = Json::parse(StreamsJson(Example()));
  EXPECT_EQ(streams["streams"][0]["stalls"]["trainer"], 0.5);
  EXPECT_EQ(streams["streams"][0]["slots_held"], 3);
  EXPECT_EQ(streams["streams"][0]["skipped_samples"], 17);
  EXPECT_EQ(Json::parse(StreamsJson({}))["streams"], Json::array());
}

}  // namespace
}  // namespace devmem::cli
