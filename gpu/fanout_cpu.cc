// SPDX-License-Identifier: Apache-2.0
#include "gpu/fanout_cpu.h"

#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

// A rank's memory for the others to read, until it takes it back: which waits for the copies under way, and a copy that comes
// after finds nothing. So a rank may die, and its memory be freed, at any time.
class Loan {
 public:
  explicit Loan(const std::byte* bytes) : bytes_(bytes) {}
  [[nodiscard]] bool Copy(std::byte* destination, uint64_t bytes) {
    std::shared_lock lock(mutex_);
    if (bytes_ == nullptr) return false;
    if (destination != bytes_) std::memcpy(destination, bytes_, bytes);
    return true;
  }
  void TakeBack() {
    std::unique_lock lock(mutex_);
    bytes_ = nullptr;
  }

 private:
  std::shared_mutex mutex_;
  const std::byte* bytes_;  // guarded by mutex_
};

class CpuFanout final : public FanoutSteps {
 public:
  using FanoutSteps::FanoutSteps;

  absl::Status Meet(Time deadline) {
    // As everybody's memory is lent by address: a rank of another process would come without its `local`.
    auto local = std::make_shared<Loan>(nullptr);
    DEVMEM_ASSIGN_OR_RETURN(
        const FanoutCards cards,
        Agree({.step = "join", .implementation = "cpu", .specification = member_.specification, .local = std::move(local)},
              deadline));
    for (size_t rank = 0; rank < cards->size(); ++rank) {
      if ((*cards)[rank].local != nullptr) continue;
      return seat_->Fail(Error(absl::StatusCode::kFailedPrecondition, "rank " + std::to_string(rank) + " is in another process",
                               "rank in another process", "share between processes on GPUs only"));
    }
    return absl::OkStatus();
  }

 protected:
  absl::Status Offer(const Collective& collective, FanoutCard& card) override {
    const std::byte* bytes = nullptr;
    if (collective.source.bytes > 0) {
      DEVMEM_ASSIGN_OR_RETURN(bytes, HostAddress(collective.source));
    }
    loan_ = std::make_shared<Loan>(bytes);
    card.local = loan_;
    return absl::OkStatus();
  }

  absl::Status Move(const Collective& collective, const std::vector<FanoutCard>& cards, Time /*deadline*/) override {
    DEVMEM_ASSIGN_OR_RETURN(std::byte* const to, HostAddress(collective.destination));
    const auto copy = [&](uint32_t from, uint64_t at, uint64_t bytes) {
      if (static_cast<Loan*>(cards[from].local.get())->Copy(to + at, bytes)) return absl::OkStatus();
      return Error(absl::StatusCode::kUnavailable, "rank " + std::to_string(from) + " took its memory back", "rank left",
                   "join again when it has been replaced");
    };
    if (collective.broadcast) return copy(collective.root, 0, collective.destination.bytes);
    for (uint32_t i = 0; i < member_.group.size; ++i) {
      const uint32_t from = (member_.rank + i) % member_.group.size;  // so that not all read rank 0 at once
      DEVMEM_RETURN_IF_ERROR(copy(from, from * collective.source.bytes, collective.source.bytes));
    }
    return absl::OkStatus();
  }

  absl::Status Settle(absl::Status status) override {
    if (loan_ != nullptr) loan_->TakeBack();
    loan_ = nullptr;
    return status;
  }

 private:
  absl::StatusOr<std::byte*> HostAddress(const DeviceSpan& span) const {
    const auto host = span.memory->HostSpan(span.offset, span.bytes);
    if (host.has_value()) return host->data();
    return Error(absl::StatusCode::kInvalidArgument, "rank " + std::to_string(member_.rank) + " gave memory of a GPU",
                 "memory not readable by the CPU", "report a bug with this message");
  }

  absl::Status Error(absl::StatusCode code, const std::string& message, std::string cause, std::string action) const {
    return MakeError(code, message,
                     {.object = "fan-out group " + member_.group.id, .cause = std::move(cause), .action = std::move(action)});
  }

  std::shared_ptr<Loan> loan_;  // while a call is under way
};

}  // namespace

absl::StatusOr<std::unique_ptr<Fanout>> MakeCpuFanout(Rendezvous& rendezvous, const FanoutMember& member, Time deadline) {
  DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<Rendezvous::Seat> seat, rendezvous.Join(member.group, member.rank));
  auto fanout = std::make_unique<CpuFanout>(member, std::move(seat));
  DEVMEM_RETURN_IF_ERROR(fanout->Meet(deadline));
  return std::unique_ptr<Fanout>(std::move(fanout));
}

}  // namespace devmem
