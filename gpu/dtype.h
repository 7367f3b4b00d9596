// SPDX-License-Identifier: Apache-2.0
// Element types of tensors, named as numpy names them. Values only; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace devmem {

// The numbers are the wire's (devmem_loader.v1.DType) too.
enum class DType : uint8_t {
  kBool = 1,
  kU8,
  kU16,
  kU32,
  kU64,
  kI8,
  kI16,
  kI32,
  kI64,
  kF16,
  kBF16,
  kF32,
  kF64,
};

// Bytes of one element: 1, 2, 4 or 8.
[[nodiscard]] size_t ItemSize(DType dtype);

// numpy's name: "bool", "uint8", "int64", "float16", "bfloat16", ...
[[nodiscard]] std::string_view Name(DType dtype);

// Reads numpy's name or the short one ("u8", "i64", "f16", "bf16"); any other text is kInvalidArgument that
// lists the names.
[[nodiscard]] absl::StatusOr<DType> ParseDType(std::string_view name);

}  // namespace devmem
