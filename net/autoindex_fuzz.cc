// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "net/autoindex.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::Status status = devmem::ParseAutoindex(
      std::string_view(reinterpret_cast<const char*>(data), size), "http://h/", [](const devmem::AutoindexEntry& entry) {
        if (entry.name.empty() || entry.name == "." || entry.name == ".." || entry.name.find('/') != std::string::npos)
          std::abort();
        return absl::OkStatus();
      });
  if (!status.ok() && status.message().empty()) std::abort();
  return 0;
}
