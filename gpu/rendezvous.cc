// SPDX-License-Identifier: Apache-2.0
#include "gpu/rendezvous.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

absl::Status GroupError(absl::StatusCode code, const FanoutGroup& group, std::string_view message, std::string cause,
                        std::string action) {
  return MakeError(code, message,
                   {.object = "fan-out group " + group.id, .cause = std::move(cause), .action = std::move(action)});
}

// One lock for all of it: it is held to move cards, never while bytes are copied.
class LocalRendezvous final : public Rendezvous {
 public:
  absl::StatusOr<std::unique_ptr<Seat>> Join(const FanoutGroup& group, uint32_t rank) override {
    if (rank >= group.size) {
      return GroupError(absl::StatusCode::kInvalidArgument, group,
                        "there is no rank " + std::to_string(rank) + " among " + std::to_string(group.size), "no such rank",
                        "number the ranks from 0");
    }
    std::lock_guard lock(mutex_);
    std::shared_ptr<Attempt>& open = open_[group.id];
    if (open == nullptr || !open->failure.ok()) open = std::make_shared<Attempt>(group, ++last_attempt_);
    if (open->group.size != group.size) {
      return FailLocked(*open, GroupError(absl::StatusCode::kInvalidArgument, group,
                                          "size differs: rank " + std::to_string(rank) + " says " + std::to_string(group.size) +
                                              ", those before it say " + std::to_string(open->group.size),
                                          "specifications differ", "start every rank with the same specification"));
    }
    if (open->taken[rank]) {
      return GroupError(absl::StatusCode::kAlreadyExists, group,
                        "rank " + std::to_string(rank) + " is already in attempt " + std::to_string(open->number), "rank taken",
                        "give every rank another number, or end the other one first");
    }
    open->taken[rank] = true;
    ++open->seats;
    return std::make_unique<LocalSeat>(*this, open, rank);
  }

  void Fail(std::string_view id, absl::Status why) override {
    std::lock_guard lock(mutex_);
    if (const auto found = open_.find(id); found != open_.end()) FailLocked(*found->second, std::move(why));
  }

 private:
  // Guarded by mutex_.
  struct Attempt {
    Attempt(FanoutGroup of, uint64_t n)
        : group(std::move(of)), number(n), taken(group.size), here(group.size), cards(group.size) {}
    const FanoutGroup group;
    const uint64_t number;
    std::condition_variable changed;
    absl::Status failure;
    std::vector<bool> taken;
    uint32_t seats = 0;
    // The round that is gathering its cards, and the one before it. That one cannot be replaced before all have taken it.
    uint64_t round = 0;
    std::vector<bool> here;
    uint32_t arrived = 0;
    std::vector<FanoutCard> cards;
    FanoutCards complete;
  };

  class LocalSeat final : public Seat {
   public:
    LocalSeat(LocalRendezvous& rendezvous, std::shared_ptr<Attempt> attempt, uint32_t rank)
        : rendezvous_(rendezvous), attempt_(std::move(attempt)), rank_(rank) {}
    LocalSeat(const LocalSeat&) = delete;
    LocalSeat& operator=(const LocalSeat&) = delete;
    ~LocalSeat() override { rendezvous_.Leave(*attempt_, rank_); }

    uint64_t attempt() const override { return attempt_->number; }
    absl::StatusOr<FanoutCards> Exchange(FanoutCard card, Time deadline) override {
      return rendezvous_.Exchange(*attempt_, rank_, std::move(card), deadline);
    }
    absl::Status Watch(Time until) override {
      std::unique_lock lock(rendezvous_.mutex_);
      attempt_->changed.wait_until(lock, until, [&] { return !attempt_->failure.ok(); });
      return attempt_->failure;
    }
    absl::Status Fail(absl::Status why) override {
      std::lock_guard lock(rendezvous_.mutex_);
      return FailLocked(*attempt_, std::move(why));
    }

   private:
    LocalRendezvous& rendezvous_;
    const std::shared_ptr<Attempt> attempt_;
    const uint32_t rank_;
  };

