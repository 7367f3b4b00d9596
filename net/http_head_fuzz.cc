// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdlib>

#include "net/http_head.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto head = devmem::ParseResponseHead(bytes);
  if (head.ok() && head->has_value() && (*head)->bytes > size) std::abort();
  // A complete head is complete without what follows it.
  if (head.ok() && head->has_value() && !devmem::ParseResponseHead(bytes.substr(0, (*head)->bytes)).ok()) std::abort();
  return 0;
}
