// SPDX-License-Identifier: Apache-2.0
// How large a NIC's landing pool must be (invariant 2 of docs/architecture.md): a pool that runs empty drops packets.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace devmem {

struct PoolDemand {
  uint64_t queues = 0;          // bound, of the NIC
  uint64_t ring = 0;            // Rx descriptors of a queue
  uint64_t page_size = 4096;    // bytes of a buffer
  uint64_t connections = 0;     // of one queue; of several NICs, each may have to carry all of them
  uint64_t receive_buffer = 0;  // SO_RCVBUF as the kernel counts it (truesize), bytes, of one connection
};

struct PoolSize {
  uint64_t posted = 0;    // bytes the rings hold
  uint64_t windows = 0;   // bytes that unread data can pin in the worst packing: the receive buffers count truesize
  uint64_t held = 0;      // bytes received and not yet gathered, one receive a connection: as much again
  uint64_t deferred = 0;  // of skbs that were read, and that the kernel frees later (net.core.skb_defer_max, 128 a CPU)
  uint64_t kept = 0;      // what page pools keep for reuse beyond that, where another queue could need it
  [[nodiscard]] uint64_t bytes() const { return posted + windows + held + deferred + kept; }
  [[nodiscard]] std::string ToString() const;  // the formula with numbers, for the log
};

// Buffers that page pools keep for reuse, at most, all queues together: a recycling ring as large as the Rx ring
// (net/core/page_pool.c caps it at 16,384) and a cache of 128. They count as inflight, and serve their own queue only.
[[nodiscard]] uint64_t MostKept(const PoolDemand& demand);

[[nodiscard]] PoolSize LandingPoolSize(const PoolDemand& demand);

// The largest receive buffer (truesize bytes a connection) with which `pool` bytes suffice; kInvalidArgument naming the
// smallest legal pool if not even `least` bytes each fit.
[[nodiscard]] absl::StatusOr<uint64_t> ReceiveBufferFor(uint64_t pool, const PoolDemand& demand, uint64_t least);

}  // namespace devmem
