// SPDX-License-Identifier: Apache-2.0
// What the daemon takes for --memory-limit where nobody says: half of what it can have at all, which is the machine's memory or
// what its control group may use, whichever is less. Reads small files; any thread.
//
//   const MemoryLimit limit = DefaultMemoryLimit({});   // {.bytes = 1 << 30, .source = "half of memory.max of /pods/a"}
#pragma once

#include <cstdint>
#include <string>

namespace devmem {

struct MemoryFiles {     // where a test has files of its own
  std::string root;      // before /proc and /sys
  uint64_t machine = 0;  // bytes; 0: ask the kernel
};

struct MemoryLimit {
  uint64_t bytes = 0;
  std::string source;
};

// The tightest of memory.max, memory.high (version 2) and memory.limit_in_bytes (version 1) of the group this process is in and
// of those above it, as far as they can be seen from here.
[[nodiscard]] MemoryLimit DefaultMemoryLimit(const MemoryFiles& files);

}  // namespace devmem
