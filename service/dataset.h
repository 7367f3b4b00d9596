// SPDX-License-Identifier: Apache-2.0
// Dataset: what a bucket holds, as samples. Shard k contributes `count` samples; each sample is one row of every
// tensor; the rows of tensor t in shard k lie back to back in one object from a data offset on. Raw, npy and
// safetensors all come down to this, so nothing behind it knows formats.
//
// Immutable and thread-safe once built. Memory: about 8 bytes a shard, 12 a shard and tensor, plus the ObjectTable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory_account.h"
#include "gpu/dtype.h"
#include "net/object_table.h"
#include "service/formats/format.h"

namespace devmem {

struct TensorColumn {
  std::string name;
  DType dtype = DType::kU8;    // as stored
  std::vector<int64_t> shape;  // of one sample; empty for a scalar
  uint64_t row_bytes = 0;      // of one sample: item size * product of shape; at least 1

  std::vector<uint32_t> objects;       // per shard: index into Dataset::objects
  std::vector<uint64_t> data_offsets;  // per shard: where row 0 begins
};

struct Dataset {
  // A byte range that holds one sample's row of one tensor.
  struct Extent {
    uint32_t object = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  struct Skipped {
    std::string object;
    absl::Status status;
    uint64_t bytes = 0;  // the object's size
  };
  static constexpr uint64_t kSkippedBytes = 1024;  // about what a Skipped takes: its status says what, where and what to do

  ObjectTable objects;
  std::vector<TensorColumn> tensors;
  std::vector<uint64_t> first_sample;          // per shard, and one past the last: the number of samples
  std::vector<Skipped> skipped;                // shards left out because their header is bad (on_error skip)
  DatasetFormat format = DatasetFormat::kRaw;  // never kAuto; for what is counted, nothing reads by it
  HeldMemory memory;                           // what bytes() is counted in; the table of objects counts itself
  uint64_t fingerprint = 0;                    // of names, sizes, validators and skipped: a changed listing changes it
  bool indexed = false;                        // an index stood for the listing
  int64_t index_written = 0;                   // when it was written, unix seconds; 0: not known
  std::vector<std::string> warnings;           // about what it is made of

  [[nodiscard]] uint64_t samples() const { return first_sample.empty() ? 0 : first_sample.back(); }
  [[nodiscard]] uint64_t bytes() const;  // of its columns and what was skipped
  [[nodiscard]] size_t shards() const { return first_sample.empty() ? 0 : first_sample.size() - 1; }

  // The shard of `sample` (< samples()). `hint` is tried first and updated: sequential access is O(1).
  [[nodiscard]] size_t ShardOf(uint64_t sample, size_t& hint) const;
  [[nodiscard]] Extent Locate(size_t tensor, size_t shard, uint64_t sample) const {
    const TensorColumn& column = tensors[tensor];
    return {column.objects[shard], column.data_offsets[shard] + (sample - first_sample[shard]) * column.row_bytes,
            column.row_bytes};
  }
};

}  // namespace devmem
