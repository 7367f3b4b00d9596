// SPDX-License-Identifier: Apache-2.0
#include "net/rx/nic_settings.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "net/rx/queue_use.h"

namespace devmem {
namespace {

const char* Name(HeaderSplit split) {
  switch (split) {
    case HeaderSplit::kOff:
      return "off";
    case HeaderSplit::kOn:
      return "on";
    case HeaderSplit::kUnknown:
      break;
  }
  return "unknown";
}

const char* OnOff(bool on) { return on ? "on" : "off"; }

// A flow that no network carries: TEST-NET-2 to TEST-NET-3 (RFC 5737), discard port.
FlowMatch ProbeFlow() {
  FlowMatch match;
  auto& source = reinterpret_cast<sockaddr_in&>(match.source);
  auto& destination = reinterpret_cast<sockaddr_in&>(match.destination);
  source.sin_family = destination.sin_family = AF_INET;
  source.sin_port = destination.sin_port = htons(9);
  source.sin_addr.s_addr = htonl(0xc6336401);       // 198.51.100.1
  destination.sin_addr.s_addr = htonl(0xcb007101);  // 203.0.113.1
  return match;
}

// Whether `queue` takes a rule is told by `inserted`; the result, whether there is nothing left of the probe.
absl::Status ProbeRules(const JournalledNic& nic, uint32_t queue, absl::Status& inserted) {
  const FlowMatch flow = ProbeFlow();
  nic.journal.rules.push_back({flow, queue});
  DEVMEM_RETURN_IF_ERROR(nic.file.Write(nic.journal));
  const absl::StatusOr<uint32_t> location = nic.kernel.rules().Insert(nic.interface, flow, queue);
  inserted = location.status();
  // What cannot be taken out again stays in the journal.
  if (location.ok()) DEVMEM_RETURN_IF_ERROR(nic.kernel.rules().Delete(nic.interface, *location, flow, queue));
  nic.journal.rules.pop_back();
  return nic.file.Write(nic.journal);
}

// The feature if it is there, off, and may be turned on.
absl::StatusOr<bool> CouldTurnOn(const JournalledNic& nic, const char* name) {
  const absl::StatusOr<Feature> feature = nic.kernel.ethtool().GetFeature(nic.interface, name);
  if (feature.status().code() == absl::StatusCode::kNotFound) return false;
  DEVMEM_RETURN_IF_ERROR(feature.status());
  return !feature->active && !feature->fixed;
}

const RxJournal::FeatureChange* FindFeature(const RxJournal& journal, const std::string& name) {
  const auto found = std::find_if(journal.features.begin(), journal.features.end(),
                                  [&](const RxJournal::FeatureChange& each) { return each.name == name; });
  return found == journal.features.end() ? nullptr : &*found;
}

absl::Status TurnOn(const JournalledNic& nic, const char* name) {
  if (FindFeature(nic.journal, name) == nullptr) nic.journal.features.push_back({.name = name, .was = false});
  DEVMEM_RETURN_IF_ERROR(nic.file.Write(nic.journal));
  return nic.kernel.ethtool().SetFeature(nic.interface, name, true);
}

absl::Status SetSplit(const JournalledNic& nic) {
  return nic.kernel.ethtool().SetHeaderSplit(nic.interface, HeaderSplit::kOn, 0);
}

std::string Describe(const Rings& rings) {
  return absl::StrCat("header split ", Name(rings.header_split),
                      rings.threshold ? absl::StrCat(", threshold ", *rings.threshold) : "");
}

// Written after each thing put back, so that a crash now does not undo it twice. A failure only means that the next start
// finds it done.
template <typename T>
void CrossOut(const JournalledNic& nic, T& what) {
  what = {};
  (void)nic.file.Write(nic.journal);
}

std::vector<uint32_t> Unbound(const std::vector<uint32_t>& from, const std::vector<uint32_t>& queues) {
  const std::set<uint32_t> distinct(from.begin(), from.end());
  std::vector<uint32_t> others;
  std::set_difference(distinct.begin(), distinct.end(), queues.begin(), queues.end(), std::back_inserter(others));
  return others;
}

// --- several of ours on one NIC ---------------------------------------------------------------------------------------------

std::string Named(const OtherJournal& other) { return absl::StrCat("process ", other.journal.pid); }

// `queues`, and those that living others have, ascending.
std::vector<uint32_t> WithTheirs(std::vector<uint32_t> queues, const std::vector<OtherJournal>& others) {
  for (const OtherJournal& other : others) {
    if (other.lives) queues.insert(queues.end(), other.journal.queues.begin(), other.journal.queues.end());
  }
  std::sort(queues.begin(), queues.end());
  queues.erase(std::unique(queues.begin(), queues.end()), queues.end());
  return queues;
}

// `table` with what leads to `avoid` dealt out to `others`, which may not be empty.
std::vector<uint32_t> Deal(std::vector<uint32_t> table, const std::vector<uint32_t>& avoid,
                           const std::vector<uint32_t>& others) {
  size_t turn = 0;
  for (uint32_t& queue : table) {
    if (std::binary_search(avoid.begin(), avoid.end(), queue)) queue = others[turn++ % others.size()];
  }
  return table;
}

// The same to the others it leads to; empty if there are none.
std::vector<uint32_t> Moved(const std::vector<uint32_t>& table, const std::vector<uint32_t>& avoid) {
  const std::vector<uint32_t> others = Unbound(table, avoid);
  return others.empty() ? std::vector<uint32_t>{} : Deal(table, avoid, others);
}

// What drivers make of a table that nobody has chosen (ethtool_rxfh_indir_default()): all queues in turn, `among` included.
bool IsDefault(const std::vector<uint32_t>& table, const std::vector<uint32_t>& among) {
  if (!LeadsToAny(table, among)) return false;
  const uint32_t queues = *std::max_element(table.begin(), table.end()) + 1;
  for (size_t entry = 0; entry < table.size(); ++entry) {
    if (table[entry] != entry % queues) return false;
  }
  return true;
}

// Whether `now` is what processes of ours have made of `change.was`, `queues` being those of the change's own.
bool IsOfOurMaking(const std::vector<uint32_t>& now, const RxJournal::RssChange& change, const std::vector<uint32_t>& queues,
                   const std::vector<OtherJournal>& others) {
  if (now == change.set || now == Moved(change.was, WithTheirs(queues, others)) ||
      now == Moved(change.was, WithTheirs({}, others)) || (change.by_kernel && IsDefault(now, queues))) {
    return true;
  }
  return std::any_of(others.begin(), others.end(), [&](const OtherJournal& other) {
    return other.journal.rss && other.journal.rss->was == change.was && other.journal.rss->set == now;
  });
}

// Returns what is then left to say of it, or nothing if all is as it was.
absl::Status PutSplitBack(const JournalledNic& nic, const RxJournal::SplitChange& change) {
  Ethtool& ethtool = nic.kernel.ethtool();
  // The threshold first: some drivers take one only while the split is on.
  if (change.threshold_was.value_or(0) != 0) {
    DEVMEM_RETURN_IF_ERROR(ethtool.SetHeaderSplit(nic.interface, HeaderSplit::kOn, change.threshold_was));
  }
  DEVMEM_RETURN_IF_ERROR(ethtool.SetHeaderSplit(nic.interface, HeaderSplit::kUnknown, std::nullopt));
  DEVMEM_ASSIGN_OR_RETURN(Rings rings, ethtool.GetRings(nic.interface));
  if (rings.header_split != change.was) {
    DEVMEM_RETURN_IF_ERROR(ethtool.SetHeaderSplit(nic.interface, change.was, change.threshold_was));
    DEVMEM_ASSIGN_OR_RETURN(rings, ethtool.GetRings(nic.interface));
  }
  if (rings.header_split == change.was && rings.threshold == change.threshold_was) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("it reads ", Describe(rings), " after that"));
}

absl::Status PutRssBack(const JournalledNic& nic, const RxJournal::RssChange& change) {
  Ethtool& ethtool = nic.kernel.ethtool();
  DEVMEM_RETURN_IF_ERROR(ethtool.ResetRss(nic.interface));
  DEVMEM_ASSIGN_OR_RETURN(RssTable table, ethtool.GetRss(nic.interface));
  if (table.queues == change.was) return absl::OkStatus();
  DEVMEM_RETURN_IF_ERROR(ethtool.SetRss(nic.interface, {change.was}));
  DEVMEM_ASSIGN_OR_RETURN(table, ethtool.GetRss(nic.interface));
  return table.queues == change.was ? absl::OkStatus() : absl::InternalError("another table reads back");
}

// Who else has device memory on this NIC (ours is off it by now), and so needs header split and what goes with it; empty:
// nobody.
std::string OthersMemory(const JournalledNic& nic) {
  const absl::StatusOr<Link> link = nic.kernel.FindLink(nic.interface);
  if (!link.ok()) return "";
  const absl::StatusOr<std::vector<RxQueueState>> states = nic.kernel.netdev().RxQueues(link->ifindex);
  if (!states.ok()) return "";
  for (const RxQueueState& state : *states) {
    if (state.io_uring) return absl::StrCat("io_uring on queue ", state.queue);
    if (state.dmabuf != 0) return absl::StrCat("dma-buf ", state.dmabuf, " on queue ", state.queue);
  }
  return "";
}

// Rules of others that turning ntuple off would flush.
absl::StatusOr<size_t> RulesThere(const JournalledNic& nic) {
  DEVMEM_ASSIGN_OR_RETURN(const std::vector<FlowRule> rules, nic.kernel.rules().List(nic.interface));
  return rules.size();
}

// A living process of ours that will put back what `has` says its journal has; empty: there is none.
template <typename Has>
std::string Heir(const JournalledNic& nic, Has has) {
  for (const OtherJournal& other : nic.file.Others(nic.journal)) {
    if (other.lives && has(other.journal)) return Named(other);
  }
  return "";
}

// Where processes of ours stay on the NIC: our queues alone are given back, in one step, for a table that is reset in between
// leads to theirs. True if there is nothing more to do.
bool LeaveRss(const JournalledNic& nic, const std::vector<uint32_t>& now, const std::vector<OtherJournal>& others,
              Restored& restored) {
  const std::vector<uint32_t> theirs = WithTheirs({}, others);
  if (theirs.empty()) return false;
  const std::string what = absl::StrCat(nic.interface, ": the RSS table");
  const std::vector<uint32_t> wanted = Moved(nic.journal.rss->was, theirs);
  if (!wanted.empty() && wanted != now) {
    if (const absl::Status status = nic.kernel.ethtool().SetRss(nic.interface, {wanted}); !status.ok()) {
      restored.failed.push_back(absl::StrCat(what, " cannot be given our queues back: ", Text(status)));
      return true;
    }
  }
  const auto& was = nic.journal.rss->was;
  const std::string heir = Heir(nic, [&](const RxJournal& each) { return each.rss && each.rss->was == was; });
  if (!heir.empty()) {
    restored.done.push_back(absl::StrCat(what, " leads to our queues again, and ", heir, " will put it back"));
  } else if (wanted == was) {
    restored.done.push_back(absl::StrCat(what, " is put back"));
  } else {
    restored.foreign.push_back(
        absl::StrCat(what, " stays off queues ", absl::StrJoin(theirs, ","), ", which others of ours have"));
  }
  CrossOut(nic, nic.journal.rss);
  return true;
}

void RestoreFeature(const JournalledNic& nic, const RxJournal::FeatureChange& change, Restored& restored) {
  const std::string what = absl::StrCat(nic.interface, ": ", change.name);
  const absl::StatusOr<Feature> feature = nic.kernel.ethtool().GetFeature(nic.interface, change.name);
  if (!feature.ok()) {
    restored.failed.push_back(absl::StrCat(what, " cannot be read: ", Text(feature.status())));
    return;
  }
  if (feature->active == change.was) {
    restored.done.push_back(absl::StrCat(what, " is ", OnOff(change.was), ", as it was"));
    return;
  }
  if (const std::string heir = Heir(nic, [&](const RxJournal& theirs) { return FindFeature(theirs, change.name) != nullptr; });
      !heir.empty()) {
    restored.done.push_back(absl::StrCat(what, " stays ", OnOff(!change.was), ": ", heir, " needs it, and will put it back"));
    return;
  }
  if (change.name == kNtuple && !change.was) {
    if (!nic.journal.rules.empty()) {
      restored.failed.push_back(absl::StrCat(what, " stays on while rules of ours are there"));
      return;
    }
    const absl::StatusOr<size_t> rules = RulesThere(nic);
    if (rules.ok() && *rules > 0) {
      restored.foreign.push_back(absl::StrCat(what, " stays on: ", *rules, " rules of others need it"));
      return;
    }
  }
  // Both are for what receives into device memory: header split needs the one, and rules, maybe none just now, the other.
  if (const std::string others = OthersMemory(nic); !others.empty()) {
    restored.foreign.push_back(absl::StrCat(what, " stays on: ", others, " needs it"));
    return;
  }
  const absl::Status status = nic.kernel.ethtool().SetFeature(nic.interface, change.name, change.was);
  if (status.ok()) {
    restored.done.push_back(absl::StrCat(what, " is ", OnOff(change.was), " again"));
  } else {
    restored.failed.push_back(absl::StrCat(what, " cannot be turned ", OnOff(change.was), " again: ", Text(status)));
  }
}

}  // namespace

