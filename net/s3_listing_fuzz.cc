// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "net/s3_listing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto page = devmem::ParseS3Page(text, "s3://b/"); page.ok()) {
    for (const auto& object : page->objects) {
      if (object.key.empty() || object.size > (uint64_t{1} << 63) - 1) std::abort();
    }
  }
  if (devmem::S3Error(404, text, {.object = "s3://b/"}).ok()) std::abort();
  return 0;
}
