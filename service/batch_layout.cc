// SPDX-License-Identifier: Apache-2.0
#include "service/batch_layout.h"

#include "base/error.h"

namespace devmem {
namespace {

// a += round_up(b * c, kTensorAlignment); false on overflow of 62 bits.
bool Grow(uint64_t& a, uint64_t b, uint64_t c) {
  const unsigned __int128 bytes = static_cast<unsigned __int128>(b) * c + kTensorAlignment - 1;
  const unsigned __int128 sum = a + (bytes & ~static_cast<unsigned __int128>(kTensorAlignment - 1));
  if (sum >> 62 != 0) return false;
  a = static_cast<uint64_t>(sum);
  return true;
}

}  // namespace

absl::StatusOr<BatchLayout> MakeBatchLayout(const Dataset& dataset, const std::vector<std::optional<CastRequest>>& casts,
                                            uint32_t batch_size) {
  BatchLayout layout;
  for (size_t t = 0; t < dataset.tensors.size(); ++t) {
    const TensorColumn& column = dataset.tensors[t];
    OutputTensor tensor{.name = column.name, .stored = column.dtype, .delivered = column.dtype, .shape = column.shape};
    tensor.elements = column.row_bytes / ItemSize(column.dtype);
    tensor.stored_bytes = column.row_bytes;
    if (t < casts.size() && casts[t].has_value() && (casts[t]->to != column.dtype || casts[t]->scale != 1.0)) {
      tensor.cast = true;
      tensor.delivered = casts[t]->to;
      tensor.scale = casts[t]->scale;
    }
    tensor.delivered_bytes = tensor.elements * ItemSize(tensor.delivered);
    tensor.slot_offset = layout.slot_bytes;
    tensor.staging_offset = layout.staging_slot_bytes;
    if (!Grow(layout.slot_bytes, tensor.delivered_bytes, batch_size) ||
        (tensor.cast && !Grow(layout.staging_slot_bytes, tensor.stored_bytes, batch_size))) {
      return MakeError(absl::StatusCode::kResourceExhausted, "a batch of this size does not fit any memory",
                       {.object = column.name, .cause = "batch too large", .action = "lower --batch-size"});
    }
    layout.tensors.push_back(std::move(tensor));
  }
  return layout;
}

}  // namespace devmem
