// SPDX-License-Identifier: Apache-2.0
// Rendezvous: where the ranks of a fan-out meet on the host, compare what they are about to do and learn of each other's death.
//
//   Rendezvous  hands out seats. One attempt of a group is open at a time; it ends at its first failure, for all its ranks
//   alike,
//               and whoever takes a seat after that sits in the next attempt. So ranks need not agree on how often they tried.
//   Seat        one rank's place in one attempt. Giving it up (destruction) fails the attempt for those who still sit in it.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto seat, rendezvous->Join({.id = "weights", .size = 4}, rank));
//   DEVMEM_ASSIGN_OR_RETURN(auto cards, seat->Exchange({.step = "join"}, Clock::now() + 10s));  // cards->at(r) is rank r's
//
// Threads: a Rendezvous is thread-safe and outlives its seats. A seat belongs to one thread, but for Fail(), which any may
// call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace devmem {

struct FanoutGroup {
  std::string id;     // the same on all its ranks, and no other group's
  uint32_t size = 0;  // ranks; they are numbered from 0
};

// What a rank shows the others in a round. All but `payload` and `local` must be alike on every rank (CheckAlike).
struct FanoutCard {
  std::string step;            // what this round is: "join", "all-gather", "broadcast", "done"
  std::string implementation;  // what moves the bytes: "cpu", "nccl 2.28.9"
  std::string specification;   // the caller's word for what is shared; empty if it has none
  uint64_t bytes = 0;          // that a rank gives to each other
  uint32_t root = 0;           // of a broadcast
  std::string payload;
  std::shared_ptr<void> local;  // what cannot leave the process; null from a rank in another one
};
using FanoutCards = std::shared_ptr<const std::vector<FanoutCard>>;  // by rank, never null

// kInvalidArgument that names the field, the ranks and both values if two cards disagree in what must be alike.
[[nodiscard]] absl::Status CheckAlike(const FanoutGroup& group, const std::vector<FanoutCard>& cards);

class Rendezvous {
 public:
  class Seat {
   public:
    virtual ~Seat() = default;                           // fails the attempt with kUnavailable "rank N left"
    [[nodiscard]] virtual uint64_t attempt() const = 0;  // never the same for two attempts of a rendezvous

    // A round: waits for a card of every rank. It succeeds for all of them or for none. Otherwise the reason for which the
    // attempt failed, which is kDeadlineExceeded with the ranks that did not come when the first deadline of any rank passes.
    [[nodiscard]] virtual absl::StatusOr<FanoutCards> Exchange(FanoutCard card, Time deadline) = 0;

    // Waits until the attempt fails, and says why; OK at `until`.
    [[nodiscard]] virtual absl::Status Watch(Time until) = 0;

    // Fails the attempt for all its ranks, unless it has failed; the first reason is the one that stays, and is returned.
    // `why` is an error.
    virtual absl::Status Fail(absl::Status why) = 0;
  };

  virtual ~Rendezvous() = default;

  // Takes `rank`'s seat in the group's open attempt; does not wait. kInvalidArgument for no rank of the group, or a size that
  // is not the others' (which fails the attempt for them too); kAlreadyExists if the seat is taken.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Seat>> Join(const FanoutGroup& group, uint32_t rank) = 0;

  // Fails the group's open attempt, if it has one: for who knows that a rank will not come, as it cannot say so itself.
  virtual void Fail(std::string_view id, absl::Status why) = 0;
};

// Between threads of one process.
[[nodiscard]] std::unique_ptr<Rendezvous> MakeLocalRendezvous();

}  // namespace devmem
