// SPDX-License-Identifier: Apache-2.0
#include "gpu/dtype.h"

#include <string>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

struct Case {
  DType dtype;
  int wire;
  size_t size;
  const char* name;
  const char* short_name;
};

constexpr Case kCases[] = {
    {DType::kBool, 1, 1, "bool", "bool"},   {DType::kU8, 2, 1, "uint8", "u8"},         {DType::kU16, 3, 2, "uint16", "u16"},
    {DType::kU32, 4, 4, "uint32", "u32"},   {DType::kU64, 5, 8, "uint64", "u64"},      {DType::kI8, 6, 1, "int8", "i8"},
    {DType::kI16, 7, 2, "int16", "i16"},    {DType::kI32, 8, 4, "int32", "i32"},       {DType::kI64, 9, 8, "int64", "i64"},
    {DType::kF16, 10, 2, "float16", "f16"}, {DType::kBF16, 11, 2, "bfloat16", "bf16"}, {DType::kF32, 12, 4, "float32", "f32"},
    {DType::kF64, 13, 8, "float64", "f64"},
};

TEST(DTypeTest, NamesSizesAndWireNumbers) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(static_cast<int>(c.dtype), c.wire);
    EXPECT_EQ(ItemSize(c.dtype), c.size);
    EXPECT_EQ(Name(c.dtype), c.name);
    for (const char* text : {c.name, c.short_name}) {
      auto parsed = ParseDType(text);
      ASSERT_TRUE(parsed.ok()) << text;
      EXPECT_EQ(*parsed, c.dtype);
    }
  }
}

TEST(DTypeTest, OtherTextIsRefusedWithTheNames) {
  for (const char* text : {"", "float", "Float32", "uint8 ", "<f4", "int128", "complex64"}) {
    auto parsed = ParseDType(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(GetErrorInfo(parsed.status()).action, testing::HasSubstr("bfloat16, float32"));
  }
}

}  // namespace
}  // namespace devmem
