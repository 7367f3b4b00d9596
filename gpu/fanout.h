// SPDX-License-Identifier: Apache-2.0
// Fanout: what one rank of a group read from the store, in the memory of all of them.
//
// The ranks of a group each make a Fanout with the same group, and then the same calls in the same order. Each call returns
// when it is over, and it is over for all ranks alike: OK means that every rank holds every byte. After an error nothing
// touches this rank's memory any more, its destination holds anything but for the bytes that the rank itself gave, and the
// Fanout is spent: every further call returns the same error. The first to fail (or to die, or to miss its deadline) ends it
// for all at once. A retry is a new Fanout, with whoever replaces the dead; as what a rank gives is never written to, its bytes
// are exact.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto fanout, MakeCpuFanout(rendezvous, {.group = {"weights", 4}, .rank = r}, Clock::now() + 10s));
//   DEVMEM_RETURN_IF_ERROR(fanout->AllGather({&slab, 0, 4 * n}, {&slab, r * n, n}, Clock::now() + 30s));  // in place
//
// Errors: kInvalidArgument, kOutOfRange: ranks that disagree, naming in what; a range outside its memory. kUnavailable: a rank
// left. kDeadlineExceeded: the ranks that did not come in time. Otherwise what Abort() was given.
//
// Threads: one at a time, but for Abort(), which any may call. Memory is borrowed until the call returns.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "gpu/device.h"
#include "gpu/rendezvous.h"

namespace devmem {

struct FanoutMember {
  FanoutGroup group;
  uint32_t rank = 0;
  std::string specification;  // of what is shared, such as a plan's hash: ranks with different ones refuse each other
};

class Fanout {
 public:
  virtual ~Fanout() = default;  // leaves the group: for the other ranks, this one is dead

  // The bytes of rank r's `source` at r * source.bytes of every rank's `destination`, which holds group.size times as many. In
  // place if `source` is that part of `destination`; they may not overlap otherwise. No bytes at all are fine.
  [[nodiscard]] virtual absl::Status AllGather(DeviceSpan destination, DeviceSpan source, Time deadline) = 0;

  // The bytes of the root's `span` in every other rank's.
  [[nodiscard]] virtual absl::Status Broadcast(DeviceSpan span, uint32_t root, Time deadline) = 0;

  // Ends it for all ranks, a call that is waiting included. `why` is an error, and what they all return.
  virtual void Abort(absl::Status why) = 0;
};

// What implementations share: the steps of a collective. They bring how to move bytes.
class FanoutSteps : public Fanout {
 public:
  FanoutSteps(FanoutMember member, std::unique_ptr<Rendezvous::Seat> seat)
      : member_(std::move(member)), seat_(std::move(seat)) {}
  absl::Status AllGather(DeviceSpan destination, DeviceSpan source, Time deadline) final;
  absl::Status Broadcast(DeviceSpan span, uint32_t root, Time deadline) final;
  void Abort(absl::Status why) final { (void)seat_->Fail(std::move(why)); }

 protected:
  struct Collective {
    bool broadcast = false;
    uint32_t root = 0;       // of a broadcast
    DeviceSpan destination;  // of a broadcast: on the root, the source
    DeviceSpan source;       // what this rank gives; of a broadcast: on others than the root, nothing
  };
  // A round in which all must be alike. On any error the attempt has failed, and this is why.
  [[nodiscard]] absl::StatusOr<FanoutCards> Agree(FanoutCard card, Time deadline);

  // What to show the others before the bytes move: fills in `local` or `payload`.
  [[nodiscard]] virtual absl::Status Offer(const Collective& /*collective*/, FanoutCard& /*card*/) { return absl::OkStatus(); }
  // Moves the bytes; they are in this rank's destination when it returns. Stops when the attempt fails, and at the deadline.
  [[nodiscard]] virtual absl::Status Move(const Collective& collective, const std::vector<FanoutCard>& cards,
                                          Time deadline) = 0;
  // This rank's memory is its caller's again: waits for whoever is still reading or writing it.
  [[nodiscard]] virtual absl::Status Settle(absl::Status status) = 0;

  const FanoutMember member_;
  const std::unique_ptr<Rendezvous::Seat> seat_;

 private:
  absl::Status Run(const Collective& collective, Time deadline);
  absl::Status Try(const Collective& collective, Time deadline);
};

}  // namespace devmem
