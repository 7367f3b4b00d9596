// SPDX-License-Identifier: Apache-2.0
// One entry comes of, in this order, each once:
//
//   1. a dma-buf on queues of one NIC (the kernel numbers them anew for each binding, throughout the machine); a queue of
//      io_uring's or AF_XDP's
//   2. page pools that wait for buffers of a dma-buf that is on no queue any more
//   3. a handle: it is 1's or 2's if both name the same dma-buf; else an entry of its own
//   4. a journal: 1's likewise; else what its process did to a NIC without having anything bound
//
// These are read one after the other, so what comes or goes meanwhile may be seen half.
#include "net/rx/held_bindings.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/rx/put_back.h"
#include "net/rx/queue_use.h"

namespace devmem {
namespace {

using Memory = ListedBinding::Memory;
using State = ListedBinding::State;

// What a daemon takes to set up a NIC, or to put one back, while it has the folder.
constexpr Duration kPatience = std::chrono::seconds(5);

Memory MemoryOf(const RxQueueState& queue) {
  if (queue.io_uring) return Memory::kIoUring;
  if (queue.dmabuf != 0) return Memory::kDmabuf;
  return queue.xsk ? Memory::kXsk : Memory::kNone;
}

class Combination {
 public:
  Combination(RxKernel& kernel, const HeldSources& sources) : kernel_(kernel), sources_(sources) {}

  HeldBindings Run() && {
    ReadQueues();
    ReadPools();
    ReadHandles();
    ReadJournals();
    for (ListedBinding& each : held_.bindings) {
      if (!each.handle && !each.interface.empty()) each.rules = RulesTo(each);
    }
    std::stable_sort(held_.bindings.begin(), held_.bindings.end(), [](const ListedBinding& a, const ListedBinding& b) {
      return std::tie(a.interface, a.queues) < std::tie(b.interface, b.queues);
    });
    return std::move(held_);
  }

 private:
  void CouldNot(const absl::Status& status) { held_.unread.push_back(Text(status)); }

  // --- 1: queues ---

  void ReadQueues() {
    for (const std::string& interface : kernel_.Interfaces()) {
      const absl::StatusOr<Link> link = kernel_.FindLink(interface);
      if (!link.ok()) continue;  // it went meanwhile
      const absl::StatusOr<std::vector<RxQueueState>> queues = kernel_.netdev().RxQueues(link->ifindex);
      if (absl::IsNotFound(queues.status())) continue;
      if (!queues.ok()) {
        CouldNot(queues.status());
        if (absl::IsUnimplemented(queues.status())) return;  // of no interface
        continue;
      }
      names_[link->ifindex] = interface;
      for (const RxQueueState& queue : *queues) AddQueue(*link, queue);
    }
  }

  void AddQueue(const Link& link, const RxQueueState& queue) {
    const Memory memory = MemoryOf(queue);
    if (memory == Memory::kNone) return;
    if (memory == Memory::kDmabuf) {
      if (ListedBinding* const known = Find(queue.dmabuf); known != nullptr) {
        known->queues.push_back(queue.queue);
        return;
      }
    }
    held_.bindings.push_back({.interface = link.interface,
                              .ifindex = link.ifindex,
                              .queues = {queue.queue},
                              .memory = memory,
                              .dmabuf = memory == Memory::kDmabuf ? queue.dmabuf : 0});
    if (memory == Memory::kIoUring) io_urings_[queue.napi_id] = held_.bindings.size() - 1;
  }

  ListedBinding* Find(uint32_t dmabuf) {
    const auto found = std::find_if(held_.bindings.begin(), held_.bindings.end(), [&](const ListedBinding& each) {
      return each.memory == Memory::kDmabuf && each.dmabuf == dmabuf;
    });
    return found == held_.bindings.end() ? nullptr : &*found;
  }

  // --- 2: page pools ---

  void ReadPools() {
    const absl::StatusOr<std::vector<PagePoolState>> pools = kernel_.netdev().PagePools(0);
    if (!pools.ok()) return CouldNot(pools.status());
    for (ListedBinding& each : held_.bindings) {
      if (each.memory != Memory::kXsk) each.inflight = 0;  // AF_XDP has its buffers without a pool
    }
    for (const PagePoolState& pool : *pools) {
      if (pool.dmabuf == 0 && !pool.io_uring) continue;
      ListedBinding& of = HolderOf(pool);
      of.inflight = of.inflight.value_or(0) + pool.inflight;
      // Of this kernel's own arithmetic: buffers times their size.
      if (of.page_size == 0 && pool.inflight != 0) of.page_size = static_cast<uint32_t>(pool.inflight_bytes / pool.inflight);
    }
  }

  ListedBinding& HolderOf(const PagePoolState& pool) {
    if (pool.dmabuf != 0) {
      if (ListedBinding* const known = Find(pool.dmabuf); known != nullptr) return *known;
    } else if (const auto found = io_urings_.find(pool.napi_id); !pool.detached && found != io_urings_.end()) {
      return held_.bindings[found->second];
    }
    const auto name = names_.find(pool.ifindex);
    held_.bindings.push_back({.interface = name == names_.end() ? "" : name->second,
                              .ifindex = pool.ifindex,
                              .memory = pool.dmabuf != 0 ? Memory::kDmabuf : Memory::kIoUring,
                              .dmabuf = pool.dmabuf,
                              .inflight = 0,
                              .state = State::kDraining});
    return held_.bindings.back();
  }

  // --- 3: handles ---

