// SPDX-License-Identifier: Apache-2.0
#include "service/data_path.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace devmem {

namespace v1 = devmem_loader::v1;

v1::DataPath DataPathMessage(const PathInfo& path) {
  v1::DataPath message;
  message.set_name(path.name);
  message.set_reason(path.reason);
  if (path.nics.empty()) return message;
  for (const PathInfo::Nic& nic : path.nics) {
    v1::BoundNic* const bound = message.add_nics();
    bound->set_interface(nic.interface);
    bound->set_driver(nic.driver);
    bound->mutable_queues()->Add(nic.queues.begin(), nic.queues.end());
    bound->set_dmabuf_id(nic.dmabuf_id);
    bound->set_page_size(nic.page_size);
    bound->set_posted(nic.posted);
    bound->set_inflight(nic.inflight);
    bound->set_detached_pools(nic.detached_pools);
    bound->set_alloc_fail(nic.alloc_fail);
    bound->set_packets(nic.packets);
    bound->set_rules(nic.rules);
    bound->set_rule_capacity(nic.rule_capacity);
    bound->set_intact(nic.intact);
    bound->set_fault(nic.why);
  }
  message.set_landing_pool_bytes(path.landing_pool);
  const PathInfo::Counters& from = path.counters;
  v1::PathCounters* const to = message.mutable_counters();
  to->set_device_bytes(from.device_bytes);
  to->set_host_bytes(from.host_bytes);
  to->set_linear_bytes(from.linear_bytes);
  to->set_head_bytes(from.head_bytes);
  to->set_fragments(from.fragments);
  to->set_tokens_outstanding(from.tokens_outstanding);
  to->set_tokens_refused(from.tokens_refused);
  to->set_receive_calls(from.receive_calls);
  to->set_return_calls(from.return_calls);
  to->set_connections_steered(from.connections_steered);
  to->set_connections_fallen_back(from.connections_fallen_back);
  to->set_last_fall_back(from.last_fall_back);
  return message;
}

v1::DataPath DataPathOf(const PathInfo& path, std::string_view bucket) {
  if (path.nics.empty() || !absl::StartsWithIgnoreCase(absl::string_view(bucket.data(), bucket.size()), "file:")) {
    return DataPathMessage(path);
  }
  v1::DataPath message;
  message.set_name("copy");
  message.set_reason("files of this host are read by the CPU; this node's NICs serve http and s3 buckets");
  return message;
}

v1::DataPath DataPathTaken(const PathInfo& path, std::string_view bucket, const v1::StreamStatistics& statistics) {
  v1::DataPath message = DataPathOf(path, bucket);
  const uint64_t copied = statistics.bytes_copied(), received = statistics.bytes_received();
  if (message.nics().empty() || copied == 0) return message;
  message.set_name(copied < received ? "mixed" : "copy");
  const std::string& why = path.counters.last_fall_back;
  message.set_reason(absl::StrCat("the CPU copied ", copied, " of ", received, " bytes: ",
                                  why.empty() ? "the NIC delivered them to host memory" : why, "; ", message.reason()));
  return message;
}

}  // namespace devmem
