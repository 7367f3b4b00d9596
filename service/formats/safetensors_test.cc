// SPDX-License-Identifier: Apache-2.0
#include "service/formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing/error_text.h"

namespace devmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Head(const std::string& json) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(json.size() >> (8 * i));
  return bytes + json;
}

absl::StatusOr<SafetensorsHeader> Parse(const std::string& head, uint64_t data_bytes) {
  auto parsed = ParseSafetensorsHeader(head, head.size() + data_bytes);
  if (!parsed.ok()) return parsed.status();
  if (!std::holds_alternative<SafetensorsHeader>(*parsed)) return absl::InternalError("needs more bytes");
  return std::get<SafetensorsHeader>(*parsed);
}

constexpr char kTwo[] = R"({"__metadata__":{"format":"pt"},"y":{"dtype":"I64","shape":[4],"data_offsets":[24,56]},)"
                        R"("x":{"dtype":"F16","shape":[4,3],"data_offsets":[0,24]}}   )";

TEST(SafetensorsTest, ReadsTensorsInOrderOfTheirBytes) {
  const std::string head = Head(kTwo);
  const auto header = Parse(head, 56);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->data_offset, head.size());
  ASSERT_EQ(header->tensors.size(), 2u);
  const SafetensorsTensor& x = header->tensors[0];
  EXPECT_EQ(x.name, "x");
  EXPECT_EQ(x.dtype, DType::kF16);
  EXPECT_THAT(x.shape, ElementsAre(4, 3));
  EXPECT_EQ(x.offset, head.size());
  EXPECT_EQ(x.bytes, 24u);
  const SafetensorsTensor& y = header->tensors[1];
  EXPECT_EQ(y.name, "y");
  EXPECT_EQ(y.dtype, DType::kI64);
  EXPECT_EQ(y.offset, head.size() + 24);
}

std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return Head(R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}");
}

TEST(SafetensorsTest, EveryDType) {
  struct Row {
    const char* name;
    DType dtype;
  };
  constexpr Row kRows[] = {{"BOOL", DType::kBool}, {"U8", DType::kU8},   {"I8", DType::kI8},     {"U16", DType::kU16},
                           {"I16", DType::kI16},   {"U32", DType::kU32}, {"I32", DType::kI32},   {"U64", DType::kU64},
                           {"I64", DType::kI64},   {"F16", DType::kF16}, {"BF16", DType::kBF16}, {"F32", DType::kF32},
                           {"F64", DType::kF64}};
  for (const Row& row : kRows) {
    const uint64_t bytes = 3 * ItemSize(row.dtype);
    const auto header = Parse(One(row.name, "[3]", "[0," + std::to_string(bytes) + "]"), bytes);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->tensors[0].dtype, row.dtype);
  }
}

// A file may hold a tensor we cannot stream beside those we can.
TEST(SafetensorsTest, UnknownDTypesAreKeptByName) {
  const auto header = Parse(One("F8_E4M3", "[3]", "[0,3]"), 3);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors[0].dtype, std::nullopt);
  EXPECT_EQ(header->tensors[0].dtype_name, "F8_E4M3");
}

TEST(SafetensorsTest, ScalarsEmptyTensorsAndNoTensors) {
  EXPECT_TRUE(Parse(One("F32", "[]", "[0,4]"), 4).ok());
  EXPECT_TRUE(Parse(One("F32", "[0,5]", "[0,0]"), 0).ok());
  EXPECT_TRUE(Parse(Head("{}"), 0).ok());
  EXPECT_TRUE(Parse(Head(R"({"__metadata__":{}})"), 0).ok());
  // An empty tensor between two others overlaps neither.
  EXPECT_TRUE(
      Parse(Head(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},)"
                 R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})"),
            4)
          .ok());
}

