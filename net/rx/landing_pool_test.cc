// SPDX-License-Identifier: Apache-2.0
#include "net/rx/landing_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "base/error.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kDeferred = 8912896;  // of a queue: 128 skbs of 17 pages

TEST(LandingPool, SizeIsPostedAndTwiceTheWindows) {
  struct {
    const char* description;
    PoolDemand demand;
    uint64_t posted, windows, bytes;
  } const table[] = {
      {"one queue, pages", {1, 256, 4096, 1, kMiB}, kMiB, kMiB, 3 * kMiB},
      {"two queues of forty connections, 64 KiB buffers", {2, 1024, 65536, 40, 2 * kMiB}, 128 * kMiB, 160 * kMiB, 448 * kMiB},
      {"no connection yet: the rings, and what pools keep", {4, 512, 4096, 0, kMiB}, 8 * kMiB, 0, 18 * kMiB},
      {"small windows: pools keep more than they need", {2, 1024, 4096, 1, kMiB}, 8 * kMiB, 2 * kMiB, 17 * kMiB},
      {"no queue", {}, 0, 0, 0},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.description);
    const PoolSize size = LandingPoolSize(row.demand);
    EXPECT_EQ(size.posted, row.posted);
    EXPECT_EQ(size.windows, row.windows);
    EXPECT_EQ(size.held, row.windows);
    EXPECT_EQ(size.bytes(), row.bytes + row.demand.queues * kDeferred);
  }
}

TEST(LandingPool, TheExamplesOfTheOperationsDocumentAreRight) {
  // | queues | connections | ring | buffer, KiB | receive buffer, KiB | pool, MiB | what it is |
  std::ifstream document(OPERATIONS_DOCUMENT);
  std::string line;
  bool table = false;
  int rows = 0;
  while (std::getline(document, line)) {
    if (line.rfind("| queues | connections | ring |", 0) == 0) table = true;
    if (line.rfind("|", 0) != 0) table = false;
    if (!table || line.find_first_of("0123456789") != 2) continue;
    SCOPED_TRACE(line);
    std::istringstream cells(line);
    char bar;
    uint64_t pool = 0;
    PoolDemand demand;
    cells >> bar >> demand.queues >> bar >> demand.connections >> bar >> demand.ring >> bar >> demand.page_size >> bar >>
        demand.receive_buffer >> bar >> pool >> bar;
    ASSERT_TRUE(cells.good());
    demand.page_size <<= 10;
    demand.receive_buffer <<= 10;
    EXPECT_EQ(LandingPoolSize(demand).bytes(), pool * kMiB);
    ++rows;
  }
  EXPECT_GE(rows, 5) << OPERATIONS_DOCUMENT;
}

TEST(LandingPool, SizeDoesNotWrap) {
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  const PoolSize size = LandingPoolSize({most, most, most, most, most});
  EXPECT_GE(size.bytes(), size.posted);
  EXPECT_GE(size.bytes(), most / 2);
}

TEST(LandingPool, TheFormulaIsToldWithItsNumbers) {
  EXPECT_EQ(LandingPoolSize({1, 256, 4096, 1, kMiB}).ToString(),
            "12058624 bytes = 1048576 posted to the rings + 1048576 that unread data can pin + 1048576 received and not yet "
            "gathered + 8912896 in skbs to be freed");
}

TEST(LandingPool, ReceiveBufferIsTheInverse) {
  PoolDemand demand{2, 1024, 65536, 40, 2 * kMiB};
  const uint64_t pool = LandingPoolSize(demand).bytes();
  EXPECT_EQ(*ReceiveBufferFor(pool, demand, 4096), 2 * kMiB);
  // A byte less of pool is a byte less of buffer, and what it gives fits again.
  demand.receive_buffer = *ReceiveBufferFor(pool - 1, demand, 4096);
  EXPECT_EQ(demand.receive_buffer, 2 * kMiB - 1);
  EXPECT_LE(LandingPoolSize(demand).bytes(), pool - 1);
}

TEST(LandingPool, TheSmallestLegalPoolIsNamedAndIsLegal) {
  const PoolDemand demand{2, 256, 4096, 32, 0};
  const uint64_t least = 64 << 10;
  const uint64_t smallest = 2 * 256 * 4096 + 2 * kDeferred + 2 * 2 * 32 * least;  // 28,311,552
  EXPECT_EQ(*ReceiveBufferFor(smallest, demand, least), least);
  for (const uint64_t pool : {smallest - 1, uint64_t{2 * 256 * 4096}, uint64_t{1}, uint64_t{0}}) {
    const auto result = ReceiveBufferFor(pool, demand, least);
    ASSERT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << pool;
    EXPECT_THAT(Text(result.status()),
                HasSubstr("the smallest is 28311552 = 2 queues x 256 descriptors x 4096 bytes posted + "
                          "17825792 in skbs to be freed + 2 x 2 queues x 32 connections x 65536 bytes of window"));
  }
}

TEST(LandingPool, WithoutConnectionsThereIsNothingToShareOut) {
  EXPECT_EQ(ReceiveBufferFor(kMiB, {1, 256, 4096, 0, 0}, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace devmem
