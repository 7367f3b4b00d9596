// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "net/http_fields.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto range = devmem::ParseContentRange(text); range.has_value() && range->satisfied) {
    if (range->first > range->last || range->last >= range->total) std::abort();
  }
  // Whatever is taken is sent back in a request: it must not end a header line.
  const std::string_view validator = devmem::ChooseValidator(text, text);
  if (validator.find_first_of("\r\n") != std::string_view::npos || validator.find('\0') != std::string_view::npos) std::abort();
  return 0;
}
