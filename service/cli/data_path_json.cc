// SPDX-License-Identifier: Apache-2.0
#include "service/cli/data_path_json.h"

namespace devmem::cli {

nlohmann::ordered_json DataPathJson(const devmem_loader::v1::DataPath& path) {
  using Json = nlohmann::ordered_json;
  if (path.nics_size() == 0) return nullptr;
  Json nics = Json::array();
  for (const auto& nic : path.nics()) {
    Json entry = {{"interface", nic.interface()},
                  {"driver", nic.driver()},
                  {"queues", std::vector<uint32_t>(nic.queues().begin(), nic.queues().end())},
                  {"dmabuf_id", nic.dmabuf_id()},
                  {"page_size", nic.page_size()},
                  {"posted", nic.posted()},
                  {"inflight", nic.inflight()},
                  {"detached_pools", nic.detached_pools()},
                  {"alloc_fail", nic.alloc_fail()},
                  {"packets", nic.packets()},
                  {"rules", nic.rules()},
                  {"rule_capacity", nic.rule_capacity()},
                  {"intact", nic.intact()}};
    if (!nic.fault().empty()) entry["fault"] = nic.fault();
    nics.push_back(std::move(entry));
  }
  const auto& counters = path.counters();
  return {{"nics", std::move(nics)},
          {"landing_pool_bytes", path.landing_pool_bytes()},
          {"counters",
           {{"device_bytes", counters.device_bytes()},
            {"host_bytes", counters.host_bytes()},
            {"linear_bytes", counters.linear_bytes()},
            {"head_bytes", counters.head_bytes()},
            {"fragments", counters.fragments()},
            {"tokens_outstanding", counters.tokens_outstanding()},
            {"tokens_refused", counters.tokens_refused()},
            {"receive_calls", counters.receive_calls()},
            {"return_calls", counters.return_calls()},
            {"connections_steered", counters.connections_steered()},
            {"connections_fallen_back", counters.connections_fallen_back()},
            {"last_fall_back", counters.last_fall_back()}}}};
}

}  // namespace devmem::cli
