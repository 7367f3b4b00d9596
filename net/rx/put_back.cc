// SPDX-License-Identifier: Apache-2.0
// The order, and why:
//
//   1. rules out, so that no payload comes to the queues any more (by what the journal says matches a flow and leads to a queue
//      exactly: locations are not ours to trust after a crash). Those of a handle (devmem_binding) are not in the journal:
//      they go with 2
//   2. unbind while the link is up: some drivers cannot restart a queue while it is down, and the kernel can only warn
//   3. wait until the queues have host memory, and, where the memory is about to be freed, until no pool holds it
//   4. the journals' folder is held, that no other process of ours sets this NIC up, or puts it back, at the same time
//   5. RSS, only now that hashed traffic finds host memory there
//   6. header split, which a bound queue needs; then features, which header split and rules need
//
// A queue that still is, or by now is someone else's, bound to a dma-buf ends it at 3: what follows would hurt its owner.
#include "net/rx/put_back.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/rx/queue_use.h"

namespace devmem {
namespace {

using std::chrono::milliseconds;

// What another process takes to set up a NIC, or to put one back, once its queues are free.
constexpr Duration kTurn = std::chrono::seconds(2);

// Nothing that reaches every kernel announces what is awaited here, so it is looked at: soon first, then not too often.
class Looks {
 public:
  Looks(RxKernel& kernel, Time deadline) : kernel_(kernel), deadline_(deadline) {}
  // False when the time is up.
  bool Again() {
    if (Clock::now() >= deadline_) return false;
    kernel_.Pause(std::min<Duration>(pause_, deadline_ - Clock::now()));
    pause_ = std::min<Duration>(2 * pause_, milliseconds(50));
    return true;
  }

