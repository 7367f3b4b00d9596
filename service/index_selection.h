// SPDX-License-Identifier: Apache-2.0
// What a specification asks for, out of what an index has. A pure function; thread-safe.
#pragma once

#include "service/data_object.h"
#include "service/dataset_builder.h"
#include "service/index.h"

namespace devmem {

// The tensors of `indexed` that options.tensors name, in their order; all of them if it names none. An index is taken at
// its word, so a format, glob, dtype or shape that contradicts it is kInvalidArgument: either the specification is
// wrong or the index is to be written anew.
[[nodiscard]] absl::StatusOr<Dataset> SelectFromIndex(IndexedDataset indexed, const DatasetOptions& options,
                                                      const KeepOn& keep_on);

}  // namespace devmem
