// SPDX-License-Identifier: Apache-2.0
// Puts a NIC back to what its journal says it was: the second half of a binding's life, and all of a crashed one's.
// Threads: as RxKernel.
#pragma once

#include <memory>
#include <optional>

#include "base/clock.h"
#include "net/rx/nic_settings.h"

namespace devmem {

struct PutBackOptions {
  Time deadline;
  std::unique_ptr<RxKernel::Bound> bound;  // to be undone on the way; nullptr: its process died, and the kernel undoes it
  const RxFolder* held = nullptr;          // the journals' folder, if the caller has it
  bool await_pools = false;                // also wait until no page pool holds the dma-buf, not only the queues
};

struct PutBack {
  Restored restored;
  std::optional<RxFolder> folder;  // held since the queues were free: for what is done with the journal then
  std::string held;                // buffers that somebody still has, if the deadline came first
};

// Rules, binding, RSS, header split, features. Each is crossed out in the journal; the journal itself is the caller's.
[[nodiscard]] PutBack PutNicBack(const JournalledNic& nic, const Link& link, PutBackOptions options);

// Its first step alone.
void TakeRulesOut(const JournalledNic& nic, Restored& restored);

// The NIC of a journal, seen from network namespace `netns`: under its index, if that is this NIC, or else by what it keeps
// (NicIdentity), for it may have been moved here, or have been away. kNotFound if it is not here; that is no proof of its end.
[[nodiscard]] absl::StatusOr<Link> FindNic(RxKernel& kernel, const RxJournal& journal, uint64_t netns);
// How a person would know it: "dms0 (devmemsim at devmemsim.0, 02:64:6d:73:00:00)".
[[nodiscard]] std::string DescribeNic(const RxJournal& journal);

// Takes one rule out of `journal`, on disk too.
[[nodiscard]] absl::Status ForgetRule(RxJournal& journal, RxJournalFile& file, const FlowMatch& match, uint32_t queue);

}  // namespace devmem