bool SplitIsOn(const Rings& rings) { return rings.header_split == HeaderSplit::kOn && rings.threshold.value_or(0) == 0; }

bool LeadsToAny(const std::vector<uint32_t>& table, const std::vector<uint32_t>& queues) {
  return std::find_first_of(table.begin(), table.end(), queues.begin(), queues.end()) != table.end();
}

absl::StatusOr<RssTable> GetRssOrNone(RxKernel& kernel, const std::string& interface) {
  absl::StatusOr<RssTable> table = kernel.ethtool().GetRss(interface);
  if (table.status().code() == absl::StatusCode::kUnimplemented) return RssTable{};
  return table;
}

absl::Status AllowRules(const JournalledNic& nic, uint32_t queue) {
  // Where ntuple is on, or cannot be changed, rules go in or not; there is nothing to turn. (mlx5 has it off and takes rules:
  // there it also means aRFS, and nobody asked for that.)
  DEVMEM_ASSIGN_OR_RETURN(const bool could, CouldTurnOn(nic, kNtuple));
  if (!could) return absl::OkStatus();
  absl::Status inserted;
  DEVMEM_RETURN_IF_ERROR(ProbeRules(nic, queue, inserted));
  if (inserted.ok()) return inserted;
  DEVMEM_RETURN_IF_ERROR(TurnOn(nic, kNtuple));
  DEVMEM_RETURN_IF_ERROR(ProbeRules(nic, queue, inserted));
  return inserted;
}

