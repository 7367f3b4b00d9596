// SPDX-License-Identifier: Apache-2.0
// `devmem-loader streams` and `devmem-loader status`: what a daemon says of itself, as a table or as JSON.
#pragma once

#include <string>

#include "devmem_loader/v1/loader.pb.h"
#include "service/cli/options.h"

namespace devmem::cli {

[[nodiscard]] int ShowStreams(const StatusOptions& options);
[[nodiscard]] int ShowStatus(const StatusOptions& options);

// What they print.
[[nodiscard]] std::string StreamsText(const devmem_loader::v1::GetNodeStatusResponse& node);
[[nodiscard]] std::string StreamsJson(const devmem_loader::v1::GetNodeStatusResponse& node);
[[nodiscard]] std::string StatusText(const devmem_loader::v1::GetNodeStatusResponse& node);
[[nodiscard]] std::string StatusJson(const devmem_loader::v1::GetNodeStatusResponse& node);

}  // namespace devmem::cli
