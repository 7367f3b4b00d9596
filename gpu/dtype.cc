// SPDX-License-Identifier: Apache-2.0
#include "gpu/dtype.h"

#include <array>
#include <string>

#include "base/error.h"

namespace devmem {
namespace {

struct Row {
  DType dtype;
  size_t size;
  std::string_view name;
  std::string_view short_name;
};

constexpr std::array kRows = {
    Row{DType::kBool, 1, "bool", "bool"},  Row{DType::kU8, 1, "uint8", "u8"},        Row{DType::kU16, 2, "uint16", "u16"},
    Row{DType::kU32, 4, "uint32", "u32"},  Row{DType::kU64, 8, "uint64", "u64"},     Row{DType::kI8, 1, "int8", "i8"},
    Row{DType::kI16, 2, "int16", "i16"},   Row{DType::kI32, 4, "int32", "i32"},      Row{DType::kI64, 8, "int64", "i64"},
    Row{DType::kF16, 2, "float16", "f16"}, Row{DType::kBF16, 2, "bfloat16", "bf16"}, Row{DType::kF32, 4, "float32", "f32"},
    Row{DType::kF64, 8, "float64", "f64"},
};

// Rows lie in the order of the enumerators, which start at 1.
constexpr bool InOrder() {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<size_t>(kRows[i].dtype) != i + 1) return false;
  }
  return true;
}
static_assert(InOrder());

constexpr const Row& RowOf(DType dtype) { return kRows[static_cast<size_t>(dtype) - 1]; }

}  // namespace

size_t ItemSize(DType dtype) { return RowOf(dtype).size; }

std::string_view Name(DType dtype) { return RowOf(dtype).name; }

absl::StatusOr<DType> ParseDType(std::string_view name) {
  for (const Row& row : kRows) {
    if (name == row.name || name == row.short_name) return row.dtype;
  }
  std::string known;
  for (const Row& row : kRows) {
    if (!known.empty()) known += ", ";
    known += row.name;
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "\"" + std::string(name.substr(0, 40)) + "\" is not a dtype",
                   {.cause = "unknown dtype", .action = "use one of " + known});
}

}  // namespace devmem