absl::Status SplitHeaders(const JournalledNic& nic) {
  DEVMEM_ASSIGN_OR_RETURN(const Rings rings, nic.kernel.ethtool().GetRings(nic.interface));
  if (!rings.has_header_split) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "the driver knows no tcp-data-split",
                     {.object = nic.interface,
                      .cause = "no header split",
                      .action = "a NIC and driver that split headers are needed: `ethtool -g` shows 'TCP data split'"});
  }
  // Set also where it reads on: the kernel wants it chosen, and some drivers report on without anybody's choice.
  if (!nic.journal.header_split) nic.journal.header_split = {rings.header_split, rings.threshold};
  nic.journal.header_split->resetting = false;
  DEVMEM_RETURN_IF_ERROR(nic.file.Write(nic.journal));
  absl::Status first = SetSplit(nic);
  if (first.ok()) return first;
  DEVMEM_ASSIGN_OR_RETURN(const bool could, CouldTurnOn(nic, kGroHw));
  if (!could) return first;
  DEVMEM_RETURN_IF_ERROR(TurnOn(nic, kGroHw));  // mlx5 splits headers only with it
  return SetSplit(nic);
}

absl::Status MoveRss(const JournalledNic& nic, const std::vector<uint32_t>& queues) {
  DEVMEM_ASSIGN_OR_RETURN(const RssTable now, GetRssOrNone(nic.kernel, nic.interface));
  if (!LeadsToAny(now.queues, queues)) return absl::OkStatus();
  // An inherited table that still stands; else what is there now, by whomever.
  const std::vector<OtherJournal> sharers = nic.file.Others(nic.journal);
  const bool stands = nic.journal.rss && IsOfOurMaking(now.queues, *nic.journal.rss, queues, sharers);
  const std::vector<uint32_t> was = stands ? nic.journal.rss->was : now.queues;
  const std::vector<uint32_t> avoid = WithTheirs(queues, sharers);
  std::vector<uint32_t> others = Unbound(was, avoid);
  if (others.empty()) {
    DEVMEM_ASSIGN_OR_RETURN(const Link link, nic.kernel.FindLink(nic.interface));
    DEVMEM_ASSIGN_OR_RETURN(const QueueUse use, FindQueueUse(nic.kernel, link));
    for (uint32_t queue = 0; queue < use.queues; ++queue) {
      if (!std::binary_search(avoid.begin(), avoid.end(), queue) && !use.taken.contains(queue)) others.push_back(queue);
    }
  }
  if (others.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "no queue is left for ordinary traffic",
                     {.object = nic.interface, .cause = "too few queues", .action = "take fewer, or `ethtool -L` for more"});
  }
  const RssTable moved{Deal(was, avoid, others)};
  nic.journal.rss = {was, moved.queues, false, stands && nic.journal.rss->by_kernel};
  DEVMEM_RETURN_IF_ERROR(nic.file.Write(nic.journal));
  return nic.kernel.ethtool().SetRss(nic.interface, moved);
}

