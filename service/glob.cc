// SPDX-License-Identifier: Apache-2.0
#include "service/glob.h"

#include <fnmatch.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

// Where the bracket expression that begins at text[begin] ends: one past its ']'. npos: it has no end, and '[' is a '['.
size_t EndOfBracket(std::string_view text, size_t begin) {
  size_t at = begin + 1;
  if (at < text.size() && (text[at] == '!' || text[at] == '^')) ++at;
  for (bool first = true; at < text.size(); first = false) {
    if (text[at] == ']' && !first) return at + 1;
    if (text[at] == '\\') {
      at += 2;
    } else if (text[at] == '[' && at + 1 < text.size() && (text[at + 1] == ':' || text[at + 1] == '=' || text[at + 1] == '.')) {
      const size_t end = text.find(std::string{text[at + 1], ']'}, at + 2);
      at = end == std::string_view::npos ? at + 1 : end + 2;
    } else {
      ++at;
    }
  }
  return std::string_view::npos;
}

// What it has is libc's to say: of each byte by itself.
std::bitset<256> BytesOf(const std::string& bracket) {
  std::bitset<256> bytes;
  for (int byte = 1; byte < 256; ++byte) {
    const char name[] = {static_cast<char>(byte), '\0'};
    bytes[static_cast<size_t>(byte)] = ::fnmatch(bracket.c_str(), name, 0) == 0;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<Glob> Glob::Compile(std::string_view text) {
  if (text.size() > kLongestGlob) {
    return MakeError(absl::StatusCode::kInvalidArgument,
                     absl::StrCat("a glob has ", text.size(), " bytes; at most ", kLongestGlob, " are allowed"),
                     {.fault = Fault::kBadRequest, .cause = "glob too long", .action = "write a shorter one"});
  }
  Glob glob;
  glob.text_ = text;
  for (size_t at = 0; at < text.size();) {
    switch (text[at]) {
      case '*':
        if (glob.parts_.empty() || glob.parts_.back().kind != Part::Kind::kStar) {
          glob.parts_.push_back({.kind = Part::Kind::kStar});
        }
        ++at;
        break;
      case '?':
        glob.parts_.push_back({.kind = Part::Kind::kAny});
        ++at;
        break;
      case '\\':
        if (at + 1 < text.size()) {
          glob.parts_.push_back({.byte = text[at + 1]});
        } else {
          glob.parts_.push_back({.kind = Part::Kind::kNothing});  // a backslash at the end matches nothing
        }
        at += 2;
        break;
      case '[':
        if (const size_t end = EndOfBracket(text, at); end != std::string_view::npos) {
          glob.parts_.push_back({.kind = Part::Kind::kSet, .set = static_cast<uint16_t>(glob.sets_.size())});
          glob.sets_.push_back(BytesOf(std::string(text.substr(at, end - at))));
          at = end;
          break;
        }
        [[fallthrough]];
      default:
        glob.parts_.push_back({.byte = text[at]});
        ++at;
    }
  }
  return glob;
}

bool Glob::MatchesOne(const Part& part, char byte) const {
  switch (part.kind) {
    case Part::Kind::kByte:
      return part.byte == byte;
    case Part::Kind::kAny:
      return true;
    case Part::Kind::kSet:
      return sets_[part.set][static_cast<unsigned char>(byte)];
    default:
      return false;
  }
}

bool Glob::Matches(std::string_view name) const {
  // Only the last star needs to be tried again: what the ones before it took can stay as short as it was.
  constexpr size_t kNone = SIZE_MAX;
  size_t part = 0, at = 0, star = kNone, star_at = 0;
  while (at < name.size()) {
    if (part < parts_.size() && parts_[part].kind == Part::Kind::kStar) {
      star = part++;
      star_at = at;
    } else if (part < parts_.size() && MatchesOne(parts_[part], name[at])) {
      ++part;
      ++at;
    } else if (star != kNone) {
      part = star + 1;
      at = ++star_at;
    } else {
      return false;
    }
  }
  while (part < parts_.size() && parts_[part].kind == Part::Kind::kStar) ++part;
  return part == parts_.size();
}

}  // namespace devmem
