// SPDX-License-Identifier: Apache-2.0
// Glob: which names a pattern means, as fnmatch(3) without flags has it ('*' and '?' match '/' too), but in time that grows
// with the product of the two lengths at most: fnmatch(3) tries every way to share out a name among the stars, which "*a*a*a*b"
// makes take longer than anybody lives.
//
//   DEVMEM_ASSIGN_OR_RETURN(const Glob glob, Glob::Compile("image/*.npy"));
//   if (glob.Matches("image/0001.npy")) ...
//
// A value; thread-safe.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace devmem {

inline constexpr size_t kLongestGlob = 1024;

class Glob {
 public:
  // kInvalidArgument if it is longer than kLongestGlob.
  [[nodiscard]] static absl::StatusOr<Glob> Compile(std::string_view text);

  [[nodiscard]] bool Matches(std::string_view name) const;
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  struct Part {
    enum class Kind : uint8_t { kByte, kAny, kSet, kStar, kNothing } kind = Kind::kByte;
    char byte = 0;
    uint16_t set = 0;  // index into sets_
  };
  [[nodiscard]] bool MatchesOne(const Part& part, char byte) const;

  std::string text_;
  std::vector<Part> parts_;
  std::vector<std::bitset<256>> sets_;  // of bracket expressions: the bytes each one has
};

}  // namespace devmem