absl::Status Inherit(const JournalledNic& nic) {
  DEVMEM_ASSIGN_OR_RETURN(const RssTable now, GetRssOrNone(nic.kernel, nic.interface));
  const std::vector<OtherJournal> others = nic.file.Others(nic.journal);
  for (const OtherJournal& other : others) {
    const RxJournal& theirs = other.journal;
    for (const RxJournal::FeatureChange& change : theirs.features) {
      if (FindFeature(nic.journal, change.name) == nullptr) nic.journal.features.push_back(change);
    }
    if (!nic.journal.header_split) nic.journal.header_split = theirs.header_split;
    if (!nic.journal.rss && theirs.rss && IsOfOurMaking(now.queues, *theirs.rss, theirs.queues, others)) {
      nic.journal.rss = {theirs.rss->was, now.queues, false, theirs.rss->by_kernel};
    }
  }
  return others.empty() ? absl::OkStatus() : nic.file.Write(nic.journal);
}

void RestoreRss(const JournalledNic& nic, Restored& restored) {
  if (!nic.journal.rss) return;
  const std::string what = absl::StrCat(nic.interface, ": the RSS table");
  const absl::StatusOr<RssTable> now = nic.kernel.ethtool().GetRss(nic.interface);
  absl::Status status = now.status();
  const std::vector<OtherJournal> others = nic.file.Others(nic.journal);
  if (now.ok() && !nic.journal.rss->resetting && now->queues != nic.journal.rss->was &&
      !IsOfOurMaking(now->queues, *nic.journal.rss, nic.journal.queues, others)) {
    restored.foreign.push_back(absl::StrCat(what, " was changed by another and stays so: it leads to queues ",
                                            absl::StrJoin(Unbound(now->queues, {}), ",")));
    CrossOut(nic, nic.journal.rss);
    return;
  }
  if (now.ok() && now->queues == nic.journal.rss->was) {
    restored.done.push_back(absl::StrCat(what, " is as it was"));
    CrossOut(nic, nic.journal.rss);
    return;
  }
  if (now.ok() && LeaveRss(nic, now->queues, others, restored)) return;
  // Dying between the reset and what is written after it must not leave the reset table for someone else's.
  nic.journal.rss->resetting = true;
  if (status.ok()) status = nic.file.Write(nic.journal);
  if (status.ok()) status = PutRssBack(nic, *nic.journal.rss);
  if (!status.ok()) {
    restored.failed.push_back(absl::StrCat(what, " cannot be put back: ", Text(status)));
    return;
  }
  restored.done.push_back(absl::StrCat(what, " is put back"));
  CrossOut(nic, nic.journal.rss);
}

