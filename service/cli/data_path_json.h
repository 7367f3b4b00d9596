// SPDX-License-Identifier: Apache-2.0
// What a data path that is not `copy` is made of, for the CLI's JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "devmem_loader/v1/loader.pb.h"

namespace devmem::cli {

// {"nics": [{interface, driver, queues, dmabuf_id, ...}], "landing_pool_bytes", "counters": {...}}; null without NICs.
[[nodiscard]] nlohmann::ordered_json DataPathJson(const devmem_loader::v1::DataPath& path);

}  // namespace devmem::cli