 private:
  RxKernel& kernel_;
  const Time deadline_;
  Duration pause_ = milliseconds(1);
};

void AwaitLink(const JournalledNic& nic, const Link& link, Time deadline) {
  Looks looks(nic.kernel, Clock::now() + (deadline - Clock::now()) / 2);  // the other half is for what follows
  while (true) {
    const absl::StatusOr<Link> now = nic.kernel.FindLink(link.ifindex);
    if (!now.ok() || now->up || !looks.Again()) return;
  }
}

enum class Queues : uint8_t { kFree, kOurs, kForeign, kUnknown };

Queues LookAtQueues(const JournalledNic& nic, const Link& link, std::string& what) {
  const absl::StatusOr<std::vector<RxQueueState>> states = nic.kernel.netdev().RxQueues(link.ifindex);
  if (!states.ok()) {
    what = Text(states.status());
    return Queues::kUnknown;
  }
  Queues found = Queues::kFree;
  for (const RxQueueState& state : *states) {
    if (std::find(nic.journal.queues.begin(), nic.journal.queues.end(), state.queue) == nic.journal.queues.end()) continue;
    if (state.dmabuf != 0) {
      // A crash right after the bind leaves no id in the journal.
      const bool ours = nic.journal.dmabuf == 0 || nic.journal.dmabuf == state.dmabuf;
      what = absl::StrCat("dma-buf ", state.dmabuf, " is bound to queue ", state.queue);
      found = ours ? Queues::kOurs : Queues::kForeign;
    } else if (state.io_uring || state.xsk) {
      what = absl::StrCat(state.io_uring ? "io_uring" : "AF_XDP", " has queue ", state.queue);
      found = Queues::kForeign;
    }
    if (found == Queues::kForeign) return found;
  }
  return found;
}

// What of `dmabuf` is still held; empty: nothing.
std::string HeldPools(const JournalledNic& nic, const Link& link, uint32_t dmabuf) {
  const absl::StatusOr<std::vector<PagePoolState>> pools = nic.kernel.netdev().PagePools(link.ifindex);
  if (!pools.ok()) return "";  // this kernel tells of no pools; the queues were free
  std::string held;
  for (const PagePoolState& pool : *pools) {
    if (pool.dmabuf != dmabuf) continue;
    absl::StrAppend(&held, held.empty() ? "" : ", ", "page pool ", pool.id, " with ", pool.inflight, " buffers out");
  }
  return held;
}

// Whether the queues are free; then also waits for the pools, if so wanted.
bool AwaitHostMemory(const JournalledNic& nic, const Link& link, const PutBackOptions& options, PutBack& result) {
  std::string what;
  Looks looks(nic.kernel, options.deadline);
  Queues queues = LookAtQueues(nic, link, what);
  while (queues == Queues::kOurs && looks.Again()) queues = LookAtQueues(nic, link, what);
  if (queues != Queues::kFree) {
    const char* then = queues == Queues::kForeign ? "another's by now" : "its socket is held by someone, or the kernel is late";
    result.restored.failed.push_back(absl::StrCat(nic.interface, ": ", what, " (",
                                                  queues == Queues::kUnknown ? "the queues cannot be read" : then,
                                                  "): RSS, header split and features are left as they are"));
    return false;
  }
  if (options.await_pools && nic.journal.dmabuf != 0) {
    while (!(result.held = HeldPools(nic, link, nic.journal.dmabuf)).empty() && looks.Again()) nic.kernel.FreeDeferred();
  }
  return true;
}

}  // namespace

void TakeRulesOut(const JournalledNic& nic, Restored& restored) {
  if (nic.journal.rules.empty()) return;
  const absl::StatusOr<std::vector<FlowRule>> there = nic.kernel.rules().List(nic.interface);
  if (!there.ok()) {
    restored.failed.push_back(absl::StrCat(nic.interface, ": rules cannot be listed: ", Text(there.status())));
    return;
  }
  std::vector<RxJournal::Rule> left;
  for (const RxJournal::Rule& ours : nic.journal.rules) {
    const std::string what = absl::StrCat("rule ", ours.match.ToString(), " to queue ", ours.queue);
    for (const FlowRule& rule : *there) {
      if (!rule.exact || !(rule.match == ours.match) || !LeadsTo(rule, ours.queue)) continue;
      const absl::Status status = nic.kernel.rules().Delete(nic.interface, rule.location, ours.match, ours.queue);
      if (status.ok()) {
        restored.done.push_back(absl::StrCat(nic.interface, ": ", what, " taken out (location ", rule.location, ")"));
      } else if (status.code() == absl::StatusCode::kAborted) {
        restored.foreign.push_back(absl::StrCat(nic.interface, ": ", what, " is another's by now: ", Text(status)));
      } else if (status.code() != absl::StatusCode::kNotFound) {
        restored.failed.push_back(absl::StrCat(nic.interface, ": ", what, " cannot be taken out: ", Text(status)));
        left.push_back(ours);
      }
    }
  }
  nic.journal.rules = std::move(left);
  (void)nic.file.Write(nic.journal);  // else the next start finds none of them
}

PutBack PutNicBack(const JournalledNic& nic, const Link& link, PutBackOptions options) {
  PutBack result;
  TakeRulesOut(nic, result.restored);
  if (options.bound != nullptr && !link.up) AwaitLink(nic, link, options.deadline);
  options.bound.reset();
  if (!AwaitHostMemory(nic, link, options, result)) return result;
  if (options.held == nullptr) {
    absl::StatusOr<RxFolder> folder =
        RxFolder::Hold(std::filesystem::path(nic.file.path()).parent_path().string(),
                       std::max(options.deadline, Clock::now() + kTurn), [&](Duration pause) { nic.kernel.Pause(pause); });
    if (!folder.ok()) {
      result.restored.failed.push_back(absl::StrCat(nic.interface, ": ", Text(folder.status())));
      return result;
    }
    result.folder = *std::move(folder);
  }
  RestoreRss(nic, result.restored);
  RestoreHeaderSplit(nic, result.restored);
  RestoreFeatures(nic, result.restored);
  return result;
}

absl::StatusOr<Link> FindNic(RxKernel& kernel, const RxJournal& journal, uint64_t netns) {
  const auto is_it = [&](const std::string& interface) {
    const absl::StatusOr<NicIdentity> identity = kernel.ethtool().Identity(interface);
    return identity.ok() && *identity == journal.nic;
  };
  if (journal.netns == netns) {
    absl::StatusOr<Link> link = kernel.FindLink(journal.ifindex);
    if (link.ok() ? is_it(link->interface) : link.status().code() != absl::StatusCode::kNotFound) return link;
  }
  // By the permanent address alone two ports of one device are told from each other.
  if (!journal.nic.permanent_mac.empty()) {
    for (const std::string& interface : kernel.Interfaces()) {
      if (is_it(interface)) return kernel.FindLink(interface);
    }
  }
  return MakeError(absl::StatusCode::kNotFound, "it is not in this network namespace", {.object = DescribeNic(journal)});
}

std::string DescribeNic(const RxJournal& journal) {
  return absl::StrCat(journal.interface, " (", journal.nic.driver, " at ", journal.nic.bus,
                      journal.nic.permanent_mac.empty() ? "" : ", ", journal.nic.permanent_mac, ")");
}

absl::Status ForgetRule(RxJournal& journal, RxJournalFile& file, const FlowMatch& match, uint32_t queue) {
  const auto found = std::find_if(journal.rules.begin(), journal.rules.end(),
                                  [&](const RxJournal::Rule& rule) { return rule.queue == queue && rule.match == match; });
  if (found == journal.rules.end()) return absl::OkStatus();
  journal.rules.erase(found);
  return file.Write(journal);
}

}  // namespace devmem
