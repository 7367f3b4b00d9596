// SPDX-License-Identifier: Apache-2.0
// `devmem-loader index URI`: lists a bucket, reads every header, writes the index that stands for both.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "service/cli/options.h"

namespace devmem::cli {

// Returns the exit code. Must be called before the process has other threads.
[[nodiscard]] int WriteIndexOf(const IndexOptions& options);

// Puts `bytes` at `path` whole or not at all: a temporary file beside it, synced and renamed. Mode 0644. What is there and
// is no regular file (a device, a pipe, a link) is written to instead, never replaced.
[[nodiscard]] absl::Status ReplaceFile(const std::string& path, std::string_view bytes);

}  // namespace devmem::cli
