// SPDX-License-Identifier: Apache-2.0
// Transport: brings byte ranges of objects into device memory. One worker thread a queue, sharing nothing: a read
// is given to one worker and stays there, with its connection, its retries and its deadlines.
//
// A RangeRead is one ranged GET (or file read) that scatters over any number of destinations; a destination
// without memory discards its bytes (a gap between two samples). It resumes at the byte reached after a broken
// connection, and fails when the object changed under it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "gpu/device.h"
#include "net/object_pins.h"
#include "net/object_store.h"
#include "net/reactor.h"
#include "net/rx/rx_binding.h"
#include "net/transfer_counters.h"

namespace devmem {

// Which way the bytes take and why: shown in OpenStream's first answer, in the status and in summaries.
struct PathInfo {
  std::string name;  // "copy", "devmem"; later "zcrx"
  std::string reason;

  // Of the devmem path; empty otherwise.
  struct Nic {
    std::string interface;
    std::string driver;
    std::vector<uint32_t> queues;
    uint32_t dmabuf_id = 0;
    uint32_t page_size = 0;       // bytes of a buffer
    uint64_t posted = 0;          // buffers the rings hold, just after the bind
    uint64_t inflight = 0;        // buffers out now
    uint64_t detached_pools = 0;  // of queues that are gone, still waiting for buffers
    uint64_t alloc_fail = 0;      // packets lost for want of a buffer, since the bind
    uint64_t packets = 0;         // since the bind
    uint64_t rules = 0;           // ours, now
    uint64_t rule_capacity = 0;
    bool intact = true;
    std::string why;            // it is not
    uint64_t landing_pool = 0;  // bytes
    uint64_t rebinds = 0;       // ever, after a reset or another tool's doing
  };
  std::vector<Nic> nics;
  uint64_t landing_pool = 0;  // bytes

  // Since the start, of all streams.
  struct Counters {
    uint64_t device_bytes = 0;  // payload that NICs wrote to device memory and a device moved on
    uint64_t host_bytes = 0;    // payload that came through host memory, copied by the CPU
    uint64_t linear_bytes = 0;  // of all that came through host memory, what a NIC did not split
    uint64_t head_bytes = 0;    // HTTP heads
    uint64_t fragments = 0;
    uint64_t tokens_outstanding = 0;
    uint64_t tokens_refused = 0;
    uint64_t receive_calls = 0;
    uint64_t return_calls = 0;
    uint64_t connections_steered = 0;
    uint64_t connections_fallen_back = 0;
    std::string last_fall_back;  // why
    std::map<std::string, uint64_t>
        fall_backs;  // connections by LabelOf() why, those that were steered and brought host bytes too
  } counters;
};

// Deadlines and retries of payload reads.
struct ReadPolicy {
  Duration connect_timeout = std::chrono::seconds(5);
  Duration first_byte_timeout = std::chrono::seconds(30);
  Duration stall_timeout = std::chrono::seconds(15);  // longest time without a byte
  int max_retries = 12;                               // in a row without a byte of progress; with this back-off 15 to 35 s
  Duration total_timeout = std::chrono::minutes(5);   // of one range, retries included
  Duration backoff_first = std::chrono::milliseconds(50);
  Duration backoff_max = std::chrono::seconds(5);
};

class RangeRead;
// A range failed and is tried again after `wait`, or it has failed for good (nullopt). On a worker's thread, so it must be
// quick; where a store is down it comes often.
using SayFailed = std::function<void(const RangeRead& read, const absl::Status& status, std::optional<Duration> wait)>;

class RangeRead {
 public:
  virtual ~RangeRead() = default;

  // Set before Start(). The store and the destinations' memory must outlive the read.
  const ObjectStore* store = nullptr;
  std::string object;
  std::string validator;     // of the listing; the read fails with kAborted if the object has another one
  uint64_t object_size = 0;  // of the listing
  uint64_t offset = 0;
  uint64_t length = 0;                   // sum of the destinations
  std::vector<DeviceSpan> destinations;  // in order; memory == nullptr discards
  ObjectPins* pins = nullptr;            // the stream's, and which of them is the object's: its ranges are of one version.
  size_t pin = 0;                        // null: this range's own
  bool require_zero_copy = false;        // fails with kFailedPrecondition when the CPU copied a byte of it
  std::string_view stream_id;            // whose read this is, and which of its reads: for logs
  uint64_t number = 0;

  // Results, valid in Done().
  absl::Status status;
  uint64_t received = 0;  // body bytes, repeats included
  uint64_t copied = 0;    // of these, moved by the CPU and not by a NIC and a device
  uint32_t requests = 0;
  uint32_t retries = 0;
  Time first_byte{};  // of the body; zero if none came

  // Called once, on the worker's thread, when nothing of this read touches its destinations any more.
  virtual void Done() = 0;

  // The worker's own state while the read is under way.
  void* transport_state = nullptr;
};

// What a transport leaves to the one of another process, so that its NICs stay as they are. Empty where it holds none.
struct TransportParts {
  struct Nic {
    HeldBinding binding;
    ExportedHandle landing;  // the pool that this NIC alone writes to
    UniqueFd dmabuf;         // made of it; another one would not be what is bound
  };
  std::vector<Nic> nics;
  // What was asked for when they were bound: a successor that is asked for something else can tell.
  std::vector<std::string> interfaces;
  uint64_t queues = 0;
  uint64_t landing_pool = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // As it stands now; asks NICs and kernel, so not for every read. Thread-safe.
  [[nodiscard]] virtual PathInfo path() = 0;
  // As path() last said, but for the counters, which are of now. Asks nobody, so that it may be called on a loop. Thread-safe.
  [[nodiscard]] virtual PathInfo last_path() { return path(); }
  [[nodiscard]] virtual size_t workers() const = 0;
  // Of all workers since the start. Costs no system call. Thread-safe.
  [[nodiscard]] virtual TransferTotals transfers() { return {}; }
  // The worker's loop; a stream's own work runs there too, beside its reads.
  [[nodiscard]] virtual Reactor& reactor(size_t worker) = 0;
  // Worker thread only. The read is the caller's and must live until Done().
  virtual void Start(size_t worker, RangeRead* read) = 0;
  // Worker thread only. Done() follows soon, with kCancelled unless it had ended already.
  virtual void Cancel(size_t worker, RangeRead* read) = 0;

  // Deadlines and retries, for every wait and every retry that begins from now on; also after GoOn(). From any thread, but not
  // while HandOver() or GoOn() runs.
  virtual void SetPolicy(const ReadPolicy& policy) = 0;

  // Whether HandOver() would do, and what it would give, without descriptors: for a successor to look at while this one still
  // serves.
  [[nodiscard]] virtual absl::StatusOr<TransportParts> OfferHandOver() { return TransportParts(); }
  // For a successor in another process: closes every connection, and gives duplicates of what there is to go on with. Every
  // read must be done, and none may start until GoOn(). On error too nothing is lost: GoOn().
  [[nodiscard]] virtual absl::StatusOr<TransportParts> HandOver() { return TransportParts(); }
  // There is no successor after all, or this is the one and the other has said that it will not go on: receives (again).
  [[nodiscard]] virtual absl::Status GoOn() { return absl::OkStatus(); }
  // The other one goes on: what both hold is left as it is, and nothing is undone at the end.
  virtual void Forget() {}
};

}  // namespace devmem
