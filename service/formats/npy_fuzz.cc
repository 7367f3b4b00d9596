// SPDX-License-Identifier: Apache-2.0
// Input: the object's first bytes; once as if it were all of it, once as if it went on for long.
#include <cstdlib>

#include "service/formats/npy.h"

namespace {

void Parse(std::string_view bytes, uint64_t size, bool bfloat16) {
  const auto parsed = devmem::ParseNpyHeader(bytes, size, {.bfloat16 = bfloat16});
  if (!parsed.ok()) return;
  if (const auto* need = std::get_if<devmem::NeedBytes>(&*parsed)) {
    if (need->bytes <= bytes.size() || need->bytes > size) std::abort();
    return;
  }
  const auto& header = std::get<devmem::NpyHeader>(*parsed);
  if (header.shape.empty() || header.data_offset + *devmem::ArrayBytes(header.dtype, header.shape) != size) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Parse(bytes, size, false);
  Parse(bytes, size + 4096, true);
  Parse(bytes, uint64_t{1} << 63, false);
  return 0;
}
