// SPDX-License-Identifier: Apache-2.0
// Input: an index without its checksum, which is put right here so that the fuzzer gets behind it.
#include <cstdlib>

#include "service/digest.h"
#include "service/index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  (void)devmem::ReadIndex(bytes);
  devmem::ShortDigest digest;
  digest.AddBytes(bytes);
  const uint64_t checksum = digest.Finish();
  bytes.push_back(9 << 3 | 1);
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(checksum >> (8 * i)));
  const auto read = devmem::ReadIndex(bytes);
  if (!read.ok()) return 0;
  const devmem::Dataset& data_set = read->dataset;
  for (size_t t = 0; t < data_set.tensors.size(); ++t) {
    const devmem::TensorColumn& tensor = data_set.tensors[t];
    if (tensor.objects.size() != data_set.shards() || tensor.data_offsets.size() != data_set.shards()) std::abort();
    for (size_t shard = 0; shard < data_set.shards(); ++shard) {
      if (data_set.first_sample[shard] == data_set.first_sample[shard + 1]) continue;
      const auto last = data_set.Locate(t, shard, data_set.first_sample[shard + 1] - 1);
      if (last.offset + last.bytes > data_set.objects[last.object].size) std::abort();
    }
  }
  // What was read can be written, and read again as the same.
  const auto again = devmem::ReadIndex(devmem::WriteIndex(*read));
  if (!again.ok() || again->dataset.fingerprint != data_set.fingerprint || again->globs != read->globs) std::abort();
  return 0;
}
