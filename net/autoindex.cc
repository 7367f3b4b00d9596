// SPDX-License-Identifier: Apache-2.0
#include "net/autoindex.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "net/http_fields.h"
#include "net/object_name.h"

namespace devmem {
namespace {

// JSON is UTF-8, and a parser refuses what is not. nginx writes names as their bytes, and these may be Latin-1 or anything. So
// a byte that is not part of UTF-8 goes into the parser as a character of Unicode's last private plane, and comes out of it as
// the byte it was. Real characters of that range go the same way, four bytes each: nothing is taken for what it is not.
constexpr uint32_t kByteAsCharacter = 0x10FF00;

class AsCharacters {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  explicit AsCharacters(std::string_view rest) : rest_(rest) { Load(); }
  char operator*() const { return shown_[at_]; }
  AsCharacters& operator++() {
    if (++at_ == length_) {
      rest_.remove_prefix(taken_);
      Load();
    }
    return *this;
  }
  bool operator==(const AsCharacters& other) const { return rest_.size() == other.rest_.size() && at_ == other.at_; }

 private:
  void Load() {
    at_ = 0;
    if (rest_.empty()) return;
    const Utf8Character next = DecodeUtf8(rest_);
    if (next.length > 0 && next.point < kByteAsCharacter) {
      taken_ = length_ = next.length;
      std::copy_n(rest_.begin(), length_, shown_.begin());
    } else {
      const auto byte = static_cast<unsigned char>(rest_[0]);
      taken_ = 1;
      length_ = 4;
      shown_ = {'\xF4', '\x8F', static_cast<char>(0xBC | byte >> 6), static_cast<char>(0x80 | (byte & 0x3F))};
    }
  }

  std::string_view rest_;
  std::array<char, 4> shown_{};  // the character at its head
  size_t length_ = 0;
  size_t taken_ = 0;  // bytes of rest_ that it stands for
  size_t at_ = 0;
};

std::string AsBytes(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const Utf8Character next = DecodeUtf8(text);
    if (next.point >= kByteAsCharacter) {
      bytes.push_back(static_cast<char>(next.point & 0xFF));
    } else {
      bytes.append(text.substr(0, next.length));
    }
    text.remove_prefix(next.length);  // the parser lets only UTF-8 through
  }
  return bytes;
}

// A name is no longer than 4 KiB, six times that with every byte escaped, and blanks are few.
constexpr size_t kLongestToken = size_t{64} << 10;

// Bytes between two quotation marks, or from the last one to the end, where they are most: no token has more.
size_t LongestToken(std::string_view json) {
  size_t longest = 0;
  size_t begin = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] == '\\') ++i;  // whatever it is, it does not end a string
    if (i >= json.size() || json[i] != '"') continue;
    longest = std::max(longest, i - begin);
    begin = i + 1;
  }
  return std::max(longest, json.size() - std::min(begin, json.size()));
}

// Reads an array of flat objects as it comes; a listing of a million files never becomes a tree.
class Reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Reader(std::string_view where, bool as_bytes, const TakeEntry& take) : where_(where), as_bytes_(as_bytes), take_(take) {}

  absl::Status status;

  bool start_array(std::size_t) override { return depth_++ == 0 ? true : Reject("an array within the listing"); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ != 1) return Reject(depth_ == 0 ? "an object, not an array" : "an object within an entry");
    ++depth_;
    name_.clear();
    type_.clear();
    mtime_.clear();
    size_ = 0;
    has_name_ = has_size_ = false;
    return true;
  }
  bool end_object() override {
    --depth_;
    return Add();
  }
  bool key(std::string& text) override {
    key_ = std::move(text);
    return true;
  }
  bool string(std::string& text) override {
    if (depth_ != 2) return Reject("a string in place of an entry");
    if (key_ == "name") {
      name_ = as_bytes_ ? AsBytes(text) : std::move(text);
      has_name_ = true;
    } else if (key_ == "type") {
      type_ = std::move(text);
    } else if (key_ == "mtime") {
      mtime_ = std::move(text);
    } else if (key_ == "size") {
      return Reject("a size that is not a number");
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 2) return Reject("a number in place of an entry");
    if (key_ != "size") return true;
    if (value > number_unsigned_t{std::numeric_limits<int64_t>::max()}) return Reject("a size beyond 2^63 - 1");
    size_ = value;
    has_size_ = true;
    return true;
  }
  bool number_integer(number_integer_t) override { return Other("a negative number"); }
  bool number_float(number_float_t, const std::string&) override { return Other("a number that is not whole"); }
  bool null() override { return Other("null"); }
  bool boolean(bool) override { return Other("a boolean"); }
  bool binary(binary_t&) override { return Reject("binary"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    // Its text quotes what it met, which may be any bytes.
    return Reject("what is not JSON at byte " + std::to_string(position));
  }

  bool Reject(const std::string& what) {
    status = MakeError(absl::StatusCode::kFailedPrecondition, "the answer is not a listing in nginx's JSON: it has " + what,
                       {.object = std::string(where_),
                        .cause = "not a listing",
                        .action = "enable autoindex_format json, or write an index with `devmem-loader index`"});
    return false;
  }

 private:
  bool Other(const char* what) {
    if (depth_ != 2 || key_ == "size" || key_ == "name" || key_ == "type") return Reject(what);
    return true;
  }
  bool Add() {
    if (!has_name_) return Reject("an entry without a name");
    const bool folder = type_ == "directory";
    if (!folder && type_ != "file") return true;
    if (name_ == "." || name_ == "..") return true;  // links of the folder's, to itself and to where we come from
    if (name_.find('/') != std::string::npos) {
      status = MakeError(absl::StatusCode::kInvalidArgument,
                         "object name \"" + Printable(name_) + "\" is refused: it contains a '/'",
                         {.object = std::string(where_),
                          .fault = Fault::kBadAnswer,
                          .cause = "hostile object name",
                          .action = "check the server"});
      return false;
    }
    // A folder is about to be walked; a file's name matters when the file is chosen.
    if (folder || name_.empty()) status = CheckObjectName(name_, where_);
    if (!status.ok()) return false;
    if (!folder && !has_size_) return Reject("a file without a size");
    status = take_({.name = std::move(name_),
                    .folder = folder,
                    .size = folder ? 0 : size_,
                    .validator = IsHttpDate(mtime_) && !folder ? std::move(mtime_) : ""});
    return status.ok();
  }

  std::string_view where_;
  const bool as_bytes_;  // the text comes by AsCharacters
  const TakeEntry& take_;
  int depth_ = 0;
  std::string key_, name_, type_, mtime_;
  uint64_t size_ = 0;
  bool has_name_ = false, has_size_ = false;
};

}  // namespace

absl::Status ParseAutoindex(std::string_view json, std::string_view where, const TakeEntry& take) {
  const bool as_bytes = !IsUtf8(json);
  Reader reader(where, as_bytes, take);
  // What is no array fails at its first token.
  if (const size_t first = json.find_first_not_of(" \t\r\n"); first == std::string_view::npos || json[first] != '[') {
    json = json.substr(0, kLongestToken);
  }
  if (const size_t longest = LongestToken(json); longest > kLongestToken) {  // the parser would hold it two or three times
    reader.Reject("a name or a value of " + std::to_string(longest) + " bytes");
    return reader.status;
  }
  if (as_bytes) {
    (void)nlohmann::json::sax_parse(AsCharacters(json), AsCharacters(json.substr(json.size())), &reader);
  } else {
    (void)nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  }
  return reader.status;
}

}  // namespace devmem
