// SPDX-License-Identifier: Apache-2.0
#include "service/formats/format.h"

#include "absl/strings/escaping.h"

namespace devmem {

std::string_view Name(DatasetFormat format) {
  switch (format) {
    case DatasetFormat::kAuto:
      return "auto";
    case DatasetFormat::kRaw:
      return "raw";
    case DatasetFormat::kNpy:
      return "npy";
    case DatasetFormat::kSafetensors:
      return "safetensors";
  }
  return "unknown";
}

std::optional<uint64_t> ArrayBytes(DType dtype, std::span<const int64_t> shape) {
  int64_t bytes = static_cast<int64_t>(ItemSize(dtype));
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return static_cast<uint64_t>(bytes);
}

std::string Quoted(std::string_view untrusted) {
  constexpr size_t kLongest = 64;
  const bool cut = untrusted.size() > kLongest;
  if (cut) untrusted = untrusted.substr(0, kLongest);
  std::string text = "\"";
  text += absl::CHexEscape(absl::string_view(untrusted.data(), untrusted.size()));
  text += cut ? "…\"" : "\"";
  return text;
}

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  text += shape.size() == 1 ? ",)" : ")";
  return text;
}

}  // namespace devmem
