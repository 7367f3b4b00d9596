// SPDX-License-Identifier: Apache-2.0
#include "net/rx/queue_use.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

// ethtool_get_flow_spec_ring() of linux/ethtool.h: the queue in the low 32 bits, a virtual function in the next 8.
uint32_t QueueOf(const FlowRule& rule) { return static_cast<uint32_t>(rule.ring_cookie); }
bool ToVirtualFunction(const FlowRule& rule) { return (rule.ring_cookie >> 32) != 0; }

// A driver or kernel without the thing has none of it.
template <typename T>
absl::StatusOr<T> OrNone(absl::StatusOr<T> got) {
  if (got.status().code() == absl::StatusCode::kUnimplemented) return T{};
  return got;
}

}  // namespace

bool LeadsTo(const FlowRule& rule, uint32_t queue) {
  return !rule.discards && !rule.has_context && !ToVirtualFunction(rule) && QueueOf(rule) == queue;
}

absl::StatusOr<QueueUse> FindQueueUse(RxKernel& kernel, const Link& link) {
  QueueUse use;
  DEVMEM_ASSIGN_OR_RETURN(const std::vector<RxQueueState> states, kernel.netdev().RxQueues(link.ifindex));
  for (const RxQueueState& state : states) {
    use.queues = std::max(use.queues, state.queue + 1);
    if (state.io_uring) {
      use.taken.emplace(state.queue, "io_uring zero-copy receive owns its memory");
    } else if (state.dmabuf != 0) {
      use.taken.emplace(state.queue, absl::StrCat("dma-buf ", state.dmabuf, " is bound to it by someone else"));
    } else if (state.xsk) {
      use.taken.emplace(state.queue, "an AF_XDP socket owns it");
    }
  }
  std::map<uint32_t, RssTable> tables;
  DEVMEM_ASSIGN_OR_RETURN(const std::vector<uint32_t> contexts, OrNone(kernel.ethtool().RssContexts(link.interface)));
  for (const uint32_t context : contexts) {
    DEVMEM_ASSIGN_OR_RETURN(RssTable table, kernel.ethtool().GetRss(link.interface, context));
    for (const uint32_t queue : table.queues) use.taken.emplace(queue, absl::StrCat("RSS context ", context, " leads to it"));
    tables.emplace(context, std::move(table));
  }
  DEVMEM_ASSIGN_OR_RETURN(const std::vector<FlowRule> rules, OrNone(kernel.rules().List(link.interface)));
  for (const FlowRule& rule : rules) {
    if (rule.discards || ToVirtualFunction(rule)) continue;
    const std::string rule_name = absl::StrCat("the ntuple rule at location ", rule.location);
    if (!rule.has_context) {
      use.taken.emplace(QueueOf(rule), absl::StrCat(rule_name, " leads to it"));
      continue;
    }
    // The rule's queue is added to what the context's table says.
    for (const uint32_t entry : tables[rule.context].queues) {
      use.taken.emplace(QueueOf(rule) + entry, absl::StrCat(rule_name, " leads to it by RSS context ", rule.context));
    }
  }
  return use;
}

}  // namespace devmem
