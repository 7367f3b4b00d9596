// SPDX-License-Identifier: Apache-2.0
#include "gpu/fanout_cpu.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <latch>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr uint32_t kSizes[] = {2, 4, 8};
constexpr uint64_t kByteCounts[] = {0, 1, 3, 4095, 4096, 65'537, (1 << 17) + 7};

// What a test would hang without; no test reaches it.
Time Far() { return Clock::now() + minutes(2); }

// One rank's memory, poisoned but for the rank's own bytes, which are random and the same whenever they are made.
class Slab {
 public:
  explicit Slab(uint64_t bytes) : memory_(*MakeCpuDevice()->Allocate(std::max<uint64_t>(bytes, 1), {.name = "fanout test"})) {
    std::ranges::fill(All(), std::byte{0xa5});
  }
  std::span<std::byte> All() { return *memory_->HostSpan(0, memory_->bytes()); }
  std::span<std::byte> At(uint64_t offset, uint64_t bytes) { return All().subspan(offset, bytes); }
  DeviceSpan Span(uint64_t offset, uint64_t bytes) { return {memory_.get(), offset, bytes}; }
  void Fill(uint32_t rank, uint64_t offset, uint64_t bytes) {
    std::ranges::copy(Expected(rank, bytes), At(offset, bytes).begin());
  }

  static std::vector<std::byte> Expected(uint32_t rank, uint64_t bytes) {
    std::mt19937_64 random(rank + 1);
    std::vector<std::byte> result(bytes);
    std::ranges::generate(result, [&] { return static_cast<std::byte>(random()); });
    return result;
  }
  // That every rank's bytes are in place, `bytes` of each from `offset` on.
  void ExpectGathered(uint32_t size, uint64_t offset, uint64_t bytes) {
    for (uint32_t rank = 0; rank < size; ++rank) {
      EXPECT_TRUE(std::ranges::equal(At(offset + rank * bytes, bytes), Expected(rank, bytes))) << "of rank " << rank;
    }
  }

 private:
  const std::shared_ptr<DeviceMemory> memory_;
};

template <typename Result>
std::vector<Result> OnRanks(uint32_t size, const std::function<Result(uint32_t)>& work) {
  std::vector<Result> results(size);
  {
    std::vector<std::jthread> threads;
    for (uint32_t rank = 0; rank < size; ++rank) threads.emplace_back([&, rank] { results[rank] = work(rank); });
  }
  return results;
}
std::vector<absl::Status> OnRanks(uint32_t size, const std::function<absl::Status(uint32_t)>& work) {
  return OnRanks<absl::Status>(size, work);
}

// A rendezvous at which `victim` dies, once all have a seat: it gives up its own, and none of its calls reaches anybody any
// more.
struct Death {
  int exchange = 0;  // 0: joining; of the first collective, 1: agreeing, 2: done
  bool after = false;
  friend void PrintTo(const Death& death, std::ostream* out) {
    *out << (death.after ? "after" : "before") << " exchange " << death.exchange;
  }
};
class DeadlyRendezvous final : public Rendezvous {
 public:
  DeadlyRendezvous(Rendezvous& real, uint32_t size, uint32_t victim, Death death)
      : real_(real), seated_(size), victim_(victim), death_(death) {}
  absl::StatusOr<std::unique_ptr<Seat>> Join(const FanoutGroup& group, uint32_t rank) override {
    DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<Seat> seat, real_.Join(group, rank));
    seated_.count_down();
    if (rank != victim_) return seat;
    seated_.wait();  // who comes when it is dead already would meet its replacement, and miss nothing
    return std::make_unique<DeadlySeat>(std::move(seat), death_);
  }
  void Fail(std::string_view id, absl::Status why) override { real_.Fail(id, std::move(why)); }

 private:
  class DeadlySeat final : public Seat {
   public:
    DeadlySeat(std::unique_ptr<Seat> real, Death death) : real_(std::move(real)), death_(death) {}
    uint64_t attempt() const override { return 0; }
    absl::StatusOr<FanoutCards> Exchange(FanoutCard card, Time deadline) override {
      const bool now = exchanges_++ == death_.exchange;
      absl::StatusOr<FanoutCards> cards = Dead();
      if (real_ != nullptr && !(now && !death_.after)) cards = real_->Exchange(std::move(card), deadline);
      if (now) {
        real_.reset();
        return Dead();
      }
      return cards;
    }
    absl::Status Watch(Time until) override { return real_ == nullptr ? Dead() : real_->Watch(until); }
    absl::Status Fail(absl::Status why) override { return real_ == nullptr ? Dead() : real_->Fail(std::move(why)); }

   private:
    static absl::Status Dead() { return absl::InternalError("dead"); }
    std::unique_ptr<Seat> real_;
    const Death death_;
    int exchanges_ = 0;
  };
  Rendezvous& real_;
  std::latch seated_;
  const uint32_t victim_;
  const Death death_;
};

class FanoutCpuTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Fanout>> Make(uint32_t size, uint32_t rank, Rendezvous* rendezvous = nullptr) {
    return MakeCpuFanout(rendezvous == nullptr ? *rendezvous_ : *rendezvous, {.group = {"weights", size}, .rank = rank}, Far());
  }
  const std::unique_ptr<Rendezvous> rendezvous_ = MakeLocalRendezvous();
};

TEST_F(FanoutCpuTest, AllGatherInPlaceAndNot) {
  for (const uint32_t size : kSizes) {
    EXPECT_THAT(
        OnRanks(size,
                [&](uint32_t rank) -> absl::Status {
                  DEVMEM_ASSIGN_OR_RETURN(auto fanout, Make(size, rank));
                  for (const uint64_t bytes : kByteCounts) {
                    const uint64_t at = 5;  // any alignment
                    Slab slab(at + size * bytes + 1);
                    slab.Fill(rank, at + rank * bytes, bytes);
                    DEVMEM_RETURN_IF_ERROR(
                        fanout->AllGather(slab.Span(at, size * bytes), slab.Span(at + rank * bytes, bytes), Far()));
                    slab.ExpectGathered(size, at, bytes);
                    EXPECT_EQ(slab.All()[0], std::byte{0xa5});
                    EXPECT_EQ(slab.All()[at + size * bytes], std::byte{0xa5});

                    Slab source(bytes);
                    Slab apart(size * bytes + 1);
                    source.Fill(rank, 0, bytes);
                    DEVMEM_RETURN_IF_ERROR(fanout->AllGather(apart.Span(0, size * bytes), source.Span(0, bytes), Far()));
                    apart.ExpectGathered(size, 0, bytes);
                    EXPECT_EQ(apart.All()[size * bytes], std::byte{0xa5});
                  }
                  return fanout->AllGather({}, {}, Far());  // no memory at all
                }),
        Each(absl::OkStatus()));
  }
}

TEST_F(FanoutCpuTest, BroadcastFromEveryRoot) {
  for (const uint32_t size : kSizes) {
    EXPECT_THAT(OnRanks(size,
                        [&](uint32_t rank) -> absl::Status {
                          DEVMEM_ASSIGN_OR_RETURN(auto fanout, Make(size, rank));
                          for (const uint64_t bytes : kByteCounts) {
                            for (uint32_t root = 0; root < size; ++root) {
                              Slab slab(3 + bytes + 1);
                              if (rank == root) slab.Fill(root, 3, bytes);
                              DEVMEM_RETURN_IF_ERROR(fanout->Broadcast(slab.Span(3, bytes), root, Far()));
                              EXPECT_TRUE(std::ranges::equal(slab.At(3, bytes), Slab::Expected(root, bytes)));
                              EXPECT_EQ(slab.All()[2], std::byte{0xa5});
                              EXPECT_EQ(slab.All()[3 + bytes], std::byte{0xa5});
                            }
                          }
                          return absl::OkStatus();
                        }),
                Each(absl::OkStatus()));
  }
}

// What a rank saw: how joining and two collectives ended, until the first that failed; then how it went with a replacement.
struct Outcome {
  std::vector<absl::Status> calls;
  absl::Status retry;
};

