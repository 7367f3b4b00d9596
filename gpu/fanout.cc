// SPDX-License-Identifier: Apache-2.0
// A collective, on each rank:
//
//  1. Check what can be checked here. A rank that cannot take part says so to all, so that nobody waits for it.
//  2. Agree: every rank shows what it is about to do. If two differ, all return that.
//  3. Move the bytes.
//  4. Done: every rank says that it holds them. Only now may a rank return: until here others may read its memory, and until
//     here any rank's failure is everybody's.
//  5. Settle: after a failure in 1 to 4, wait until nothing touches this rank's memory.
#include "gpu/fanout.h"

#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

absl::Status CheckSpan(const FanoutMember& member, std::string_view what, const DeviceSpan& span) {
  if (span.bytes == 0) return absl::OkStatus();
  const uint64_t size = span.memory == nullptr ? 0 : span.memory->bytes();
  if (span.offset <= size && span.bytes <= size - span.offset) return absl::OkStatus();
  return MakeError(absl::StatusCode::kOutOfRange,
                   "rank " + std::to_string(member.rank) + "'s " + std::string(what) + " leaves its memory of " +
                       std::to_string(size) + " bytes",
                   {.object = "fan-out group " + member.group.id,
                    .offset = span.offset,
                    .length = span.bytes,
                    .cause = "range outside memory",
                    .action = "report a bug with this message"});
}

}  // namespace

absl::StatusOr<FanoutCards> FanoutSteps::Agree(FanoutCard card, Time deadline) {
  DEVMEM_ASSIGN_OR_RETURN(FanoutCards cards, seat_->Exchange(std::move(card), deadline));
  if (absl::Status status = CheckAlike(member_.group, *cards); !status.ok()) return seat_->Fail(std::move(status));
  return cards;
}

absl::Status FanoutSteps::AllGather(DeviceSpan destination, DeviceSpan source, Time deadline) {
  return Run({.destination = destination, .source = source}, deadline);
}

absl::Status FanoutSteps::Broadcast(DeviceSpan span, uint32_t root, Time deadline) {
  return Run({.broadcast = true, .root = root, .destination = span, .source = root == member_.rank ? span : DeviceSpan{}},
             deadline);
}

absl::Status FanoutSteps::Run(const Collective& collective, Time deadline) {
  absl::Status status = Try(collective, deadline);
  // The first failure of any rank is the one that all return.
  if (!status.ok()) status = seat_->Fail(std::move(status));
  return Settle(std::move(status));
}

absl::Status FanoutSteps::Try(const Collective& collective, Time deadline) {
  const auto refuse = [this](std::string_view why) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, "rank " + std::to_string(member_.rank) + ": " + std::string(why),
        {.object = "fan-out group " + member_.group.id, .cause = "bad fan-out", .action = "report a bug with this message"});
  };
  const DeviceSpan& to = collective.destination;
  const DeviceSpan& from = collective.source;
  DEVMEM_RETURN_IF_ERROR(CheckSpan(member_, "destination", to));
  DEVMEM_RETURN_IF_ERROR(CheckSpan(member_, "source", from));
  FanoutCard card{.step = "broadcast", .bytes = to.bytes, .root = collective.root};
  if (collective.broadcast) {
    if (collective.root >= member_.group.size) return refuse("the root " + std::to_string(collective.root) + " is no rank");
  } else {
    card.step = "all-gather";
    card.bytes = from.bytes;
    if (to.bytes / member_.group.size != from.bytes || to.bytes % member_.group.size != 0) {
      return refuse("a destination of " + std::to_string(to.bytes) + " bytes for " + std::to_string(member_.group.size) +
                    " times " + std::to_string(from.bytes));
    }
    const bool in_place = from.offset == to.offset + (member_.rank * from.bytes);
    const bool apart = from.offset >= to.offset + to.bytes || to.offset >= from.offset + from.bytes;
    if (to.memory == from.memory && !in_place && !apart) return refuse("source and destination overlap, and not in place");
  }
  DEVMEM_RETURN_IF_ERROR(Offer(collective, card));
  DEVMEM_ASSIGN_OR_RETURN(const FanoutCards cards, Agree(std::move(card), deadline));
  if (to.bytes > 0) DEVMEM_RETURN_IF_ERROR(Move(collective, *cards, deadline));
  return Agree({.step = "done"}, deadline).status();
}

}  // namespace devmem
