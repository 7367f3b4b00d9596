// SPDX-License-Identifier: Apache-2.0
#include "service/cli/values.h"

#include <gtest/gtest.h>

#include <optional>

namespace devmem::cli {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

struct SizeCase {
  const char* text;
  std::optional<uint64_t> bytes;
};

TEST(ParseSize, Table) {
  const SizeCase cases[] = {
      {"0", 0},
      {"4096", 4096},
      {"64k", 65536},
      {"64KiB", 65536},
      {"64kb", 64000},
      {"256MiB", 268435456},
      {"1G", 1073741824},
      {"1.5G", 1610612736},
      {"1GB", 1000000000},
      {"2t", 2199023255552},
      {"18446744073709551615", 18446744073709551615u},
      {"", std::nullopt},
      {"-1", std::nullopt},
      {"G", std::nullopt},
      {"1X", std::nullopt},
      {"1 G", std::nullopt},
      {"nan", std::nullopt},
      {"inf", std::nullopt},
      {"0x10", std::nullopt},
      {"99999999999G", std::nullopt},
      {"18446744073709551616", std::nullopt},
  };
  for (const SizeCase& test : cases) {
    auto bytes = ParseSize(test.text);
    EXPECT_EQ(bytes.ok(), test.bytes.has_value()) << test.text;
    if (bytes.ok() && test.bytes) {
      EXPECT_EQ(*bytes, *test.bytes) << test.text;
    }
  }
}

TEST(ParseDuration, Table) {
  const std::pair<const char*, std::optional<Duration>> cases[] = {
      {"5s", seconds(5)},          {"5", seconds(5)},    {"250ms", milliseconds(250)},
      {"1.5", milliseconds(1500)}, {"2m", seconds(120)}, {"1h", hours(1)},
      {"0", seconds(0)},           {"", std::nullopt},   {"-1s", std::nullopt},
      {"5 s", std::nullopt},       {"5d", std::nullopt}, {"1e300h", std::nullopt},
  };
  for (const auto& test : cases) {
    auto time = ParseDuration(test.first);
    EXPECT_EQ(time.ok(), test.second.has_value()) << test.first;
    if (time.ok() && test.second) {
      EXPECT_EQ(*time, *test.second) << test.first;
    }
  }
}

TEST(ParseShape, Table) {
  EXPECT_EQ(*ParseShape("32x32x3"), (std::vector<int64_t>{32, 32, 3}));
  EXPECT_EQ(*ParseShape("32,3"), (std::vector<int64_t>{32, 3}));
  EXPECT_EQ(*ParseShape("7"), (std::vector<int64_t>{7}));
  for (const char* bad : {"", "x", "3x", "x3", "0x3", "-1", "3x-1", "3 x 3", "9223372036854775808"})
    EXPECT_FALSE(ParseShape(bad).ok()) << bad;
}

TEST(ParseWhole, SaysTheRange) {
  EXPECT_EQ(*ParseWhole("7", 1, 10), 7u);
  EXPECT_EQ(ParseWhole("0", 1, 10).status().message(), "expected a whole number from 1 to 10");
  EXPECT_FALSE(ParseWhole("7.0", 1, 10).ok());
  EXPECT_FALSE(ParseWhole("", 0, 10).ok());
}

TEST(ParseMode, Table) {
  EXPECT_EQ(*ParseMode("0660"), 0660u);
  EXPECT_EQ(*ParseMode("600"), 0600u);
  for (const char* bad : {"", "rw", "0999", "01777"}) EXPECT_FALSE(ParseMode(bad).ok()) << bad;
}

TEST(ParseSwitch, Table) {
  EXPECT_TRUE(*ParseSwitch("Yes"));
  EXPECT_FALSE(*ParseSwitch("0"));
  EXPECT_FALSE(ParseSwitch("maybe").ok());
}

TEST(SplitNamed, SplitsAtTheFirstEquals) {
  EXPECT_EQ(SplitNamed("image=a=b*.npy"), std::make_pair(std::string("image"), std::string("a=b*.npy")));
  EXPECT_EQ(SplitNamed("*.npy"), std::make_pair(std::string(), std::string("*.npy")));
}

TEST(Format, ForPeople) {
  EXPECT_EQ(FormatSeconds(0.0123), "12.3 ms");
  EXPECT_EQ(FormatSeconds(62), "62.0 s");
  EXPECT_EQ(FormatSeconds(125), "2m05s");
  EXPECT_EQ(FormatSeconds(3720), "1h02m");
}

}  // namespace
}  // namespace devmem::cli
