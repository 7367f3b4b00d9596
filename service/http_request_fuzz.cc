// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdlib>

#include "service/http_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto head = devmem::ParseRequestHead(bytes);
  if (head.ok() && head->has_value() && (*head)->path.size() > size) std::abort();
  // What is complete stays so, and stays the same, whatever follows.
  if (head.ok() && head->has_value()) {
    const auto longer = devmem::ParseRequestHead(std::string(bytes) + "GET / HTTP/1.1\r\n\r\n");
    if (!longer.ok() || !longer->has_value() || (*longer)->path != (*head)->path) std::abort();
  }
  return 0;
}
