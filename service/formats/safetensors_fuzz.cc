// SPDX-License-Identifier: Apache-2.0
// Input: the object's first bytes; once as if it were all of it, once as if it went on for long.
#include <cstdlib>

#include "service/formats/safetensors.h"

namespace {

void Parse(std::string_view bytes, uint64_t size) {
  const auto parsed = devmem::ParseSafetensorsHeader(bytes, size);
  if (!parsed.ok()) return;
  if (const auto* need = std::get_if<devmem::NeedBytes>(&*parsed)) {
    if (need->bytes <= bytes.size() || need->bytes > size) std::abort();
    return;
  }
  const auto& header = std::get<devmem::SafetensorsHeader>(*parsed);
  uint64_t at = header.data_offset;
  for (const devmem::SafetensorsTensor& tensor : header.tensors) {
    if (tensor.offset != at) std::abort();
    at += tensor.bytes;
    if (tensor.dtype.has_value() && devmem::ArrayBytes(*tensor.dtype, tensor.shape) != tensor.bytes) std::abort();
  }
  if (at != size) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Parse(bytes, size);
  Parse(bytes, size + 4096);
  Parse(bytes, uint64_t{1} << 62);
  return 0;
}