  void ReadHandles() {
    held_.module_loaded = sources_.handles.ok();
    if (!sources_.handles.ok()) {
      if (!absl::IsUnimplemented(sources_.handles.status())) CouldNot(sources_.handles.status());
      return;
    }
    for (const HeldHandle& handle : *sources_.handles) {
      ListedBinding* const seen = Find(handle.dmabuf);
      ListedBinding& binding = seen != nullptr ? *seen : held_.bindings.emplace_back();
      if (binding.queues.empty()) binding.queues = handle.queues;  // a link that is down shows no queues
      binding.interface.clear();  // the NIC's number may be another's by the time its handle is all that is left
      if (!handle.gone) {
        const absl::StatusOr<Link> link = kernel_.FindLink(handle.ifindex);
        if (link.ok()) binding.interface = link->interface;
      }
      binding.ifindex = handle.ifindex;
      binding.memory = Memory::kDmabuf;
      binding.dmabuf = handle.dmabuf;
      binding.page_size = handle.page_size;
      binding.rules = handle.rules;
      binding.state = handle.gone ? State::kGone : State::kLive;
      binding.handle = handle.id;
      binding.resets_rss = handle.resets_rss;
      binding.resets_split = handle.resets_split;
      if (handle.creator_pid != 0) binding.process = ListedBinding::Process{.pid = handle.creator_pid, .lives = true};
    }
  }

  // --- 4: journals ---

  void ReadJournals() {
    if (!sources_.journals.ok()) {
      if (!absl::IsNotFound(sources_.journals.status())) CouldNot(sources_.journals.status());
      return;
    }
    for (const SeenJournal& seen : *sources_.journals) {
      if (!seen.journal.ok()) {
        CouldNot(seen.journal.status());
      } else {
        AddJournal(seen, *seen.journal);
      }
    }
  }

  void AddJournal(const SeenJournal& seen, const RxJournal& journal) {
    const auto note = [&](const std::string& what) { held_.notes.push_back(absl::StrCat("journal ", seen.path, ": ", what)); };
    if (journal.boot_id != sources_.self.boot_id) return note("from before this machine's last start, nothing to put back");
    const absl::StatusOr<Link> link = FindNic(kernel_, journal, sources_.self.netns);
    if (absl::IsNotFound(link.status())) {
      // A living process's is its namespace's business.
      if (!seen.lives) {
        note(absl::StrCat(DescribeNic(journal), " is not in this network namespace; process ", journal.pid,
                          ", which was killed, left it as it was, and the next start where it is puts it back"));
      }
      return;
    }
    if (!link.ok()) return CouldNot(WithObject(link.status(), seen.path));
    const ListedBinding::Process writer{
        .pid = journal.pid, .lives = seen.lives, .of_other_namespace = journal.pid_namespace != sources_.self.pid_namespace};
    ListedBinding* const known = journal.dmabuf == 0 ? nullptr : Find(journal.dmabuf);
    if (known != nullptr) {
      if (!known->process || seen.lives) known->process = writer;  // a handle's creator may have handed it on
      if (known->state != State::kDraining) {
        known->journal = seen.path;
        return;
      }
    }
    held_.bindings.push_back({.interface = link->interface,
                              .ifindex = link->ifindex,
                              .queues = journal.queues,
                              .state = seen.lives ? State::kUnbound : State::kLeft,
                              .process = writer,
                              .journal = seen.path});
  }

  // --- rules, where something is held ---

  std::optional<uint64_t> RulesTo(const ListedBinding& binding) {
    auto [known, first] = rules_.try_emplace(binding.interface);
    if (first) {
      absl::StatusOr<std::vector<FlowRule>> rules = kernel_.rules().List(binding.interface);
      if (rules.ok()) {
        known->second = *std::move(rules);
      } else if (absl::IsUnimplemented(rules.status())) {
        known->second.emplace();  // a driver without rules
      } else {
        CouldNot(WithObject(rules.status(), binding.interface));
      }
    }
    if (!known->second) return std::nullopt;
    return static_cast<uint64_t>(std::count_if(known->second->begin(), known->second->end(), [&](const FlowRule& rule) {
      return std::any_of(binding.queues.begin(), binding.queues.end(), [&](uint32_t queue) { return LeadsTo(rule, queue); });
    }));
  }

  RxKernel& kernel_;
  const HeldSources& sources_;
  HeldBindings held_;
  std::map<uint32_t, std::string> names_;                              // of interfaces
  std::map<uint32_t, size_t> io_urings_;                               // NAPI -> the entry of its queue
  std::map<std::string, std::optional<std::vector<FlowRule>>> rules_;  // nullopt: cannot be read
};

}  // namespace

HeldBindings PutTogether(RxKernel& kernel, const HeldSources& sources) { return Combination(kernel, sources).Run(); }

absl::StatusOr<HeldBindings> ListHeldBindings(const std::string& journal_folder, bool folder_must_be) {
  const auto pause = [](Duration duration) { std::this_thread::sleep_for(duration); };  // only how often we look
  HeldSources sources;
  sources.journals = LookAtJournals(journal_folder, Clock::now() + kPatience, pause);
  if (absl::IsFailedPrecondition(sources.journals.status()) ||
      (folder_must_be && absl::IsNotFound(sources.journals.status()))) {
    return sources.journals.status();
  }
  DEVMEM_ASSIGN_OR_RETURN(sources.self, RxJournal::Here("", 0));
  sources.handles = ListHeldHandles();
  absl::StatusOr<std::unique_ptr<RxKernel>> kernel = RxKernel::Open();
  if (absl::IsUnimplemented(kernel.status())) return HeldBindings{.unread = {Text(kernel.status())}};
  DEVMEM_RETURN_IF_ERROR(kernel.status());
  return PutTogether(**kernel, sources);
}

}  // namespace devmem
