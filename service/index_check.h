// SPDX-License-Identifier: Apache-2.0
// What is to be said of an index that stood for a listing: how old it is, and, where looking costs little, what it lacks. Pure
// functions, but for the listing; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "net/object_store.h"
#include "service/index.h"

namespace devmem {

// That the objects are those of an index written then (unix seconds; 0: not known).
[[nodiscard]] std::string IndexNote(int64_t written);

// Compares the index with the folder it is in, and names what is new, missing or of another size; empty if nothing is, or if
// the store is not a folder of this host: to list that is what an index is there to save.
[[nodiscard]] absl::StatusOr<std::string> CompareWithFolder(const ObjectStore& store, const IndexedDataset& indexed,
                                                            Time deadline, const ProgressFn& progress);

}  // namespace devmem
