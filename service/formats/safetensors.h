// SPDX-License-Identifier: Apache-2.0
// The header of a .safetensors file, read from the first bytes of an object: 8 bytes little-endian length, then JSON
// that maps names to {dtype, shape, data_offsets}. Untrusted input: every number is checked, against int64, its
// neighbours (no overlap, no hole) and the object's size.
//
//   auto parsed = ParseSafetensorsHeader(first_bytes, object_size);  // as ParseNpyHeader
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/dtype.h"
#include "service/formats/format.h"

namespace devmem {

struct SafetensorsTensor {
  std::string name;
  std::string dtype_name;      // as in the file: "F32", "F8_E4M3"
  std::optional<DType> dtype;  // nullopt: a type we do not stream, which matters only if the tensor is asked for
  std::vector<int64_t> shape;  // of the whole tensor; empty for a scalar
  uint64_t offset = 0;         // within the object
  uint64_t bytes = 0;
};

struct SafetensorsHeader {
  uint64_t data_offset = 0;                // where the byte buffer begins
  std::vector<SafetensorsTensor> tensors;  // by offset, then length, then name
};

inline constexpr uint64_t kSafetensorsFirstRead = uint64_t{16} << 10;
// The reference implementation's own limit.
inline constexpr uint64_t kSafetensorsMaxHeader = 100'000'000;
// Names are matched with globs and told with every batch.
inline constexpr size_t kSafetensorsLongestName = 1024;

[[nodiscard]] absl::StatusOr<std::variant<NeedBytes, SafetensorsHeader>> ParseSafetensorsHeader(std::string_view first_bytes,
                                                                                                uint64_t object_size);

}  // namespace devmem
