// SPDX-License-Identifier: Apache-2.0
#include "service/formats/npy.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace devmem {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxDimensions = 64;  // numpy 2's own limit

absl::Status Broken(std::string_view what, std::string_view cause) {
  return MakeError(absl::StatusCode::kDataLoss, what,
                   {.fault = Fault::kObjectMalformed, .cause = cause, .action = "write the file again"});
}

absl::Status Unusable(std::string_view what, std::string_view cause, std::string_view action) {
  return MakeError(absl::StatusCode::kFailedPrecondition, what,
                   {.fault = Fault::kObjectMalformed, .cause = cause, .action = std::string(action)});
}

// What the dict literal says, before it is judged.
struct Literal {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<int64_t>> shape;
};

// Reads {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } and spellings of the same: any order of the keys,
// either quote, white space anywhere, Python 2's "3L". Nothing nested, nothing to evaluate.
class LiteralParser {
 public:
  explicit LiteralParser(std::string_view text) : text_(text) {}

  absl::StatusOr<Literal> Parse() {
    Literal literal;
    if (!Take('{')) return Expected("'{'");
    while (!Take('}')) {
      DEVMEM_ASSIGN_OR_RETURN(const std::string key, String("a key"));
      if (!Take(':')) return Expected("':'");
      DEVMEM_RETURN_IF_ERROR(Value(key, literal));
      if (!Take(',') && Peek() != '}') return Expected("',' or '}'");
    }
    if (Peek() != '\0' || at_ != text_.size()) return Expected("the end of the header");
    if (!literal.descr.has_value()) return Broken("header has no key 'descr'", "missing key");
    if (!literal.fortran_order.has_value()) return Broken("header has no key 'fortran_order'", "missing key");
    if (!literal.shape.has_value()) return Broken("header has no key 'shape'", "missing key");
    return literal;
  }

 private:
  absl::Status Value(const std::string& key, Literal& literal) {
    if (key == "descr") {
      if (literal.descr.has_value()) return Duplicate(key);
      if (Peek() == '[' || Peek() == '(') {
        return Unusable("its element type is a structure of fields", "structured dtype",
                        "write each field as an array of its own and name them as tensors");
      }
      DEVMEM_ASSIGN_OR_RETURN(literal.descr, String("a dtype"));
      return absl::OkStatus();
    }
    if (key == "fortran_order") {
      if (literal.fortran_order.has_value()) return Duplicate(key);
      if (TakeWord("True")) {
        literal.fortran_order = true;
      } else if (TakeWord("False")) {
        literal.fortran_order = false;
      } else {
        return Expected("True or False");
      }
      return absl::OkStatus();
    }
    if (key == "shape") {
      if (literal.shape.has_value()) return Duplicate(key);
      DEVMEM_ASSIGN_OR_RETURN(literal.shape, Shape());
      return absl::OkStatus();
    }
    return Broken("header has an unknown key " + Quoted(key), "unknown key");
  }

  absl::StatusOr<std::vector<int64_t>> Shape() {
    if (!Take('(')) return Expected("a shape in parentheses");
    std::vector<int64_t> shape;
    bool comma = true;
    while (!Take(')')) {
      if (!comma) return Expected("',' or ')'");
      DEVMEM_ASSIGN_OR_RETURN(const int64_t dimension, Integer());
      if (shape.size() == kMaxDimensions) return Broken("shape has more than 64 dimensions", "too many dimensions");
      shape.push_back(dimension);
      comma = Take(',');
    }
    // In Python "(3)" is a number, and "(,)" is nothing at all (Integer() refused it).
    if (shape.size() == 1 && !comma) return Broken("shape is a number, not a tuple", "shape is not a tuple");
    return shape;
  }

  absl::StatusOr<int64_t> Integer() {
    Peek();
    int64_t value = 0;
    const char* begin = text_.data() + at_;
    const char* end = text_.data() + text_.size();
    if (begin != end && *begin == '-') return Broken("a dimension of the shape is negative", "negative dimension");
    const auto [stop, error] = std::from_chars(begin, end, value);
    if (error == std::errc::result_out_of_range) {
      return Broken("a dimension of the shape is 2^63 or more", "dimension out of range");
    }
    if (error != std::errc()) return Expected("a dimension");
    at_ += static_cast<size_t>(stop - begin);
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;
    return value;
  }

  absl::StatusOr<std::string> String(std::string_view what) {
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return Expected(std::string(what) + " in quotes");
    const size_t begin = ++at_;
    while (at_ < text_.size() && text_[at_] != quote) {
      if (text_[at_] == '\\' || text_[at_] == '\n') return Expected("a plain string");
      ++at_;
    }
    if (at_ == text_.size()) return Expected("a closing quote");
    return std::string(text_.substr(begin, at_++ - begin));
  }

