// SPDX-License-Identifier: Apache-2.0
// Ranges on the time line of NVIDIA's profilers (NVTX 3), in the domain "devmem-loader". Nothing is linked or loaded for it:
// without a profiler a range is a test of a pointer, and without the CUDA toolkit's headers, nothing.
//
//   const TraceRange range("gather");    // until the end of the block
//
// Thread-safe; a range ends on the thread that began it.
#pragma once

namespace devmem {

class TraceRange {
 public:
  explicit TraceRange(const char* name);
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
  ~TraceRange();
};

}  // namespace devmem
