// SPDX-License-Identifier: Apache-2.0
#include "service/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

#include "base/error.h"

namespace devmem {
namespace {

constexpr size_t kMaxDimensions = 64;

absl::Status Broken(std::string_view what, std::string_view cause) {
  return MakeError(absl::StatusCode::kDataLoss, what,
                   {.fault = Fault::kObjectMalformed, .cause = cause, .action = "write the file again"});
}

std::optional<DType> DTypeOf(std::string_view name) {
  struct Row {
    std::string_view name;
    DType dtype;
  };
  static constexpr Row kTypes[] = {{"BOOL", DType::kBool}, {"U8", DType::kU8},   {"I8", DType::kI8},     {"U16", DType::kU16},
                                   {"I16", DType::kI16},   {"U32", DType::kU32}, {"I32", DType::kI32},   {"U64", DType::kU64},
                                   {"I64", DType::kI64},   {"F16", DType::kF16}, {"BF16", DType::kBF16}, {"F32", DType::kF32},
                                   {"F64", DType::kF64}};
  for (const Row& row : kTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

// Follows the one shape the header may have and stops at the first token out of place, so that hostile JSON never
// becomes a tree: {name: {"dtype": string, "shape": [n…], "data_offsets": [begin, end]}, "__metadata__": {key: string}}.
class Handler : public nlohmann::json_sax<nlohmann::json> {
 public:
  absl::Status status;
  std::vector<SafetensorsTensor> tensors;  // offset still within the buffer

  bool null() override { return Misplaced("null"); }
  bool boolean(bool) override { return Misplaced("a boolean"); }
  bool number_integer(number_integer_t) override { return NotAnOffset("a negative number"); }
  bool number_float(number_float_t, const string_t& text) override { return NotAnOffset("the number " + Quoted(text)); }
  bool binary(binary_t&) override { return Misplaced("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Misplaced("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return NotAnOffset("2^63 or more");
    if (place_ == Place::kShape) {
      if (tensors.back().shape.size() == kMaxDimensions) return Fail("has more than 64 dimensions", "too many dimensions");
      tensors.back().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (offsets_seen_ == 2) return Fail("has more than two data_offsets", "malformed header");
    offsets_[offsets_seen_++] = value;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || key_ != Key::kDType) return Misplaced("a string");
    tensors.back().dtype_name = value;
    tensors.back().dtype = DTypeOf(value);
    return true;
  }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kOutside:
        place_ = Place::kTop;
        return true;
      case Place::kTop:
        place_ = metadata_ ? Place::kMetadata : Place::kTensor;
        return true;
      default:
        return Misplaced("an object");
    }
  }

  bool key(string_t& value) override {
    if (place_ == Place::kTop) {
      if (!names_.insert(value).second) {
        return FailTop("header names " + Quoted(value) + " twice", "duplicate key");
      }
      if (value.size() > kSafetensorsLongestName) {
        return FailTop("header names a tensor by " + std::to_string(value.size()) + " bytes; at most 1024 are allowed",
                       "name too long");
      }
      metadata_ = value == "__metadata__";
      if (!metadata_) {
        tensors.push_back({.name = value});
        seen_[0] = seen_[1] = seen_[2] = false;
        offsets_seen_ = 0;
      }
      return true;
    }
    if (place_ == Place::kMetadata) return true;
    static constexpr std::string_view kKeys[] = {"dtype", "shape", "data_offsets"};
    const size_t which = static_cast<size_t>(std::find(std::begin(kKeys), std::end(kKeys), value) - std::begin(kKeys));
    if (which == std::size(kKeys)) return Fail("has an unknown key " + Quoted(value), "unknown key");
    if (seen_[which]) return Fail("has the key " + Quoted(value) + " twice", "duplicate key");
    seen_[which] = true;
    key_ = static_cast<Key>(which);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (!seen_[0] || !seen_[1] || !seen_[2]) return Fail("lacks dtype, shape or data_offsets", "missing key");
      if (offsets_seen_ != 2) return Fail("needs two data_offsets", "malformed header");
      if (offsets_[0] > offsets_[1]) return Fail("ends before it begins", "offsets out of order");
      tensors.back().offset = offsets_[0];
      tensors.back().bytes = offsets_[1] - offsets_[0];
    }
    place_ = place_ == Place::kTop ? Place::kOutside : Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || key_ == Key::kDType) return Misplaced("an array");
    place_ = key_ == Key::kShape ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) override {
    const bool utf8 = std::strstr(error.what(), "UTF-8") != nullptr;
    return FailTop("header is not JSON at its byte " + std::to_string(position), utf8 ? "bad UTF-8" : "malformed JSON");
  }

 private:
  enum class Place : uint8_t { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };
  enum class Key : uint8_t { kDType, kShape, kOffsets };

