// SPDX-License-Identifier: Apache-2.0
#include "service/data_path.h"

#include "gtest/gtest.h"

namespace devmem {
namespace {

PathInfo Devmem() {
  PathInfo path{.name = "devmem", .reason = "device-memory TCP on eth1"};
  path.nics.push_back({.interface = "eth1",
                       .driver = "mlx5_core",
                       .queues = {6, 7},
                       .dmabuf_id = 3,
                       .rules = 9,
                       .intact = false,
                       .why = "reset"});
  path.landing_pool = 64 << 20;
  path.counters = {.device_bytes = 100, .host_bytes = 2, .tokens_outstanding = 5, .last_fall_back = "no rule left"};
  return path;
}

TEST(DataPath, SaysAllThereIsToSay) {
  const devmem_loader::v1::DataPath message = DataPathMessage(Devmem());
  EXPECT_EQ(message.name(), "devmem");
  ASSERT_EQ(message.nics_size(), 1);
  EXPECT_EQ(message.nics(0).interface(), "eth1");
  EXPECT_EQ(message.nics(0).queues(1), 7u);
  EXPECT_EQ(message.nics(0).rules(), 9u);
  EXPECT_FALSE(message.nics(0).intact());
  EXPECT_EQ(message.nics(0).fault(), "reset");
  EXPECT_EQ(message.landing_pool_bytes(), 64u << 20);
  EXPECT_EQ(message.counters().device_bytes(), 100u);
  EXPECT_EQ(message.counters().host_bytes(), 2u);
  EXPECT_EQ(message.counters().tokens_outstanding(), 5u);
  EXPECT_EQ(message.counters().last_fall_back(), "no rule left");
}

TEST(DataPath, FilesAreCopiedOnEveryNode) {
  EXPECT_EQ(DataPathOf(Devmem(), "File:///data").name(), "copy");
  EXPECT_EQ(DataPathOf(Devmem(), "http://host/data/").name(), "devmem");
  EXPECT_EQ(DataPathOf(Devmem(), "s3://data").nics_size(), 1);
  const PathInfo copy{.name = "copy", .reason = "asked for"};
  EXPECT_EQ(DataPathOf(copy, "file:///data").reason(), "asked for");
}

TEST(DataPath, IsNamedAfterTheWayTheBytesTook) {
  devmem_loader::v1::StreamStatistics statistics;
  statistics.set_bytes_received(1000);
  EXPECT_EQ(DataPathTaken(Devmem(), "http://host/data/", statistics).name(), "devmem");
  EXPECT_EQ(DataPathTaken(Devmem(), "http://host/data/", statistics).reason(), Devmem().reason);
  statistics.set_bytes_copied(1);
  EXPECT_EQ(DataPathTaken(Devmem(), "http://host/data/", statistics).name(), "mixed");
  statistics.set_bytes_copied(1000);
  const devmem_loader::v1::DataPath copied = DataPathTaken(Devmem(), "http://host/data/", statistics);
  EXPECT_EQ(copied.name(), "copy");
  EXPECT_EQ(copied.reason(), "the CPU copied 1000 of 1000 bytes: no rule left; " + Devmem().reason);
  const PathInfo copy{.name = "copy", .reason = "asked for"};
  EXPECT_EQ(DataPathTaken(copy, "http://host/data/", statistics).reason(), "asked for");
}

}  // namespace
}  // namespace devmem
