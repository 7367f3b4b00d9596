// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "net/redirect.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const devmem::HttpOrigin bucket = {.host = "store", .port = 80, .host_header = "store", .path = "/train/"};
  static const devmem::Redirects redirects(bucket, nullptr);
  const std::string location(reinterpret_cast<const char*>(data), size);
  const auto to = redirects.Follow(bucket, "/train/object", location);
  if (!to.ok()) return 0;
  // What is taken is sent in a request: it must neither end its line nor a word of it.
  for (const std::string& sent : {to->target, to->origin.host_header}) {
    for (const char c : sent) {
      if (static_cast<unsigned char>(c) <= ' ') std::abort();
    }
  }
  if (to->target.empty() || to->target.front() != '/' || to->origin.port == 0) std::abort();
  return 0;
}
