// SPDX-License-Identifier: Apache-2.0
// What is counted where bytes move: a number or a histogram that one thread writes and any thread reads. Writing is a load and
// a store of the writer's own cache line, without a lock or a locked instruction; who wants a total sums over the writers.
//
//   struct WorkerCounters { Count requests; LatencyHistogram first_byte; };   // one a worker
//   counters.requests.Add(1);                        // its thread
//   counters.first_byte.Observe(Clock::now() - asked);
//   sum += counters.requests.get();                  // any thread: never more than was counted, perhaps a moment old
//
// Threads: one writer at a time (successive writers must be ordered by what hands the object over), any readers.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace devmem {

class Count {
 public:
  void Add(uint64_t by) { value_.store(value_.load(std::memory_order_relaxed) + by, std::memory_order_relaxed); }
  [[nodiscard]] uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Latencies between a memory's and a timeout's: two or three bounds a decade, the last bucket has none.
class LatencyHistogram {
 public:
  static constexpr std::array<Duration, 17> kBounds = {
      std::chrono::microseconds(50),  std::chrono::microseconds(100), std::chrono::microseconds(250),
      std::chrono::microseconds(500), std::chrono::milliseconds(1),   std::chrono::microseconds(2500),
      std::chrono::milliseconds(5),   std::chrono::milliseconds(10),  std::chrono::milliseconds(25),
      std::chrono::milliseconds(50),  std::chrono::milliseconds(100), std::chrono::milliseconds(250),
      std::chrono::milliseconds(500), std::chrono::seconds(1),        std::chrono::milliseconds(2500),
      std::chrono::seconds(10),       std::chrono::seconds(30),
  };

  // A sum over writers. counts[i] of them took longer than kBounds[i - 1] and no longer than kBounds[i].
  struct Totals {
    std::array<uint64_t, kBounds.size() + 1> counts{};
    uint64_t nanoseconds = 0;

    Totals& operator+=(const LatencyHistogram& histogram) {
      for (size_t i = 0; i < counts.size(); ++i) counts[i] += histogram.counts_[i].get();
      nanoseconds += histogram.nanoseconds_.get();
      return *this;
    }
  };

  // Below 0, which a stamp that is a moment early can give, counts as 0.
  void Observe(Duration took) {
    if (took < Duration::zero()) took = Duration::zero();
    size_t bucket = 0;
    while (bucket < kBounds.size() && took > kBounds[bucket]) ++bucket;
    counts_[bucket].Add(1);
    nanoseconds_.Add(static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(took).count()));
  }

 private:
  std::array<Count, kBounds.size() + 1> counts_;
  Count nanoseconds_;
};

}  // namespace devmem
