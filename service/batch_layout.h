// SPDX-License-Identifier: Apache-2.0
// BatchLayout: where the tensors of a batch lie in a slot of a slab. Tensors begin at multiples of 256 bytes (what
// GPU kernels and DMA like); slots are of one size, so that any slot serves any batch. Values; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gpu/dtype.h"
#include "service/dataset.h"

namespace devmem {

inline constexpr uint64_t kTensorAlignment = 256;

struct OutputTensor {
  std::string name;
  DType stored = DType::kU8;
  DType delivered = DType::kU8;
  double scale = 1.0;
  bool cast = false;             // delivered by Device::Cast from a staging slot
  std::vector<int64_t> shape;    // of one sample
  uint64_t elements = 0;         // of one sample
  uint64_t stored_bytes = 0;     // of one sample
  uint64_t delivered_bytes = 0;  // of one sample
  uint64_t slot_offset = 0;      // of row 0 in a slot of the slab
  uint64_t staging_offset = 0;   // of row 0 in a slot of the staging memory; cast tensors only
};

struct BatchLayout {
  std::vector<OutputTensor> tensors;
  uint64_t slot_bytes = 0;          // in the slab
  uint64_t staging_slot_bytes = 0;  // in the staging memory; 0 without casts

  // The bytes of one sample as stored.
  [[nodiscard]] uint64_t sample_bytes() const {
    uint64_t sum = 0;
    for (const OutputTensor& tensor : tensors) sum += tensor.stored_bytes;
    return sum;
  }
};

struct CastRequest {
  DType to = DType::kF32;
  double scale = 1.0;
};

// `casts[t]` without value: tensor t is delivered as stored. kResourceExhausted if a slot's size does not fit in 63 bits.
[[nodiscard]] absl::StatusOr<BatchLayout> MakeBatchLayout(const Dataset& dataset,
                                                          const std::vector<std::optional<CastRequest>>& casts,
                                                          uint32_t batch_size);

}  // namespace devmem
