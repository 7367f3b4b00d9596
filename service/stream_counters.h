// SPDX-License-Identifier: Apache-2.0
// What streams did, counted on the loops they live on: one StreamCounters a worker, written by its thread alone. Streams end,
// these stay.
//
//   NodeCounters node;
//   setup.counters = &node.OfWorker(home);                 // any thread
//   counters.delivered[...][...].batches.Add(1);           // the loop
//   StreamTotals totals = node.Sum();                      // any thread
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string_view>

#include "base/counters.h"
#include "net/transfer_counters.h"

namespace devmem {

// How bytes came into the slab.
enum class BytePath : uint8_t {
  kDevmem,  // a NIC wrote them to device memory, and a device moved them on
  kCopy,    // the CPU copied them; of a batch: some of it at least
};
inline constexpr size_t kBytePaths = 2;
inline constexpr size_t kFormats = 4;       // DatasetFormat
inline constexpr size_t kStatusCodes = 17;  // absl::StatusCode

enum class StallCause : uint8_t { kTrainer, kNetwork, kFirstByte, kDevice, kMemory };  // as devmem_loader.v1.Stall
inline constexpr size_t kStallCauses = 5;

[[nodiscard]] constexpr std::string_view Name(BytePath path) { return path == BytePath::kDevmem ? "devmem" : "copy"; }
[[nodiscard]] constexpr std::string_view Name(StallCause cause) {
  constexpr std::array<std::string_view, kStallCauses> kNames = {"trainer", "network", "first_byte", "device", "memory"};
  return kNames[Index(cause)];
}

struct StreamCounters {
  struct Delivered {
    Count batches;
    Count samples;
    Count bytes;
  };
  std::array<std::array<Delivered, kFormats>, kBytePaths> delivered;
  Count skipped_samples;
  std::array<Count, kStallCauses> stall_microseconds;
  Count credits_taken;     // batches delivered
  Count credits_back;      // and released, or given up with their stream
  LatencyHistogram batch;  // from when its slot was taken until all of it was there

  // By kind of store.
  std::array<std::array<Count, kStoreKinds>, kBytePaths> received_bytes;
  std::array<Count, kStoreKinds> requests;
  std::array<std::array<Count, kStatusCodes>, kStoreKinds> errors;  // of ranges that failed for good
  std::array<LatencyHistogram, kStoreKinds> range;                  // from being planned until all its bytes were in place
};

struct StreamTotals {
  struct Delivered {
    uint64_t batches = 0;
    uint64_t samples = 0;
    uint64_t bytes = 0;
  };
  std::array<std::array<Delivered, kFormats>, kBytePaths> delivered{};
  uint64_t skipped_samples = 0;
  std::array<uint64_t, kStallCauses> stall_microseconds{};
  uint64_t credits_taken = 0;
  uint64_t credits_back = 0;
  LatencyHistogram::Totals batch;
  std::array<std::array<uint64_t, kStoreKinds>, kBytePaths> received_bytes{};
  std::array<uint64_t, kStoreKinds> requests{};
  std::array<std::array<uint64_t, kStatusCodes>, kStoreKinds> errors{};
  std::array<LatencyHistogram::Totals, kStoreKinds> range;

  StreamTotals& operator+=(const StreamCounters& counters);
};

// Of all workers. Thread-safe.
class NodeCounters {
 public:
  // Stays where it is as long as this lives.
  [[nodiscard]] StreamCounters& OfWorker(size_t worker) {
    std::lock_guard lock(mutex_);
    while (workers_.size() <= worker) workers_.emplace_back();
    return workers_[worker];
  }
  [[nodiscard]] StreamTotals Sum() const {
    StreamTotals totals;
    std::lock_guard lock(mutex_);
    for (const StreamCounters& counters : workers_) totals += counters;
    return totals;
  }

 private:
  mutable std::mutex mutex_;
  std::deque<StreamCounters> workers_;  // growth guarded by mutex_
};

}  // namespace devmem
