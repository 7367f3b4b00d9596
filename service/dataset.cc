// SPDX-License-Identifier: Apache-2.0
#include "service/dataset.h"

#include <algorithm>

namespace devmem {

size_t Dataset::ShardOf(uint64_t sample, size_t& hint) const {
  // The shard before, or the one after it: what sequential access asks for.
  for (size_t shard = hint; shard < hint + 2 && shard < shards(); ++shard) {
    if (first_sample[shard] <= sample && sample < first_sample[shard + 1]) return hint = shard;
  }
  // Shards without rows share their successor's first sample; upper_bound steps over them.
  const auto after = std::upper_bound(first_sample.begin(), first_sample.end(), sample);
  return hint = static_cast<size_t>(after - first_sample.begin()) - 1;
}

uint64_t Dataset::bytes() const {
  uint64_t bytes = first_sample.capacity() * sizeof(uint64_t);
  for (const TensorColumn& tensor : tensors) {
    bytes += sizeof tensor + tensor.name.capacity() + tensor.shape.capacity() * sizeof(int64_t) +
             tensor.objects.capacity() * sizeof(uint32_t) + tensor.data_offsets.capacity() * sizeof(uint64_t);
  }
  for (const Skipped& each : skipped) bytes += kSkippedBytes + each.object.capacity();
  return bytes;
}

}  // namespace devmem
