// SPDX-License-Identifier: Apache-2.0
// Puts a NIC back to what its journal says it was: the second half of a binding's life, and all of a crashed one's.
// Threads: as RxKernel.
#pragma once

#include <memory>

#include "base/clock.h"
#include "net/rx/nic_settings.h"

namespace devmem {

struct PutBackOptions {
  Time deadline;
  std::unique_ptr<RxKernel::Bound> bound;  // to be undone on the way; nullptr: its process died, and the kernel undoes it
  bool await_pools = false;                // also wait until no page pool holds the dma-buf, not only the queues
};

struct PutBack {
  Restored restored;
  std::string held;  // buffers that somebody still has, if the deadline came first
};

// Rules, binding, RSS, header split, features. Each is crossed out in the journal; the journal itself is the caller's.
[[nodiscard]] PutBack PutNicBack(const JournalledNic& nic, const Link& link, PutBackOptions options);

// Takes one rule out of `journal`, on disk too.
[[nodiscard]] absl::Status ForgetRule(RxJournal& journal, RxJournalFile& file, const FlowMatch& match, uint32_t queue);

}  // namespace devmem
