// SPDX-License-Identifier: Apache-2.0
// What Rx queues of this network namespace are bound to, and who holds it: what the kernel tells of queues and page pools, what
// devmem_binding tells of its handles, and what our journals say, put together. Looks, and changes nothing.
//
//   DEVMEM_ASSIGN_OR_RETURN(const HeldBindings held, ListHeldBindings("/run/devmem-loader", false));
//   for (const ListedBinding& each : held.bindings) ...
//
// Who made a binding is told by its handle or by a journal in the folder; of others the kernel tells nothing.
// Threads: values; everything happens in the network namespace of the calling thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "net/netlink/devmem_binding.h"
#include "net/rx/rx_journal.h"
#include "net/rx/rx_kernel.h"

namespace devmem {

struct ListedBinding {
  enum class Memory : uint8_t { kNone, kDmabuf, kIoUring, kXsk };
  enum class State : uint8_t {
    kLive,      // bound to its queues
    kDraining,  // bound no more; buffers that are out keep the memory
    kGone,      // its NIC is no more, or left the namespace; the handle remains to be closed
    kUnbound,   // of a living process's journal, and not seen on the queues: it sets up or puts back, the link is down, or a
                // reset
    kLeft,      // of a dead process's journal: nothing is bound, and the next start puts the NIC back
  };
  struct Process {
    int64_t pid = 0;
    bool lives = false;
    bool of_other_namespace = false;  // its number is one of another pid namespace
    bool operator==(const Process&) const = default;
  };

  std::string interface;  // empty: it is gone
  uint32_t ifindex = 0;   // 0: it is gone, and nothing says which it was
  std::vector<uint32_t> queues;
  Memory memory = Memory::kNone;
  uint32_t dmabuf = 0;
  uint32_t page_size = 0;            // bytes; 0: not known
  std::optional<uint64_t> inflight;  // buffers out: posted to the NIC, kept by pools for reuse, or in skbs and tokens
  std::optional<uint64_t> rules;     // the handle's, or all that lead to the queues
  State state = State::kLive;
  std::optional<uint32_t> handle;                 // its binding's id
  bool resets_rss = false, resets_split = false;  // with the handle's end
  std::optional<Process> process;                 // the handle's creator, or the journal's writer
  std::string journal;                            // path; empty: none names it
};

struct HeldBindings {
  std::vector<ListedBinding> bindings;  // by interface and first queue
  bool module_loaded = false;           // devmem_binding
  std::vector<std::string> notes;       // what else stands in the journals
  std::vector<std::string> unread;      // what could not be read, and why: there may be more than is listed
};

// kFailedPrecondition if the journals' folder is no folder; kNotFound if there is none such and `folder_must_be` (else there
// are no journals). What else cannot be read is said in `unread`.
[[nodiscard]] absl::StatusOr<HeldBindings> ListHeldBindings(const std::string& journal_folder, bool folder_must_be);

// The parts, for the tests.
struct HeldSources {
  RxJournal self;                                     // who looks, and where: RxJournal::Here
  absl::StatusOr<std::vector<HeldHandle>> handles;    // kUnimplemented: the module is not loaded
  absl::StatusOr<std::vector<SeenJournal>> journals;  // kNotFound: there are none
};
[[nodiscard]] HeldBindings PutTogether(RxKernel& kernel, const HeldSources& sources);

}  // namespace devmem
