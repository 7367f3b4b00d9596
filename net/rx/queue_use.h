// SPDX-License-Identifier: Apache-2.0
// Which Rx queues of a NIC somebody uses already: a dma-buf, io_uring, AF_XDP, an additional RSS context, an ntuple rule.
// The main RSS table does not count: it is moved off the queues that are bound.
// Threads: as RxKernel.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "net/rx/rx_kernel.h"

namespace devmem {

struct QueueUse {
  uint32_t queues = 0;                    // how many there are
  std::map<uint32_t, std::string> taken;  // queue -> by what, in words that name it
};

[[nodiscard]] absl::StatusOr<QueueUse> FindQueueUse(RxKernel& kernel, const Link& link);

// Whether `rule` leads straight to `queue`.
[[nodiscard]] bool LeadsTo(const FlowRule& rule, uint32_t queue);

}  // namespace devmem
