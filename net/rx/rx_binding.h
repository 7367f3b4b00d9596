// SPDX-License-Identifier: Apache-2.0
// RxBinding: everything done to one NIC so that its chosen Rx queues write payload into a dma-buf, and undone in reverse:
//
//   link up -> features (ntuple, and what the driver wants before header split) -> header split on, threshold 0 ->
//   RSS moved off the queues -> dma-buf bound -> rules, one by one, while connections come and go
//
// Each step stands in a journal before it is made (rx_journal.h), so that Recover() puts the NIC back after a SIGKILL. What was
// not made here is not touched: a queue that someone else's binding, AF_XDP socket, RSS context or rule uses is an error naming
// it.
//
// Threads: AddRule, RemoveRule and Look are thread-safe; Create and Undo belong to the owner.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "net/netlink/flow_rules.h"

namespace devmem {

struct BoundQueue {
  std::string interface;
  uint32_t ifindex = 0;
  uint32_t queue = 0;
  uint32_t napi_id = 0;   // at the time of asking: a reset may change it
  std::vector<int> cpus;  // those its interrupt goes to; empty: unknown
};

// What a process gives to another so that a binding goes on there (RxBinding::Adopt). It holds the binding as long as `fd` is
// open.
struct HeldBinding {
  std::string interface;
  std::vector<uint32_t> queues;
  uint32_t dmabuf_id = 0;
  uint32_t page_size = 0;  // as RxBinding::page_size()
  uint64_t posted = 0;     // likewise
  bool by_handle = false;  // `fd` is a handle of devmem_binding; else the netlink socket that it was bound with
  UniqueFd fd;
};

struct RxBindingOptions {
  std::string interface;         // a physical device
  std::vector<uint32_t> queues;  // at least one, never 0, ascending
  int dmabuf_fd = -1;            // borrowed for the call
  uint32_t page_size = 0;        // largest rx-page-size to try (power of two), then halves of it; 0: the system's page only
  std::string journal_folder = "/run/devmem-loader";
};

// How it stands now, as NIC and kernel tell it.
struct RxState {
  bool intact = false;  // our dma-buf is still on every queue, header split is on, RSS avoids the queues, our rules are there
  std::string why;      // the first thing that is not so
  bool only_rules = false;  // nothing but rules is missing: that is between us and our connections
  uint64_t inflight = 0;    // buffers of our pools that are out: posted or pinned by bytes not yet given back
  uint64_t detached = 0;    // pools with our dma-buf whose queue is gone
  uint64_t alloc_fail = 0;  // since the bind, of our queues
  uint64_t packets = 0;     // since the bind, of our queues
  uint64_t bytes = 0;
  std::vector<BoundQueue> queues;
};

class RxBinding {
 public:
  // On error everything done so far has been undone, and the error says which step failed on what.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxBinding>> Create(const RxBindingOptions& options);
  // Goes on with what another process has bound. That one lives, and keeps it until it calls Forget() or dies. Nothing on the
  // NIC is changed, by an error neither; what the NIC was before is taken over from the other's journal in the folder.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxBinding>> Adopt(HeldBinding held, const std::string& journal_folder);
  virtual ~RxBinding() = default;  // Undo(), if that was never called, with a deadline of 10 s

  [[nodiscard]] virtual const std::string& interface() const = 0;
  [[nodiscard]] virtual const std::string& driver() const = 0;
  [[nodiscard]] virtual const std::vector<BoundQueue>& queues() const = 0;  // as just after the bind
  [[nodiscard]] virtual uint32_t dmabuf_id() const = 0;
  [[nodiscard]] virtual uint32_t page_size() const = 0;      // bytes of a buffer (niov)
  [[nodiscard]] virtual uint64_t posted() const = 0;         // inflight just after the bind: the baseline
  [[nodiscard]] virtual uint64_t rule_capacity() const = 0;  // rules this NIC has room for beside those of others; 0: unknown
  // Bound by a handle (kernel/devmem_binding): if this process dies, the kernel takes rules out and resets RSS and header
  // split.
  [[nodiscard]] virtual bool by_handle() const = 0;

  // Steers the flow to queues()[index]. Journalled, inserted, read back. Returns its location; errors as FlowRules::Insert.
  [[nodiscard]] virtual absl::StatusOr<uint32_t> AddRule(const FlowMatch& match, size_t index) = 0;
  // OK also if the rule is gone already; kAborted if another's rule took its place (which stays).
  [[nodiscard]] virtual absl::Status RemoveRule(uint32_t location) = 0;
  [[nodiscard]] virtual size_t rules() const = 0;  // ours, now

  [[nodiscard]] virtual absl::StatusOr<RxState> Look() = 0;
  // Binds the same dma-buf again after something took it off (a NIC reset, RSS or header split changed by another tool), where
  // that is possible without fighting: once a call. Rules that are missing are inserted again. kUnavailable, with the queues on
  // host memory, until every buffer of the former binding is back: to be called again, while its sockets are read or closed.
  // A NIC that is gone (kNotFound) is looked for by its name and driver, and set up as by Create where it is back.
  [[nodiscard]] virtual absl::Status Rebind(int dmabuf_fd) = 0;

  // Takes the dma-buf off the queues (a handle's rules go with it), and does nothing else: whoever wants them may have them.
  // Rebind() binds again.
  virtual void LetGo() = 0;

  // For a successor in another process. kFailedPrecondition while there are rules, or if it is not bound just now. Nothing
  // changes.
  [[nodiscard]] virtual absl::StatusOr<HeldBinding> Share() = 0;
  // The same while connections have their rules: for a successor to say whether it could, not to adopt.
  [[nodiscard]] virtual absl::StatusOr<HeldBinding> Offer() = 0;
  // A successor has adopted it: our hold and our journal go, nothing is undone.
  virtual void Forget() = 0;

  // Rules out, unbind, wait until no pool holds the dma-buf, then RSS, header split and features as they were. No socket may
  // still hold fragments. Returns what could not be put back, and keeps the journal for the next start in that case; also if
  // the NIC is not here any more (kNotFound): it may have been moved. Where other processes of ours are on the NIC, the last
  // one to leave puts it back.
  [[nodiscard]] virtual absl::Status Undo(Time deadline) = 0;
};

// Puts back what journals in `folder` say a dead process left on NICs that are in this network namespace now, and removes them.
// Returns a line for each thing done or found done; journals of living processes are left alone.
[[nodiscard]] std::vector<std::string> Recover(const std::string& folder);

}  // namespace devmem
