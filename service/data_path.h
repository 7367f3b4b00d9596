// SPDX-License-Identifier: Apache-2.0
// The path of a stream as trainers and operators see it.
#pragma once

#include <string_view>

#include "devmem_loader/v1/loader.pb.h"
#include "net/transport.h"

namespace devmem {

// The node's path.
[[nodiscard]] devmem_loader::v1::DataPath DataPathMessage(const PathInfo& path);

// That of a stream of `bucket`, which is not the node's where no NIC has a part in it: files of this host.
[[nodiscard]] devmem_loader::v1::DataPath DataPathOf(const PathInfo& path, std::string_view bucket);

// The same of a stream that received: "mixed" or "copy" where the CPU copied some or all of it although NICs are bound, and
// why.
[[nodiscard]] devmem_loader::v1::DataPath DataPathTaken(const PathInfo& path, std::string_view bucket,
                                                        const devmem_loader::v1::StreamStatistics& statistics);

}  // namespace devmem
