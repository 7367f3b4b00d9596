// SPDX-License-Identifier: Apache-2.0
// What this process has in use now, from /proc and the kernel's accounts. What cannot be read is 0. Thread-safe.
#pragma once

#include <cstdint>

namespace devmem {

struct ProcessState {
  double cpu_seconds = 0;  // user + system, all threads
  uint64_t resident_bytes = 0;
  uint64_t virtual_bytes = 0;
  uint64_t open_fds = 0;
  uint64_t max_fds = 0;
  double start_time = 0;  // seconds since the epoch
};

[[nodiscard]] ProcessState ReadProcessState();

}  // namespace devmem