  absl::StatusOr<FanoutCards> Exchange(Attempt& attempt, uint32_t rank, FanoutCard card, Time deadline) {
    std::unique_lock lock(mutex_);
    if (!attempt.failure.ok()) return attempt.failure;
    attempt.cards[rank] = std::move(card);
    attempt.here[rank] = true;
    if (++attempt.arrived == attempt.group.size) {
      attempt.complete = std::make_shared<const std::vector<FanoutCard>>(std::move(attempt.cards));
      attempt.cards = std::vector<FanoutCard>(attempt.group.size);
      attempt.here.assign(attempt.group.size, false);
      attempt.arrived = 0;
      ++attempt.round;
      attempt.changed.notify_all();
      return attempt.complete;
    }
    const uint64_t round = attempt.round;
    attempt.changed.wait_until(lock, deadline, [&] { return attempt.round != round || !attempt.failure.ok(); });
    if (attempt.round != round) return attempt.complete;  // also if someone left since
    if (!attempt.failure.ok()) return attempt.failure;
    std::string missing;
    for (uint32_t other = 0; other < attempt.group.size; ++other) {
      if (!attempt.here[other]) missing += (missing.empty() ? "" : ", ") + std::to_string(other);
    }
    return FailLocked(attempt, GroupError(absl::StatusCode::kDeadlineExceeded, attempt.group,
                                          "rank " + std::to_string(rank) + " waited until its deadline in attempt " +
                                              std::to_string(attempt.number) + " for ranks " + missing,
                                          "ranks late", "look at what those ranks do; then join again"));
  }

  void Leave(Attempt& attempt, uint32_t rank) {
    std::lock_guard lock(mutex_);
    FailLocked(attempt, GroupError(absl::StatusCode::kUnavailable, attempt.group,
                                   "rank " + std::to_string(rank) + " left attempt " + std::to_string(attempt.number),
                                   "rank left", "join again when it has been replaced"));
    if (--attempt.seats > 0) return;
    const auto found = open_.find(attempt.group.id);
    if (found != open_.end() && found->second.get() == &attempt) open_.erase(found);
  }

  static const absl::Status& FailLocked(Attempt& attempt, absl::Status why) {
    if (attempt.failure.ok()) {
      attempt.failure = std::move(why);
      attempt.changed.notify_all();
    }
    return attempt.failure;
  }

  std::mutex mutex_;
  // Guarded by mutex_.
  uint64_t last_attempt_ = 0;
  std::map<std::string, std::shared_ptr<Attempt>, std::less<>> open_;  // by group, until its last seat is given up
};

}  // namespace

absl::Status CheckAlike(const FanoutGroup& group, const std::vector<FanoutCard>& cards) {
  struct Field {
    std::string_view name;
    std::string (*value)(const FanoutCard&);
  };
  static constexpr Field kFields[] = {
      {"step", [](const FanoutCard& card) { return card.step; }},
      {"implementation", [](const FanoutCard& card) { return card.implementation; }},
      {"specification", [](const FanoutCard& card) { return card.specification; }},
      {"bytes", [](const FanoutCard& card) { return std::to_string(card.bytes); }},
      {"root", [](const FanoutCard& card) { return std::to_string(card.root); }},
  };
  for (const Field& field : kFields) {
    for (size_t rank = 1; rank < cards.size(); ++rank) {
      const std::string first = field.value(cards[0]);
      const std::string other = field.value(cards[rank]);
      if (first == other) continue;
      std::string message(field.name);
      message.append(" differs: rank 0 says ").append(first);
      message.append(", rank ").append(std::to_string(rank)).append(" says ").append(other);
      return GroupError(absl::StatusCode::kInvalidArgument, group, message, "specifications differ",
                        "start every rank with the same specification");
    }
  }
  return absl::OkStatus();
}

std::unique_ptr<Rendezvous> MakeLocalRendezvous() { return std::make_unique<LocalRendezvous>(); }

}  // namespace devmem
