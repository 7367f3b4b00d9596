// SPDX-License-Identifier: Apache-2.0
#include "service/formats/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing/error_text.h"

namespace devmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// An npy head of `version` around `dict`, as numpy lays it out but for the padding.
std::string Head(int version, const std::string& dict) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(version);
  bytes += '\0';
  for (size_t i = 0; i < (version == 1 ? 2u : 4u); ++i) bytes += static_cast<char>(dict.size() >> (8 * i));
  return bytes + dict;
}

std::string Dict(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }     \n";
}

absl::StatusOr<NpyHeader> Parse(const std::string& head, uint64_t data_bytes, bool bfloat16 = false) {
  auto parsed = ParseNpyHeader(head, head.size() + data_bytes, {.bfloat16 = bfloat16});
  if (!parsed.ok()) return parsed.status();
  if (!std::holds_alternative<NpyHeader>(*parsed)) return absl::InternalError("needs more bytes");
  return std::get<NpyHeader>(*parsed);
}

// The 128 bytes numpy 1.24 writes for numpy.save(f, numpy.zeros((2, 3), "<f4")).
TEST(NpyTest, ReadsWhatNumpyWrites) {
  std::string head("\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 69);
  head.append(127 - head.size(), ' ').append("\n");
  const auto header = Parse(head, 24);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->dtype, DType::kF32);
  EXPECT_THAT(header->shape, ElementsAre(2, 3));
  EXPECT_EQ(header->data_offset, 128u);
}

TEST(NpyTest, EveryDType) {
  struct Row {
    const char* descr;
    DType dtype;
  };
  constexpr Row kRows[] = {{"|b1", DType::kBool}, {"|u1", DType::kU8},  {"<u2", DType::kU16}, {"<u4", DType::kU32},
                           {"<u8", DType::kU64},  {"|i1", DType::kI8},  {"<i2", DType::kI16}, {"<i4", DType::kI32},
                           {"<i8", DType::kI64},  {"<f2", DType::kF16}, {"<f4", DType::kF32}, {"<f8", DType::kF64},
                           {"f4", DType::kF32},   {"=i8", DType::kI64}, {">u1", DType::kU8}};
  for (const Row& row : kRows) {
    const auto header = Parse(Head(1, Dict(row.descr, "(5,)")), 5 * ItemSize(row.dtype));
    ASSERT_TRUE(header.ok()) << row.descr << ": " << header.status();
    EXPECT_EQ(header->dtype, row.dtype) << row.descr;
  }
}

TEST(NpyTest, BFloat16OnlyWhenAskedFor) {
  for (const char* descr : {"<V2", "|V2", "bfloat16"}) {
    const std::string head = Head(1, Dict(descr, "(5,)"));
    const auto asked = Parse(head, 10, true);
    ASSERT_TRUE(asked.ok()) << asked.status();
    EXPECT_EQ(asked->dtype, DType::kBF16);
    const auto unasked = Parse(head, 10, false);
    EXPECT_EQ(unasked.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Text(unasked.status()), HasSubstr("dtype bfloat16 in the tensor's specification"));
  }
  // Asking for bfloat16 does not change what has a type of its own.
  EXPECT_EQ(Parse(Head(1, Dict("<f2", "(5,)")), 10, true)->dtype, DType::kF16);
}

TEST(NpyTest, OtherSpellingsOfTheSameDict) {
  for (const std::string dict : {
           "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}",
           "{\"descr\":\"<f4\",\"fortran_order\":False,\"shape\":(2,3)}",
           "  {\t'descr' : '<f4' ,\n'fortran_order' : False, 'shape' : ( 2 , 3 , ) , } \r\n",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
       }) {
    for (const int version : {1, 2, 3}) {
      const auto header = Parse(Head(version, dict), 24);
      ASSERT_TRUE(header.ok()) << dict << header.status();
      EXPECT_THAT(header->shape, ElementsAre(2, 3));
      EXPECT_EQ(header->data_offset, dict.size() + (version == 1 ? 10 : 12));
    }
  }
}

