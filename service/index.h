// SPDX-License-Identifier: Apache-2.0
// The index of a data set: one object (kIndexName) that stands for the listing and every header, so that the next open
// reads one object instead of one header a shard. `devmem-loader index URI` writes it.
//
//   DEVMEM_ASSIGN_OR_RETURN(IndexedDataset listed, ListDataset(*store, options, deadline, progress));
//   std::string bytes = WriteIndex(listed);
//   DEVMEM_ASSIGN_OR_RETURN(IndexedDataset again, ReadIndex(std::move(bytes)));
//
// What was skipped when the index was made is not in it: an index holds good shards. The bytes are
// devmem_loader.v1.DatasetIndex, the checksum being their last 9 bytes. Values; thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/memory_account.h"
#include "service/dataset.h"
#include "service/formats/format.h"

namespace devmem {

// At the bucket's root; hidden, and so never a data object itself.
inline constexpr std::string_view kIndexName = ".devmem-index";

// A data set with what its index must say besides.
struct IndexedDataset {
  Dataset dataset;
  DatasetFormat format = DatasetFormat::kRaw;  // never kAuto
  int64_t written = 0;                         // unix seconds, 0: not known. The one who writes it says
  std::vector<std::string> globs;              // one a tensor: which objects, or (safetensors) which name in the file
};

[[nodiscard]] std::string WriteIndex(const IndexedDataset& indexed);

// An index is one protobuf message, and has less than 2 GiB as such: ten times what 10^7 objects with short names take.
inline constexpr uint64_t kLongestIndex = 0x7fffffff;

// Parses and checks untrusted bytes: nothing in the result points outside an object. Takes the bytes so that it can
// free them on the way: 10^6 objects load in less than 1 s and 150 MB. kDataLoss where they are broken,
// kFailedPrecondition where a newer version wrote them. `memory` holds what the bytes take; what they come to is counted in
// its account before it is there: kResourceExhausted.
[[nodiscard]] absl::StatusOr<IndexedDataset> ReadIndex(std::string bytes, HeldMemory memory = {});

}  // namespace devmem
