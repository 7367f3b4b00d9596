// SPDX-License-Identifier: Apache-2.0
#include "service/dataset.h"

#include <gtest/gtest.h>

#include <random>

namespace devmem {
namespace {

Dataset WithCounts(const std::vector<uint64_t>& counts) {
  Dataset data;
  TensorColumn column{.name = "data", .dtype = DType::kU16, .shape = {5}, .row_bytes = 10};
  data.first_sample.push_back(0);
  for (size_t i = 0; i < counts.size(); ++i) {
    data.first_sample.push_back(data.first_sample.back() + counts[i]);
    column.objects.push_back(static_cast<uint32_t>(counts.size() - 1 - i));  // not the identity, so that a mix-up shows
    column.data_offsets.push_back(100 + i);
  }
  data.tensors.push_back(column);
  return data;
}

TEST(DatasetTest, EmptyHasNoSamplesAndNoShards) {
  EXPECT_EQ(Dataset().samples(), 0u);
  EXPECT_EQ(Dataset().shards(), 0u);
  EXPECT_EQ(WithCounts({}).shards(), 0u);
}

// Every sample, from every hint, finds the one shard that holds it: against a linear search.
TEST(DatasetTest, FindsTheShardFromAnyHint) {
  const std::vector<std::vector<uint64_t>> tables = {
      {1}, {7}, {3, 4}, {0, 5}, {5, 0}, {0, 0, 2, 0, 0, 0, 3, 1, 0}, {1, 1, 1, 1}, {10, 1, 0, 20}};
  for (const auto& counts : tables) {
    const Dataset data = WithCounts(counts);
    uint64_t sample = 0;
    for (size_t shard = 0; shard < counts.size(); ++shard) {
      for (uint64_t row = 0; row < counts[shard]; ++row, ++sample) {
        for (size_t start = 0; start <= counts.size() + 2; ++start) {
          size_t hint = start;
          EXPECT_EQ(data.ShardOf(sample, hint), shard) << "sample " << sample << " from hint " << start;
          EXPECT_EQ(hint, shard);
        }
      }
    }
    EXPECT_EQ(sample, data.samples());
  }
}

TEST(DatasetTest, LocatesRowsBehindTheHeader) {
  const Dataset data = WithCounts({3, 4});
  size_t hint = 0;
  const size_t shard = data.ShardOf(5, hint);
  const Dataset::Extent extent = data.Locate(0, shard, 5);
  EXPECT_EQ(extent.object, 0u);
  EXPECT_EQ(extent.offset, 101u + 2 * 10);
  EXPECT_EQ(extent.bytes, 10u);
}

TEST(DatasetTest, LargeNumbersDoNotWrap) {
  Dataset data = WithCounts({uint64_t{1} << 40, uint64_t{1} << 40});
  size_t hint = 0;
  const uint64_t sample = (uint64_t{1} << 41) - 1;
  EXPECT_EQ(data.ShardOf(sample, hint), 1u);
  EXPECT_EQ(data.Locate(0, 1, sample).offset, 101 + ((uint64_t{1} << 40) - 1) * 10);
}

}  // namespace
}  // namespace devmem