TEST(NpyTest, NoRowsIsFine) {
  const auto header = Parse(Head(1, Dict("<f4", "(0, 7)")), 0);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_THAT(header->shape, ElementsAre(0, 7));
}

TEST(NpyTest, AsksForWhatItLacks) {
  const std::string head = Head(2, Dict("<f4", "(2, 3)") + std::string(9000, ' '));
  const uint64_t size = head.size() + 24;
  for (size_t given = 0; given < head.size(); given += given < 20 ? 1 : 997) {
    const auto parsed = ParseNpyHeader(std::string_view(head).substr(0, given), size, {});
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto* need = std::get_if<NeedBytes>(&*parsed);
    ASSERT_NE(need, nullptr) << given;
    EXPECT_EQ(need->bytes, given < 12 ? kNpyFirstRead : head.size()) << given;
  }
  EXPECT_TRUE(Parse(head, 24).ok());
}

struct Bad {
  const char* description;
  std::string head;
  uint64_t data_bytes;
  absl::StatusCode code;
  const char* cause;
};

TEST(NpyTest, ErrorsNameTheirCause) {
  constexpr auto kBroken = absl::StatusCode::kDataLoss;
  constexpr auto kUnusable = absl::StatusCode::kFailedPrecondition;
  const std::string good = Dict("<f4", "(2, 3)");
  const std::string longest = Dict("<f4", "(2, 3)") + std::string(65536, ' ');
  const Bad rows[] = {
      {"empty", "", 0, kBroken, "truncated header"},
      {"only a magic", "\x93NUMPY", 0, kBroken, "truncated header"},
      {"text", "hello, world", 0, kBroken, "wrong magic"},
      {"a zip", "PK\x03\x04 and so on", 0, kBroken, "wrong magic"},
      {"version 4", Head(4, good), 24, kUnusable, "unknown npy version"},
      {"version 0", Head(0, good), 24, kUnusable, "unknown npy version"},
      {"ends in mid-header", Head(1, good).substr(0, 40), 0, kBroken, "truncated header"},
      {"ends in a version 2 length", Head(2, good).substr(0, 11), 0, kBroken, "truncated header"},
      {"4 GiB header", std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12), 1000, kBroken, "absurd header length"},
      {"header over the cap", Head(2, longest), 24, kBroken, "absurd header length"},
      {"Fortran order", Head(1, Dict("<f4", "(2, 3)", "True")), 24, kUnusable, "Fortran order"},
      {"big-endian", Head(1, Dict(">f4", "(2, 3)")), 24, kUnusable, "big-endian"},
      {"big-endian bfloat16", Head(1, Dict(">V2", "(2, 3)")), 12, kUnusable, "big-endian"},
      {"objects", Head(1, Dict("|O", "(2, 3)")), 24, kUnusable, "object dtype"},
      {"fields", Head(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}"), 8, kUnusable, "structured dtype"},
      {"subarray", Head(1, "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (2,)}"), 8, kUnusable,
       "structured dtype"},
      {"void", Head(1, Dict("|V8", "(2, 3)")), 48, kUnusable, "structured dtype"},
      {"complex", Head(1, Dict("<c8", "(2, 3)")), 48, kUnusable, "unsupported dtype"},
      {"unicode", Head(1, Dict("<U5", "(2, 3)")), 120, kUnusable, "unsupported dtype"},
      {"dates", Head(1, Dict("<M8[ns]", "(2, 3)")), 48, kUnusable, "unsupported dtype"},
      {"long double", Head(1, Dict("<f16", "(2, 3)")), 96, kUnusable, "unsupported dtype"},
      {"no dtype", Head(1, Dict("", "(2, 3)")), 24, kUnusable, "unsupported dtype"},
      {"0-d", Head(1, Dict("<f4", "()")), 4, kUnusable, "0-d array"},
      {"empty rows", Head(1, Dict("<f4", "(5, 0)")), 0, kUnusable, "empty samples"},
      {"shape is a number", Head(1, Dict("<f4", "(6)")), 24, kBroken, "shape is not a tuple"},
      {"shape is a list", Head(1, Dict("<f4", "[6]")), 24, kBroken, "malformed header"},
      {"shape of a comma", Head(1, Dict("<f4", "(,)")), 24, kBroken, "malformed header"},
      {"negative", Head(1, Dict("<f4", "(-2, 3)")), 24, kBroken, "negative dimension"},
      {"2^63", Head(1, Dict("<f4", "(9223372036854775808,)")), 24, kBroken, "dimension out of range"},
      {"product over 2^63", Head(1, Dict("<f4", "(4294967296, 4294967296)")), 24, kBroken, "shape overflow"},
      {"product that wraps to the size", Head(1, Dict("<u8", "(2305843009213693953, 8)")), 64, kBroken, "shape overflow"},
      {"no rows of 2^63", Head(1, Dict("<f4", "(0, 4294967296, 4294967296)")), 0, kBroken, "shape overflow"},
      {"float dimension", Head(1, Dict("<f4", "(2.0, 3)")), 24, kBroken, "malformed header"},
      {"NaN dimension", Head(1, Dict("<f4", "(nan, 3)")), 24, kBroken, "malformed header"},
      {"an expression", Head(1, Dict("<f4", "(2*3,)")), 24, kBroken, "malformed header"},
      {"65 dimensions",
       Head(1, Dict(
                   "|u1", "(1" +
                              [] {
                                std::string s;
                                for (int i = 0; i < 64; ++i) s += ",1";
                                return s;
                              }() +
                              ")")),
       1, kBroken, "too many dimensions"},
      {"truncated", Head(1, good), 23, kBroken, "truncated object"},
      {"too long", Head(1, good), 25, kBroken, "object too long"},
      {"no shape", Head(1, "{'descr': '<f4', 'fortran_order': False}"), 24, kBroken, "missing key"},
      {"no order", Head(1, "{'descr': '<f4', 'shape': (2, 3)}"), 24, kBroken, "missing key"},
      {"no descr", Head(1, "{'fortran_order': False, 'shape': (2, 3)}"), 24, kBroken, "missing key"},
      {"twice", Head(1, "{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}"), 24, kBroken,
       "duplicate key"},
      {"another key", Head(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}"), 24, kBroken, "unknown key"},
      {"trailing text", Head(1, good + "x"), 24, kBroken, "malformed header"},
      {"trailing NUL", Head(1, good + std::string(1, '\0')), 24, kBroken, "malformed header"},
      {"not closed", Head(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)"), 24, kBroken, "malformed header"},
      {"open string", Head(1, "{'descr': '<f4"), 24, kBroken, "malformed header"},
      {"escape", Head(1, "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (2, 3)}"), 24, kBroken, "malformed header"},
      {"code", Head(1, "__import__('os')"), 24, kBroken, "malformed header"},
      {"order is a number", Head(1, Dict("<f4", "(2, 3)", "0")), 24, kBroken, "malformed header"},
      {"empty dict text", Head(1, ""), 24, kBroken, "malformed header"},
      {"bad UTF-8", Head(3, "{'descr': '\xff\xfe', 'fortran_order': False, 'shape': (2, 3)}"), 24, kBroken, "bad UTF-8"},
      {"Latin-1 in version 1", Head(1, "{'descr': '\xe9', 'fortran_order': False, 'shape': (2, 3)}"), 24, kUnusable,
       "unsupported dtype"},
  };
  for (const Bad& row : rows) {
    const auto header = Parse(row.head, row.data_bytes);
    ASSERT_FALSE(header.ok()) << row.description;
    EXPECT_EQ(header.status().code(), row.code) << row.description << ": " << header.status();
    EXPECT_EQ(CauseText(header.status()), row.cause) << row.description << ": " << header.status();
    for (const char c : Text(header.status())) EXPECT_TRUE(c >= ' ' && c < 0x7f) << row.description << ": " << header.status();
  }
}

}  // namespace
}  // namespace devmem