class FanoutDeathTest : public FanoutCpuTest, public testing::WithParamInterface<Death> {};

TEST_P(FanoutDeathTest, OthersAreToldAndARetryDeliversEveryByte) {
  const Death death = GetParam();
  constexpr uint64_t kBytes = 100'003;
  for (const uint32_t size : kSizes) {
    const uint32_t victim = size / 2;
    DeadlyRendezvous deadly(*rendezvous_, size, victim, death);
    const auto attempt = [&](uint32_t rank, Slab& slab, Rendezvous& rendezvous) {
      std::vector<absl::Status> calls;
      auto fanout = Make(size, rank, &rendezvous);
      calls.push_back(fanout.status());
      while (calls.back().ok() && calls.size() < 3) {
        calls.push_back((*fanout)->AllGather(slab.Span(0, size * kBytes), slab.Span(rank * kBytes, kBytes), Far()));
      }
      return calls;
    };
    const auto outcomes = OnRanks<Outcome>(size, [&](uint32_t rank) {
      auto slab = std::make_unique<Slab>(size * kBytes);
      slab->Fill(rank, rank * kBytes, kBytes);
      Outcome outcome;
      outcome.calls = attempt(rank, *slab, deadly);
      if (rank == victim) {  // its memory goes with it; another takes its place
        slab = std::make_unique<Slab>(size * kBytes);
        slab->Fill(rank, rank * kBytes, kBytes);
      }
      outcome.retry = attempt(rank, *slab, *rendezvous_).back();
      slab->ExpectGathered(size, 0, kBytes);
      return outcome;
    });
    // The call in which the victim dies fails for all; who dies between calls, or when all is done, is missed in the next.
    const size_t fails = death.exchange == 0 ? (death.after ? 1 : 0) : (death.exchange == 2 && death.after ? 2 : 1);
    for (uint32_t rank = 0; rank < size; ++rank) {
      EXPECT_EQ(outcomes[rank].retry, absl::OkStatus());
      if (rank == victim) continue;
      ASSERT_EQ(outcomes[rank].calls.size(), fails + 1) << outcomes[rank].calls.back();
      EXPECT_EQ(outcomes[rank].calls.back().code(), absl::StatusCode::kUnavailable) << outcomes[rank].calls.back();
      EXPECT_THAT(Text(outcomes[rank].calls.back()), HasSubstr("rank " + std::to_string(victim)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AtEveryStep, FanoutDeathTest,
                         testing::Values(Death{0, false}, Death{0, true}, Death{1, false}, Death{1, true}, Death{2, false},
                                         Death{2, true}));

TEST_F(FanoutCpuTest, ARankThatNeverCameIsReportedByWhoKnows) {
  // Counts who took a seat.
  class Counting final : public Rendezvous {
   public:
    Counting(Rendezvous& real, std::latch& seated) : real_(real), seated_(seated) {}
    absl::StatusOr<std::unique_ptr<Seat>> Join(const FanoutGroup& group, uint32_t rank) override {
      auto seat = real_.Join(group, rank);
      seated_.count_down();
      return seat;
    }
    void Fail(std::string_view id, absl::Status why) override { real_.Fail(id, std::move(why)); }

   private:
    Rendezvous& real_;
    std::latch& seated_;
  };
  std::latch seated(3);
  Counting counting(*rendezvous_, seated);
  absl::Status gone = absl::UnavailableError("rank 3's process is gone");
  EXPECT_THAT(OnRanks(4,
                      [&](uint32_t rank) {
                        if (rank < 3) return Make(4, rank, &counting).status();
                        seated.wait();
                        counting.Fail("no such group", absl::InternalError("not this one"));
                        counting.Fail("weights", gone);
                        return gone;
                      }),
              Each(gone));
}

TEST_F(FanoutCpuTest, ALateRankIsNamedToAllThatWaited) {
  std::latch told(3);
  const auto statuses = OnRanks(4, [&](uint32_t rank) -> absl::Status {
    DEVMEM_ASSIGN_OR_RETURN(auto fanout, Make(4, rank));
    Slab slab(16);
    if (rank == 2) told.wait();
    absl::Status status = fanout->Broadcast(slab.Span(0, 16), 0, rank == 2 ? Far() : Clock::now() + milliseconds(100));
    if (rank != 2) told.count_down();
    EXPECT_EQ(fanout->Broadcast(slab.Span(0, 16), 0, Far()), status) << "spent";
    return status;
  });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Text(statuses[0]), testing::ContainsRegex("for ranks ([013], )*2"));
  EXPECT_THAT(statuses, Each(statuses[0]));
}

TEST_F(FanoutCpuTest, AbortEndsACallThatWaits) {
  std::latch joined(2);
  const absl::Status why = absl::CancelledError("the trainer is gone");
  std::optional<std::unique_ptr<Fanout>> waiting;
  EXPECT_THAT(OnRanks(2,
                      [&](uint32_t rank) -> absl::Status {
                        DEVMEM_ASSIGN_OR_RETURN(auto fanout, Make(2, rank));
                        Fanout& mine = *fanout;
                        if (rank == 0) waiting = std::move(fanout);
                        joined.arrive_and_wait();
                        if (rank == 1) (*waiting)->Abort(why);  // of the other rank's, from this thread
                        return mine.Broadcast({}, 0, Far());
                      }),
              Each(why));
}

TEST_F(FanoutCpuTest, RanksThatDisagreeAreToldInWhat) {
  struct Row {
    const char* what;
    std::function<absl::Status(Fanout&, Slab&, bool odd)> call;
    absl::StatusCode code;
    const char* message;
  };
  const Row rows[] = {
      {"kind",
       [](Fanout& fanout, Slab& slab, bool odd) {
         return odd ? fanout.Broadcast(slab.Span(0, 8), 0, Far()) : fanout.AllGather(slab.Span(0, 32), slab.Span(40, 8), Far());
       },
       absl::StatusCode::kInvalidArgument, "step differs: rank 0 says all-gather, rank 3 says broadcast"},
      {"bytes", [](Fanout& fanout, Slab& slab, bool odd) { return fanout.Broadcast(slab.Span(0, odd ? 7 : 8), 0, Far()); },
       absl::StatusCode::kInvalidArgument, "bytes differs: rank 0 says 8, rank 3 says 7"},
      {"root", [](Fanout& fanout, Slab& slab, bool odd) { return fanout.Broadcast(slab.Span(0, 8), odd ? 1 : 0, Far()); },
       absl::StatusCode::kInvalidArgument, "root differs: rank 0 says 0, rank 3 says 1"},
      {"no such root",
       [](Fanout& fanout, Slab& slab, bool odd) { return fanout.Broadcast(slab.Span(0, 8), odd ? 4 : 0, Far()); },
       absl::StatusCode::kInvalidArgument, "rank 3: the root 4 is no rank"},
      {"too small a destination",
       [](Fanout& fanout, Slab& slab, bool odd) {
         return fanout.AllGather(slab.Span(0, odd ? 31 : 32), slab.Span(40, 8), Far());
       },
       absl::StatusCode::kInvalidArgument, "rank 3: a destination of 31 bytes for 4 times 8"},
      {"overlap",
       [](Fanout& fanout, Slab& slab, bool odd) {
         return fanout.AllGather(slab.Span(0, 32), slab.Span(odd ? 25 : 40, 8), Far());
       },
       absl::StatusCode::kInvalidArgument, "rank 3: source and destination overlap"},
      {"outside memory",
       [](Fanout& fanout, Slab& slab, bool odd) { return fanout.Broadcast(slab.Span(odd ? 41 : 40, 8), 0, Far()); },
       absl::StatusCode::kOutOfRange, "rank 3's destination leaves its memory of 48 bytes"},
  };
  for (const Row& row : rows) {
    const auto statuses = OnRanks(4, [&](uint32_t rank) -> absl::Status {
      DEVMEM_ASSIGN_OR_RETURN(auto fanout, Make(4, rank));
      Slab slab(48);
      return row.call(*fanout, slab, rank == 3);
    });
    EXPECT_EQ(statuses[0].code(), row.code) << row.what;
    EXPECT_THAT(Text(statuses[0]), HasSubstr(row.message)) << row.what;
    EXPECT_THAT(statuses, Each(statuses[0])) << row.what;
  }
}

TEST_F(FanoutCpuTest, RanksThatShouldNotMeetDoNot) {
  const auto specifications = OnRanks(2, [&](uint32_t rank) {
    return MakeCpuFanout(*rendezvous_, {{"weights", 2}, rank, rank == 0 ? "plan 1" : "plan 2"}, Far()).status();
  });
  EXPECT_EQ(specifications[0].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(specifications[0]), HasSubstr("specification differs: rank 0 says plan 1, rank 1 says plan 2"));
  EXPECT_THAT(specifications, Each(specifications[0]));

  auto seat = rendezvous_->Join({"weights", 2}, 1);
  ASSERT_TRUE(seat.ok());
  EXPECT_THAT(Text(Make(2, 2).status()), HasSubstr("there is no rank 2 among 2"));
  EXPECT_THAT(Text(Make(0, 0).status()), HasSubstr("there is no rank 0 among 0"));
  EXPECT_EQ(Make(2, 1).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ((*seat)->Watch(Clock::now()), absl::OkStatus()) << "none of these hurt who is there";
  const absl::Status size = Make(4, 3).status();
  EXPECT_THAT(Text(size), HasSubstr("size differs: rank 3 says 4, those before it say 2"));
  EXPECT_EQ((*seat)->Watch(Far()), size);

  // The next attempt's ranks do not meet the failed one's, in whatever order those leave.
  auto next = rendezvous_->Join({"weights", 2}, 1);
  ASSERT_TRUE(next.ok());
  EXPECT_GT((*next)->attempt(), (*seat)->attempt());
  next->reset();
  seat->reset();

  auto foreign = rendezvous_->Join({"weights", 2}, 1);
  ASSERT_TRUE(foreign.ok());
  const auto mixed = OnRanks(2, [&](uint32_t rank) {
    if (rank == 0) return Make(2, 0).status();
    EXPECT_TRUE((*foreign)->Exchange({.step = "join", .implementation = "cpu"}, Far()).ok());
    return (*foreign)->Watch(Far());
  });
  EXPECT_THAT(Text(mixed[0]), HasSubstr("rank 1 is in another process"));
  EXPECT_THAT(mixed, Each(mixed[0]));
}

TEST_F(FanoutCpuTest, TwoGroupsDoNotDisturbEachOther) {
  constexpr uint64_t kBytes = 4099;
  std::latch dead(1);
  const auto statuses = OnRanks(8, [&](uint32_t thread) -> absl::Status {
    const uint32_t rank = thread / 2;
    const bool doomed = thread % 2 == 1;
    DEVMEM_ASSIGN_OR_RETURN(auto fanout,
                            MakeCpuFanout(*rendezvous_, {.group = {doomed ? "doomed" : "well", 4}, .rank = rank}, Far()));
    Slab slab(4 * kBytes);
    slab.Fill(rank, rank * kBytes, kBytes);
    for (int i = 0; i < 20; ++i) {
      if (doomed && rank == 0 && i == 10) {
        fanout.reset();
        dead.count_down();
        return absl::OkStatus();
      }
      if (!doomed && i == 10) dead.wait();
      DEVMEM_RETURN_IF_ERROR(fanout->AllGather(slab.Span(0, 4 * kBytes), slab.Span(rank * kBytes, kBytes), Far()));
      slab.ExpectGathered(4, 0, kBytes);
    }
    return absl::OkStatus();
  });
  for (uint32_t thread = 0; thread < 8; ++thread) {
    const bool left_alone = thread % 2 == 1 && thread != 1;
    EXPECT_EQ(statuses[thread].code(), left_alone ? absl::StatusCode::kUnavailable : absl::StatusCode::kOk) << statuses[thread];
  }
}

}  // namespace
}  // namespace devmem
