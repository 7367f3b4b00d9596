// SPDX-License-Identifier: Apache-2.0
// The settings of one NIC that a binding needs changed, each set by one function and put back by another:
//
//   features      ntuple, where rules are refused without it; rx-gro-hw, where header split is
//   header split  on, threshold 0
//   RSS           off the bound queues
//
// Setting: only what is not so already, and what was is in the journal before. Putting back: by reset, for what was a driver's
// default must not become a choice of the user's (an explicit RSS table blocks channel counts; bnxt refuses header split off
// and reports on while unset); what then still differs is written. What someone else changed meanwhile is theirs and stays.
//
// Where several processes of ours have one NIC, what it was before the first of them is in the journal of each (Inherit), and
// the last to leave puts it back, whichever that is: who leaves earlier crosses its entries out. The RSS table is then always
// what it was, moved off the queues of all: by that a process knows a table that another of ours has set.
//
// Threads: as RxKernel.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "net/rx/rx_journal.h"
#include "net/rx/rx_kernel.h"

namespace devmem {

inline constexpr char kNtuple[] = "rx-ntuple-filter";
inline constexpr char kGroHw[] = "rx-gro-hw";

// One NIC with its journal; what all steps share. `journal` is what `file` holds.
struct JournalledNic {
  RxKernel& kernel;
  std::string interface;
  RxJournal& journal;
  RxJournalFile& file;
};

// What came of putting things back.
struct Restored {
  std::vector<std::string> done;     // put back now, or found so
  std::vector<std::string> foreign;  // left as someone else has set it
  std::vector<std::string> failed;   // should be put back and could not be
};

// Takes over into `nic.journal` what other processes of ours found when they changed this NIC. Before anything is set.
[[nodiscard]] absl::Status Inherit(const JournalledNic& nic);
// Finds out whether `queue` takes rules, and turns ntuple on if that is what it takes.
[[nodiscard]] absl::Status AllowRules(const JournalledNic& nic, uint32_t queue);
[[nodiscard]] absl::Status SplitHeaders(const JournalledNic& nic);
// Entries of the RSS table that lead to `queues` go to the others it leads to; were there none, to all that nobody has taken.
[[nodiscard]] absl::Status MoveRss(const JournalledNic& nic, const std::vector<uint32_t>& queues);

// Each puts back what the journal says was changed, and crosses it out there; nothing if it says nothing.
void RestoreRss(const JournalledNic& nic, Restored& restored);
void RestoreHeaderSplit(const JournalledNic& nic, Restored& restored);
void RestoreFeatures(const JournalledNic& nic, Restored& restored);

[[nodiscard]] bool SplitIsOn(const Rings& rings);                                                     // and the threshold 0
[[nodiscard]] absl::StatusOr<RssTable> GetRssOrNone(RxKernel& kernel, const std::string& interface);  // empty: it has none
[[nodiscard]] bool LeadsToAny(const std::vector<uint32_t>& table, const std::vector<uint32_t>& queues);

}  // namespace devmem
