// SPDX-License-Identifier: Apache-2.0
// `devmem-loader --bucket URI`: starts or finds a daemon, reads the stream, prints the summary.
#pragma once

#include "service/cli/options.h"

namespace devmem::cli {

// Returns the exit code. Must be called before the process has other threads.
[[nodiscard]] int Load(const LoaderOptions& options, const devmem_loader::v1::StreamSpec& spec);

}  // namespace devmem::cli