void RestoreHeaderSplit(const JournalledNic& nic, Restored& restored) {
  if (!nic.journal.header_split) return;
  RxJournal::SplitChange& change = *nic.journal.header_split;
  const absl::StatusOr<Rings> now = nic.kernel.ethtool().GetRings(nic.interface);
  absl::Status status = now.status();
  if (now.ok() && !SplitIsOn(*now) && !change.resetting) {
    if (now->header_split == change.was && now->threshold == change.threshold_was) {
      restored.done.push_back(absl::StrCat(nic.interface, ": header split is as it was"));
    } else {
      restored.foreign.push_back(absl::StrCat(nic.interface, ": ", Describe(*now), " was set by another and stays so"));
    }
    CrossOut(nic, nic.journal.header_split);
    return;
  }
  if (const std::string heir = Heir(nic, [](const RxJournal& theirs) { return theirs.header_split.has_value(); });
      now.ok() && !heir.empty()) {
    restored.done.push_back(absl::StrCat(nic.interface, ": header split stays on: ", heir, " needs it, and will put it back"));
    CrossOut(nic, nic.journal.header_split);
    return;
  }
  if (const std::string others = OthersMemory(nic); now.ok() && !others.empty()) {
    const std::string what = absl::StrCat(nic.interface, ": header split stays on");
    if (change.was == HeaderSplit::kOn && change.threshold_was.value_or(0) == 0) {
      restored.done.push_back(absl::StrCat(what, ", as it was"));
    } else {
      restored.foreign.push_back(absl::StrCat(what, ": ", others, " needs it"));
    }
    CrossOut(nic, nic.journal.header_split);
    return;
  }
  change.resetting = true;  // as with RSS
  if (status.ok()) status = nic.file.Write(nic.journal);
  if (status.ok()) status = PutSplitBack(nic, change);
  if (!status.ok()) {
    restored.failed.push_back(
        absl::StrCat(nic.interface, ": header split cannot be put back to ", Name(change.was), ": ", Text(status)));
    return;
  }
  restored.done.push_back(absl::StrCat(nic.interface, ": header split is ", Name(change.was), " again"));
  CrossOut(nic, nic.journal.header_split);
}

void RestoreFeatures(const JournalledNic& nic, Restored& restored) {
  while (!nic.journal.features.empty()) {
    const size_t failures = restored.failed.size();
    RestoreFeature(nic, nic.journal.features.back(), restored);
    if (restored.failed.size() != failures) return;
    nic.journal.features.pop_back();
    (void)nic.file.Write(nic.journal);
  }
}

}  // namespace devmem
