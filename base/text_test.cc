// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

// The boundary cases of RFC 3629's grammar.
constexpr std::string_view kGood[] = {
    "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"};
constexpr std::string_view kBad[] = {"\x80",         "\xBF",    "\xC0\x80",         "\xC1\xBF",         "\xC2",
                                     "\xC2\x41",     "\xE0",    "\xE0\x9F\xBF",     "\xED\xA0\x80",     "\xE2\x82",
                                     "\xE2\x82\x28", "\xFF",    "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                     "\xF0\x9F\x98", "\xF0\x9F"};

TEST(Text, Utf8) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_EQ(DecodeUtf8("").length, 0u);
  EXPECT_EQ(DecodeUtf8("\xE2\x82\xACx").point, 0x20ACu);
  EXPECT_EQ(DecodeUtf8("\xF4\x8F\xBF\xBF").point, 0x10FFFFu);
  for (const std::string_view good : kGood) {
    EXPECT_EQ(DecodeUtf8(good).length, good.size()) << Printable(good);
    EXPECT_TRUE(IsUtf8("x" + std::string(good) + "y")) << Printable(good);
  }
  for (const std::string_view bad : kBad) {
    EXPECT_EQ(DecodeUtf8(bad).length, 0u) << Printable(bad);
    EXPECT_FALSE(IsUtf8("x" + std::string(bad))) << Printable(bad);
  }
}

TEST(Text, AsUtf8AlwaysIs) {
  const struct {
    std::string_view text, expected;
  } kRows[] = {{"", ""},
               {"images/\xC3\xA9.npy", "images/\xC3\xA9.npy"},
               {"caf\xE9.npy", "caf?.npy"},
               {"\xE2\x82", "??"},
               {"\xF0\x9F\x98\x80\xFF", "\xF0\x9F\x98\x80?"}};
  for (const auto& row : kRows) EXPECT_EQ(AsUtf8(row.text), row.expected);
  EXPECT_EQ(AsUtf8("a\xC3\xA9z", 2), "a");
  EXPECT_EQ(AsUtf8("a\xC3\xA9z", 3), "a\xC3\xA9");
  EXPECT_EQ(Utf8Head("a\xC3\xA9z", 2), "a");
  EXPECT_EQ(Utf8Head("a\xC3\xA9z", 3), "a\xC3\xA9");
  EXPECT_EQ(Utf8Head("\xFF\xFF", 1), "\xFF");
  EXPECT_EQ(Utf8Head("ab", 9), "ab");
}

TEST(Text, NothingPrintableMovesATerminal) {
  const struct {
    std::string_view text, shown;
  } kRows[] = {
      {"plain", "plain"},
      {"naïve 猫 😀", "naïve 猫 😀"},  // what people write stays
      {"a\x1b[2Jb", "a\\x1b[2Jb"},
      {"two\nlines\r", "two\\x0alines\\x0d"},
      {std::string_view("nul\0\x7f", 5), "nul\\x00\\u007f"},
      {"caf\xE9", "caf\\xe9"},  // latin-1
      {"\xC2\x9B"
       "2J",
       "\\u009b2J"},  // CSI in one character
      {"\xC2\x80\xC2\x9F\xC2\xA0", "\\u0080\\u009f\xC2\xA0"},
      {"gpj\xE2\x80\xAE"
       "exe",
       "gpj\\u202eexe"},  // right-to-left override
      {"\xE2\x80\xAA\xE2\x80\xAB\xE2\x80\xAC\xE2\x80\xAD", "\\u202a\\u202b\\u202c\\u202d"},
      {"\xE2\x81\xA6\xE2\x81\xA7\xE2\x81\xA8\xE2\x81\xA9", "\\u2066\\u2067\\u2068\\u2069"},
      {"\xE2\x80\x8E\xE2\x80\x8F\xD8\x9C", "\\u200e\\u200f\\u061c"},
      {"\xE2\x80\xA8\xE2\x80\xA9", "\\u2028\\u2029"},
      {"\xE2\x80\x8D\xE2\x80\x90", "\xE2\x80\x8D\xE2\x80\x90"},  // a joiner and a hyphen, their neighbours
  };
  for (const auto& row : kRows) EXPECT_EQ(Printable(row.text), row.shown);
}

TEST(Text, PrintableIsCut) {
  EXPECT_EQ(Printable(std::string(kShownBytes, 'a')), std::string(kShownBytes, 'a'));
  EXPECT_EQ(Printable(std::string(1000, 'a')), std::string(kShownBytes, 'a') + "...");
  EXPECT_EQ(Printable(std::string(1000, 'a'), kShowAll), std::string(1000, 'a'));
  EXPECT_EQ(Printable("a\xC3\xA9z", 2), "a...");  // never within a character
}

TEST(Text, Counted) {
  EXPECT_EQ(Counted(0, "object"), "0 objects");
  EXPECT_EQ(Counted(1, "object"), "1 object");
  EXPECT_EQ(Counted(2, "batch", "batches"), "2 batches");
  EXPECT_EQ(Counted(1, "batch", "batches"), "1 batch");
}

TEST(Text, FormatSize) {
  EXPECT_EQ(FormatSize(512), "512 B");
  EXPECT_EQ(FormatSize(uint64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(FormatSize(UINT64_MAX), "16.00 EiB");
}

}  // namespace
}  // namespace devmem