  bool FailTop(const std::string& what, std::string_view cause) {
    status = Broken(what, cause);
    return false;
  }
  bool Fail(const std::string& what, std::string_view cause) {
    return FailTop("tensor " + Quoted(tensors.back().name) + " " + what, cause);
  }
  bool Misplaced(const std::string& what) {
    if (place_ == Place::kOutside) return FailTop("header is not a JSON object", "malformed header");
    if (place_ == Place::kMetadata || (place_ == Place::kTop && metadata_)) {
      return FailTop("__metadata__ must be strings by name, and has " + what, "malformed header");
    }
    return Fail("has " + what + " where none may be", "malformed header");
  }
  bool NotAnOffset(const std::string& what) {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Misplaced(what);
    return Fail(std::string("has ") + what + " among its " + (place_ == Place::kShape ? "shape" : "data_offsets"),
                "number out of range");
  }

  Place place_ = Place::kOutside;
  Key key_ = Key::kDType;
  bool metadata_ = false;
  bool seen_[3] = {};
  uint64_t offsets_[2] = {};
  int offsets_seen_ = 0;
  std::unordered_set<std::string> names_;
};

// Every byte of the buffer belongs to exactly one tensor, as the format demands; and each is as long as its shape says.
absl::Status CheckLayout(const std::vector<SafetensorsTensor>& tensors, uint64_t buffer_bytes) {
  uint64_t end = 0;
  const SafetensorsTensor* before = nullptr;
  for (const SafetensorsTensor& tensor : tensors) {
    const std::string who = "tensor " + Quoted(tensor.name);
    if (tensor.offset + tensor.bytes > buffer_bytes) {  // both below 2^63
      return Broken(
          who + " ends at " + std::to_string(tensor.offset + tensor.bytes) + " of " + std::to_string(buffer_bytes) + " bytes",
          "truncated object");
    }
    if (tensor.offset < end) return Broken(who + " overlaps " + Quoted(before->name), "overlapping tensors");
    if (tensor.offset > end) {
      return Broken(std::to_string(tensor.offset - end) + " bytes before " + who + " belong to no tensor",
                    "hole between tensors");
    }
    end = tensor.offset + tensor.bytes;
    before = &tensor;
    if (!tensor.dtype.has_value()) continue;
    const std::optional<uint64_t> bytes = ArrayBytes(*tensor.dtype, tensor.shape);
    if (!bytes.has_value()) {
      return Broken(who + " has shape " + ShapeText(tensor.shape) + ", more than 2^63 bytes", "shape overflow");
    }
    if (*bytes != tensor.bytes) {
      return Broken(who + " has " + std::to_string(tensor.bytes) + " bytes, its shape " + ShapeText(tensor.shape) + " of " +
                        tensor.dtype_name + " takes " + std::to_string(*bytes),
                    "shape and offsets disagree");
    }
  }
  if (end != buffer_bytes) {
    return Broken("object has " + std::to_string(buffer_bytes - end) + " bytes after its last tensor", "object too long");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::variant<NeedBytes, SafetensorsHeader>> ParseSafetensorsHeader(std::string_view first_bytes,
                                                                                  uint64_t object_size) {
  constexpr uint64_t kPrelude = 8;
  if (first_bytes.size() > object_size) first_bytes = first_bytes.substr(0, object_size);
  if (object_size < kPrelude + 2) {
    return Broken("object of " + std::to_string(object_size) + " bytes is too short for a safetensors file",
                  "truncated header");
  }
  if (first_bytes.size() < kPrelude) return NeedBytes{std::min(object_size, kSafetensorsFirstRead)};
  uint64_t length = 0;
  for (size_t i = kPrelude; i-- > 0;) length = length << 8 | static_cast<unsigned char>(first_bytes[i]);
  if (length > kSafetensorsMaxHeader) {
    return Broken("header claims " + std::to_string(length) + " bytes; the format allows 100000000", "absurd header length");
  }
  const uint64_t data_offset = kPrelude + length;
  if (data_offset > object_size) {
    return Broken("header claims " + std::to_string(length) + " bytes, the object has " + std::to_string(object_size),
                  "truncated header");
  }
  if (first_bytes.size() < data_offset) return NeedBytes{data_offset};

  const std::string_view text = first_bytes.substr(kPrelude, length);
  if (text.empty() || text[0] != '{')
    return Broken("not a safetensors file: its header does not begin with '{'", "malformed header");
  // nlohmann takes a NUL for the end of its input, and would not see what follows.
  if (text.find('\0') != std::string_view::npos) return Broken("header is not JSON: it holds a NUL", "malformed JSON");
  Handler handler;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) return handler.status;
  SafetensorsHeader header{.data_offset = data_offset, .tensors = std::move(handler.tensors)};
  std::sort(header.tensors.begin(), header.tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  DEVMEM_RETURN_IF_ERROR(CheckLayout(header.tensors, object_size - data_offset));
  for (SafetensorsTensor& tensor : header.tensors) tensor.offset += data_offset;
  return header;
}

}  // namespace devmem