  // The next byte that is not white space; NUL at the end.
  char Peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool Take(char wanted) {
    if (Peek() != wanted || at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  bool TakeWord(std::string_view word) {
    Peek();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  absl::Status Expected(std::string_view what) const {
    std::string message = "header is not the dict numpy writes: expected ";
    message.append(what).append(" at byte " + std::to_string(at_) + ", found ");
    message += at_ < text_.size() ? Quoted(text_.substr(at_, 8)) : "its end";
    return Broken(message, "malformed header");
  }

  static absl::Status Duplicate(const std::string& key) {
    return Broken("header has the key '" + key + "' twice", "duplicate key");
  }

  std::string_view text_;
  size_t at_ = 0;
};

absl::Status BigEndian(const std::string& descr) {
  return Unusable("its elements are big-endian (" + Quoted(descr) + ")", "big-endian",
                  "convert it with numpy: a.astype(a.dtype.newbyteorder('<'))");
}

absl::StatusOr<DType> DTypeOf(const std::string& descr, const NpyOptions& options) {
  std::string_view text = descr;
  char order = '|';
  if (!text.empty() && std::string_view("<>|=").find(text[0]) != std::string_view::npos) {
    order = text[0];
    text.remove_prefix(1);
  }
  if (text == "V2" || descr == "bfloat16") {
    if (order == '>') return BigEndian(descr);
    if (options.bfloat16) return DType::kBF16;
    return Unusable("its element type " + Quoted(descr) + " is bfloat16, or some other 2-byte structure", "untyped elements",
                    "if it is bfloat16 say so: dtype bfloat16 in the tensor's specification");
  }
  struct Row {
    std::string_view text;
    DType dtype;
  };
  static constexpr Row kTypes[] = {{"b1", DType::kBool}, {"u1", DType::kU8},  {"u2", DType::kU16}, {"u4", DType::kU32},
                                   {"u8", DType::kU64},  {"i1", DType::kI8},  {"i2", DType::kI16}, {"i4", DType::kI32},
                                   {"i8", DType::kI64},  {"f2", DType::kF16}, {"f4", DType::kF32}, {"f8", DType::kF64}};
  for (const Row& row : kTypes) {
    if (row.text != text) continue;
    if (order == '>' && ItemSize(row.dtype) > 1) return BigEndian(descr);
    return row.dtype;
  }
  if (!text.empty() && text[0] == 'O') {
    return Unusable("its elements are pickled Python objects", "object dtype", "write them as an array of numbers");
  }
  if (!text.empty() && text[0] == 'V') {
    return Unusable("its elements are structures (" + Quoted(descr) + ")", "structured dtype", "write each field as an array");
  }
  return Unusable("its element type " + Quoted(descr) + " is not one that is streamed", "unsupported dtype",
                  "convert it to bool, an integer or a float of at most 64 bits");
}

}  // namespace

absl::StatusOr<std::variant<NeedBytes, NpyHeader>> ParseNpyHeader(std::string_view first_bytes, uint64_t object_size,
                                                                  const NpyOptions& options) {
  if (first_bytes.size() > object_size) first_bytes = first_bytes.substr(0, object_size);
  // magic, major, minor, then the length in 2 bytes (version 1) or 4.
  constexpr uint64_t kShortPrelude = 10;
  constexpr uint64_t kLongPrelude = 12;
  if (object_size < kShortPrelude) {
    return Broken("object of " + std::to_string(object_size) + " bytes is too short for an npy file", "truncated header");
  }
  if (first_bytes.size() < kShortPrelude) return NeedBytes{std::min(object_size, kNpyFirstRead)};
  if (first_bytes.substr(0, kMagic.size()) != kMagic) {
    return Broken("not an npy file: it begins with " + Quoted(first_bytes.substr(0, kMagic.size())), "wrong magic");
  }
  const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(first_bytes[i])); };
  const uint64_t major = byte(6);
  if (major < 1 || major > 3 || byte(7) != 0) {
    return Unusable("npy version " + std::to_string(major) + "." + std::to_string(byte(7)) + " is not known",
                    "unknown npy version", "versions 1.0, 2.0 and 3.0 are");
  }
  const uint64_t prelude = major == 1 ? kShortPrelude : kLongPrelude;
  if (object_size < prelude) return Broken("object ends in mid-header", "truncated header");
  if (first_bytes.size() < prelude) return NeedBytes{std::min(object_size, kNpyFirstRead)};
  uint64_t length = byte(8) | byte(9) << 8;
  if (major > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kNpyMaxHeader) {
    return Broken("header claims " + std::to_string(length) + " bytes; at most 65536 are believed", "absurd header length");
  }
  const uint64_t data_offset = prelude + length;
  if (data_offset > object_size) {
    return Broken("header claims " + std::to_string(length) + " bytes, the object has " + std::to_string(object_size),
                  "truncated header");
  }
  if (first_bytes.size() < data_offset) return NeedBytes{data_offset};

  const std::string_view text = first_bytes.substr(prelude, length);
  if (major == 3 && !IsUtf8(text)) return Broken("header is not UTF-8, which version 3 promises", "bad UTF-8");
  DEVMEM_ASSIGN_OR_RETURN(Literal literal, LiteralParser(text).Parse());
  NpyHeader header{.dtype = DType::kU8, .shape = std::move(*literal.shape), .data_offset = data_offset};
  DEVMEM_ASSIGN_OR_RETURN(header.dtype, DTypeOf(*literal.descr, options));
  if (header.shape.empty()) {
    return Unusable("it holds a single number (a 0-d array)", "0-d array", "a shard's first dimension counts its samples");
  }
  if (*literal.fortran_order) {
    return Unusable("the array is in Fortran order, so a sample's bytes do not lie together", "Fortran order",
                    "write it with numpy.ascontiguousarray");
  }
  const std::optional<uint64_t> bytes = ArrayBytes(header.dtype, header.shape);
  const std::optional<uint64_t> row_bytes = ArrayBytes(header.dtype, std::span(header.shape).subspan(1));
  if (!bytes.has_value() || !row_bytes.has_value()) {
    return Broken("shape " + ShapeText(header.shape) + " is more than 2^63 bytes", "shape overflow");
  }
  if (*row_bytes == 0) {
    return Unusable("shape " + ShapeText(header.shape) + " has samples of no bytes", "empty samples", "leave the tensor out");
  }
  const uint64_t present = object_size - data_offset;
  if (*bytes != present) {
    return Broken("shape " + ShapeText(header.shape) + " of " + std::string(Name(header.dtype)) + " is " +
                      std::to_string(*bytes) + " bytes, the object has " + std::to_string(present) + " after its header",
                  *bytes > present ? "truncated object" : "object too long");
  }
  return header;
}

}  // namespace devmem
