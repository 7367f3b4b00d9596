// SPDX-License-Identifier: Apache-2.0
#include "service/glob.h"

#include <fnmatch.h>
#include <gmock/gmock.h>

#include <random>

#include "base/clock.h"
#include "base/error.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

bool Matches(const std::string& glob, std::string_view name) {
  const auto compiled = Glob::Compile(glob);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return compiled.ok() && compiled->Matches(name);
}

TEST(Glob, IsFnmatchs) {
  struct Row {
    const char* glob;
    const char* name;
    bool matches;
  };
  for (const Row& row : {Row{"", "", true},
                         Row{"", "a", false},
                         Row{"*", "", true},
                         Row{"*", "a/.b", true},
                         Row{"a/*.npy", "a/b/c.npy", true},
                         Row{"a/*.npy", "a/.npy", true},
                         Row{"a/*.npy", "b/c.npy", false},
                         Row{"?", "/", true},
                         Row{"?", "", false},
                         Row{"[a-c]x", "bx", true},
                         Row{"[!a-c]x", "bx", false},
                         Row{"[^a-c]x", "dx", true},
                         Row{"[]]", "]", true},
                         Row{"[]a-]", "-", true},
                         Row{"[", "[", true},
                         Row{"[a", "[a", true},
                         Row{"[[:digit:]]*", "7z", true},
                         Row{"[[:digit:]]*", "z7", false},
                         Row{"\\*", "*", true},
                         Row{"\\*", "a", false},
                         Row{"a\\", "a\\", false},
                         Row{"a\\", "a", false},
                         Row{"*.part[0-9][0-9]", "x.part07", true},
                         Row{"\xc3\xa9*", "\xc3\xa9t", true},
                         Row{"**a**", "bab", true}}) {
    EXPECT_EQ(Matches(row.glob, row.name), row.matches) << row.glob << " " << row.name;
    EXPECT_EQ(::fnmatch(row.glob, row.name, 0) == 0, row.matches) << row.glob << " " << row.name;
  }
}

TEST(Glob, AgreesWithFnmatchOnWhateverIsWritten) {
  std::mt19937 random(20);
  const auto text = [&random](std::string_view alphabet, size_t longest) {
    std::string made;
    for (size_t length = random() % (longest + 1); made.size() < length;) made += alphabet[random() % alphabet.size()];
    return made;
  };
  int matched = 0;
  for (int i = 0; i < 400'000; ++i) {
    const std::string glob = text(i % 2 == 0 ? "ab*?" : "ab*?[]-!^\\/", 9);
    const std::string name = text("ab-]/[", 6);
    const bool expected = ::fnmatch(glob.c_str(), name.c_str(), 0) == 0;
    ASSERT_EQ(Matches(glob, name), expected) << "glob " << glob << " name " << name;
    matched += expected ? 1 : 0;
  }
  EXPECT_GT(matched, 10'000);
}

// fnmatch(3) would still be at it when the sun goes out; the product of the lengths is four million steps.
TEST(Glob, ManyStarsTakeNoTime) {
  std::string glob;
  while (glob.size() + 4 < kLongestGlob) glob += "*a*?";
  glob += "*b";
  const Time begin = Clock::now();
  EXPECT_FALSE(Matches(glob, std::string(4096, 'a')));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
}

TEST(Glob, IsAKibibyteAtMost) {
  EXPECT_TRUE(Glob::Compile(std::string(1024, '*')).ok());
  const absl::Status refused = Glob::Compile(std::string(1025, '*')).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(refused), HasSubstr("1025 bytes"));
}

}  // namespace
}  // namespace devmem