TEST(SafetensorsTest, AsksForWhatItLacks) {
  const std::string head = Head(kTwo + std::string(40'000, ' '));
  for (const size_t given : {size_t{0}, size_t{7}, size_t{8}, size_t{100}, size_t{16384}, head.size() - 1}) {
    const auto parsed = ParseSafetensorsHeader(std::string_view(head).substr(0, given), head.size() + 56);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto* need = std::get_if<NeedBytes>(&*parsed);
    ASSERT_NE(need, nullptr);
    EXPECT_EQ(need->bytes, given < 8 ? kSafetensorsFirstRead : head.size());
  }
  EXPECT_TRUE(Parse(head, 56).ok());
}

TEST(SafetensorsTest, ErrorsNameTheirCause) {
  struct Bad {
    const char* description;
    std::string head;
    uint64_t data_bytes;
    const char* cause;
  };
  const auto with_length = [](std::string bytes, uint64_t length) {
    for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
    return bytes;
  };
  const std::string good = One("F32", "[2]", "[0,8]");
  const std::string u8 = R"({"dtype":"U8","shape":[4],"data_offsets":)";
  const Bad rows[] = {
      {"empty", "", 0, "truncated header"},
      {"nine bytes", std::string(9, '\0'), 0, "truncated header"},
      {"header past the end", with_length(good, 5000), 8, "truncated header"},
      {"huge length", with_length(good, 100'000'001), 200'000'000, "absurd header length"},
      {"length 2^64-1", with_length(good, ~uint64_t{0}), 8, "absurd header length"},
      {"length 2^63", with_length(good, uint64_t{1} << 63), 8, "absurd header length"},
      {"no header", Head(""), 8, "malformed header"},
      {"leading space", Head(" {}"), 0, "malformed header"},
      {"an array", Head("[1, 2]"), 0, "malformed header"},
      {"not JSON", Head("{hello}"), 0, "malformed JSON"},
      {"not closed", Head(R"({"x":{"dtype":"U8")"), 0, "malformed JSON"},
      {"trailing text", Head("{}x"), 0, "malformed JSON"},
      {"trailing object", Head("{}{}"), 0, "malformed JSON"},
      {"trailing NULs", Head(std::string("{}\0\0", 4)), 0, "malformed JSON"},
      {"bad UTF-8 in a name", Head("{\"\xff\xfe\":{}}"), 0, "bad UTF-8"},
      {"surrogate in a name", Head("{\"\xed\xa0\x80\":{}}"), 0, "bad UTF-8"},
      {"lone escaped surrogate", Head(R"({"\ud800":{}})"), 0, "malformed JSON"},
      {"NaN", One("F32", "[NaN]", "[0,8]"), 8, "malformed JSON"},
      {"Infinity", One("F32", "[2]", "[0,Infinity]"), 8, "malformed JSON"},
      {"duplicate tensor", Head("{\"x\":" + u8 + "[0,4]},\"x\":" + u8 + "[4,8]}}"), 8, "duplicate key"},
      {"duplicate metadata", Head(R"({"__metadata__":{},"__metadata__":{}})"), 0, "duplicate key"},
      {"duplicate field", Head(R"({"x":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})"), 4, "duplicate key"},
      {"duplicate offsets", Head("{\"x\":" + u8 + "[0,4],\"data_offsets\":[0,4]}}"), 4, "duplicate key"},
      {"unknown field", Head("{\"x\":" + u8 + "[0,4],\"stride\":[1]}}"), 4, "unknown key"},
      {"no shape", Head(R"({"x":{"dtype":"U8","data_offsets":[0,4]}})"), 4, "missing key"},
      {"no dtype", Head(R"({"x":{"shape":[4],"data_offsets":[0,4]}})"), 4, "missing key"},
      {"no offsets", Head(R"({"x":{"dtype":"U8","shape":[4]}})"), 4, "missing key"},
      {"overlap", Head("{\"x\":" + u8 + "[0,4]},\"y\":" + u8 + "[3,7]}}"), 7, "overlapping tensors"},
      {"same bytes twice", Head("{\"x\":" + u8 + "[0,4]},\"y\":" + u8 + "[0,4]}}"), 4, "overlapping tensors"},
      {"hole", Head("{\"x\":" + u8 + "[0,4]},\"y\":" + u8 + "[5,9]}}"), 9, "hole between tensors"},
      {"hole at the start", Head("{\"x\":" + u8 + "[1,5]}}"), 5, "hole between tensors"},
      {"truncated", good, 7, "truncated object"},
      {"too long", good, 9, "object too long"},
      {"bytes and no tensors", Head("{}"), 1, "object too long"},
      {"offsets 2^63", One("F32", "[2]", "[0,9223372036854775808]"), 8, "number out of range"},
      {"offsets 2^64", One("F32", "[2]", "[0,18446744073709551616]"), 8, "number out of range"},
      {"offsets 2^63-1", One("F32", "[2]", "[0,9223372036854775807]"), 8, "truncated object"},
      {"begin 2^63-1", One("F32", "[2]", "[9223372036854775807,9223372036854775807]"), 8, "truncated object"},
      {"backwards", One("F32", "[2]", "[8,0]"), 8, "offsets out of order"},
      {"negative offset", One("F32", "[2]", "[-8,0]"), 8, "number out of range"},
      {"float offset", One("F32", "[2]", "[0,8.0]"), 8, "number out of range"},
      {"huge exponent", One("F32", "[2]", "[0,1e999]"), 8, "malformed JSON"},
      {"one offset", One("F32", "[2]", "[8]"), 8, "malformed header"},
      {"three offsets", One("F32", "[2]", "[0,4,8]"), 8, "malformed header"},
      {"negative dimension", One("F32", "[-2]", "[0,8]"), 8, "number out of range"},
      {"shape product overflows", One("F32", "[4294967296,4294967296]", "[0,8]"), 8, "shape overflow"},
      {"shape product wraps to the size", One("U64", "[2305843009213693953,8]", "[0,64]"), 64, "shape overflow"},
      {"shape and offsets disagree", One("F32", "[3]", "[0,8]"), 8, "shape and offsets disagree"},
      {"nested shape", One("F32", "[[2]]", "[0,8]"), 8, "malformed header"},
      {"shape of strings", One("F32", "[\"2\"]", "[0,8]"), 8, "malformed header"},
      {"shape is null", One("F32", "null", "[0,8]"), 8, "malformed header"},
      {"dtype is a number", Head(R"({"x":{"dtype":3,"shape":[4],"data_offsets":[0,4]}})"), 4, "malformed header"},
      {"tensor is a number", Head(R"({"x":3})"), 0, "malformed header"},
      {"tensor is true", Head(R"({"x":true})"), 0, "malformed header"},
      {"metadata is a string", Head(R"({"__metadata__":"x"})"), 0, "malformed header"},
      {"metadata of numbers", Head(R"({"__metadata__":{"x":1}})"), 0, "malformed header"},
      {"metadata of objects", Head(R"({"__metadata__":{"x":{}}})"), 0, "malformed header"},
      {"million brackets", Head("{\"x\":" + std::string(1'000'000, '[')), 0, "malformed header"},
      {"million braces", Head([] {
         std::string s;
         for (int i = 0; i < 100'000; ++i) s += "{\"a\":";
         return s;
       }()),
       0, "unknown key"},
      {"65 dimensions",
       One(
           "U8",
           "[1" +
               [] {
                 std::string s;
                 for (int i = 0; i < 64; ++i) s += ",1";
                 return s;
               }() +
               "]",
           "[0,1]"),
       1, "too many dimensions"},
  };
  for (const Bad& row : rows) {
    const auto header = Parse(row.head, row.data_bytes);
    ASSERT_FALSE(header.ok()) << row.description;
    EXPECT_EQ(header.status().code(), absl::StatusCode::kDataLoss) << row.description << ": " << header.status();
    EXPECT_EQ(CauseText(header.status()), row.cause) << row.description << ": " << header.status();
    for (const char c : Text(header.status())) EXPECT_TRUE(c >= ' ' && c < 0x7f) << row.description << ": " << header.status();
  }
}

TEST(SafetensorsTest, ErrorsNameTheTensor) {
  const auto header = Parse(One("F32", "[3]", "[0,8]"), 8);
  EXPECT_THAT(Text(header.status()), HasSubstr("tensor \"x\" has 8 bytes, its shape (3,) of F32 takes 12"));
}

}  // namespace
}  // namespace devmem
