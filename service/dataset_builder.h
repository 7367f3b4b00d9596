// SPDX-License-Identifier: Apache-2.0
// Makes a Dataset of a bucket: reads its index if it has one, else lists it, matches globs, pairs shards and reads
// headers in parallel.
//
//   DEVMEM_ASSIGN_OR_RETURN(Dataset data, BuildDataset(*store, {.tensors = {{.name = "image", .glob = "image/*.npy"},
//                                                                           {.name = "label", .glob = "label/*.npy"}}},
//                                                      deadline, nullptr));
//
// What counts as data. Never: names of which a path component begins with '.', which ends in '/', or whose last component
// is a marker of Spark's ("_SUCCESS", "_committed_*", "_started_*"). A glob is fnmatch(3)'s over the whole name below
// the bucket's root: '*' and '?' match '/' too. Shards of several tensors are paired in the (bytewise) order of their
// names. raw and npy: one tensor is one glob; without any, one tensor "data" of "*" (raw) or "*.npy". safetensors:
// every "*.safetensors" object is a shard, and a glob names tensors in it.
//
// A name that no store can ask for (CheckObjectName(): a NUL, more than 4096 bytes, a leading '/') is an error if it is chosen,
// and nobody's business otherwise; with `skip_bad_shards` it is listed with the skipped, if there is but one tensor: among
// several, pairs would shift.
//
// Threads: both functions block, and may be called from any thread; `progress` is called from the calling thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/memory_account.h"
#include "gpu/dtype.h"
#include "net/object_store.h"
#include "service/dataset.h"
#include "service/formats/format.h"
#include "service/index.h"

namespace devmem {

// As devmem_loader.v1.TensorSpec; what an empty field means depends on the format.
struct TensorOptions {
  std::string name;                           // empty: "data", or (safetensors) the tensors' own names
  std::string glob;                           // empty: all data objects, or (safetensors) the tensor called `name`
  std::optional<DType> dtype;                 // raw: required; else it must match
  std::optional<std::vector<int64_t>> shape;  // of one sample. raw: required ({} is a scalar); else it must match
};

struct DatasetOptions {
  DatasetFormat format = DatasetFormat::kAuto;  // by the objects' suffixes: ".npy", ".safetensors"
  std::vector<TensorOptions> tensors;
  // on_error skip: a shard whose header is bad is left out together with those paired with it, and listed in
  // Dataset::skipped. What may pass (the network) or is the specification's fault stays an error.
  bool skip_bad_shards = false;
  // Where everything that the bucket decides the size of is counted; null: nowhere. No room: kResourceExhausted.
  std::shared_ptr<MemoryAccount> memory;
};

// phase is "listing" or "headers"; total 0: not known yet. False cancels: kCancelled.
using OpenProgressFn = std::function<bool(std::string_view phase, uint64_t done, uint64_t total)>;

// The data set of `store`'s bucket as `options` ask for it; from its index where there is one.
//   kNotFound            nothing matches, with what the bucket holds and which globs were used
//   kInvalidArgument     the specification contradicts itself, the objects or the index
//   kDataLoss, kFailedPrecondition   an object's header is broken, or of a kind that is not streamed; shards disagree
//   kAborted             an object changed since it was listed
// and what the store fails with.
[[nodiscard]] absl::StatusOr<Dataset> BuildDataset(const ObjectStore& store, const DatasetOptions& options, Time deadline,
                                                   const OpenProgressFn& progress);

// The same, never from an index: what an index is made of.
[[nodiscard]] absl::StatusOr<IndexedDataset> ListDataset(const ObjectStore& store, const DatasetOptions& options, Time deadline,
                                                         const OpenProgressFn& progress);

}  // namespace devmem
