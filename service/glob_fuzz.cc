// SPDX-License-Identifier: Apache-2.0
// Input: a glob, a line feed, a name. fnmatch(3) says what is right, of globs that it can finish.
#include <fnmatch.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "service/glob.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::string glob = text.substr(0, text.find('\n'));
  const std::string name = glob.size() < text.size() ? text.substr(glob.size() + 1) : "";
  const auto compiled = devmem::Glob::Compile(glob);
  if (!compiled.ok()) return 0;
  const bool matches = compiled->Matches(name);
  if (text.find('\0') != std::string::npos || std::count(glob.begin(), glob.end(), '*') > 3) return 0;
  if (matches != (::fnmatch(glob.c_str(), name.c_str(), 0) == 0)) std::abort();
  return 0;
}
