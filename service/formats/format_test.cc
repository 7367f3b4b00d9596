// SPDX-License-Identifier: Apache-2.0
#include "service/formats/format.h"

#include <gtest/gtest.h>

#include <vector>

namespace devmem {
namespace {

using Shape = std::vector<int64_t>;
constexpr int64_t kBig = int64_t{1} << 61;

TEST(FormatTest, ArrayBytes) {
  EXPECT_EQ(ArrayBytes(DType::kF32, Shape{}), 4u);
  EXPECT_EQ(ArrayBytes(DType::kU8, Shape{3, 224, 224}), 150528u);
  EXPECT_EQ(ArrayBytes(DType::kI64, Shape{5, 0, 7}), 0u);
  EXPECT_EQ(ArrayBytes(DType::kU8, Shape{kBig, 3}), 3 * uint64_t{1} << 61);
  EXPECT_EQ(ArrayBytes(DType::kU8, Shape{kBig, 4}), std::nullopt);  // 2^63
  EXPECT_EQ(ArrayBytes(DType::kF64, Shape{kBig}), std::nullopt);
  EXPECT_EQ(ArrayBytes(DType::kU8, Shape{-1}), std::nullopt);
}

TEST(FormatTest, TextForMessagesIsPrintable) {
  EXPECT_EQ(Quoted("plain"), "\"plain\"");
  EXPECT_EQ(Quoted("\x93NUMPY\n\xff"), "\"\\x93NUMPY\\n\\xff\"");
  EXPECT_LT(Quoted(std::string(1000, '\0')).size(), 300u);
  EXPECT_EQ(ShapeText(Shape{}), "()");
  EXPECT_EQ(ShapeText(Shape{3}), "(3,)");
  EXPECT_EQ(ShapeText(Shape{3, 4}), "(3, 4)");
}

}  // namespace
}  // namespace devmem
