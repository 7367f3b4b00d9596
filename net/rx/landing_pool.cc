// SPDX-License-Identifier: Apache-2.0
#include "net/rx/landing_pool.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

// No pool is ever that large, so that what overflows is as good as endless.
uint64_t Times(uint64_t a, uint64_t b) { return a != 0 && b > kMost / a ? kMost : a * b; }
uint64_t Plus(uint64_t a, uint64_t b) { return b > kMost - a ? kMost : a + b; }

uint64_t Posted(const PoolDemand& demand) { return Times(Times(demand.queues, demand.ring), demand.page_size); }
// Of one queue, no other needs anything.
uint64_t Kept(const PoolDemand& demand) { return demand.queues < 2 ? 0 : Times(MostKept(demand), demand.page_size); }
// Read skbs wait to be freed by the CPU that made them, the queue's: 128 of them, of 17 fragments with a page each. With larger
// buffers, fragments share them: the payload of an aggregate is 64 KiB at most.
uint64_t Deferred(const PoolDemand& demand) { return Times(demand.queues, uint64_t{128} * 17 * 4096); }
uint64_t Connections(const PoolDemand& demand) { return Times(demand.queues, demand.connections); }

}  // namespace

uint64_t MostKept(const PoolDemand& demand) {
  constexpr uint64_t kRing = 16384, kCache = 128;
  return Times(demand.queues, std::min(demand.ring, kRing) + kCache);
}

std::string PoolSize::ToString() const {
  return absl::StrCat(bytes(), " bytes = ", posted, " posted to the rings + ", windows, " that unread data can pin + ", held,
                      " received and not yet gathered + ", deferred, " in skbs to be freed",
                      kept == 0 ? "" : absl::StrCat(" + ", kept, " kept by page pools"));
}

PoolSize LandingPoolSize(const PoolDemand& demand) {
  const uint64_t posted = Posted(demand);
  // bytes() adds five numbers: each is kept so small that the sum does not wrap.
  const uint64_t cap = kMost / 5;
  const uint64_t windows = std::min(cap, Times(Connections(demand), demand.receive_buffer));
  // What a pool keeps, its queue uses before anything else: only what goes beyond is needed besides.
  const uint64_t kept = std::min(cap, Kept(demand));
  return {.posted = std::min(cap, posted),
          .windows = windows,
          .held = windows,
          .deferred = std::min(cap, Deferred(demand)),
          .kept = kept > 2 * windows ? kept - 2 * windows : 0};
}

absl::StatusOr<uint64_t> ReceiveBufferFor(uint64_t pool, const PoolDemand& demand, uint64_t least) {
  const uint64_t connections = Connections(demand);
  if (connections == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "a landing pool for no queue or no connection has no size",
                     {.object = "landing pool", .cause = "nothing to receive by", .action = "give at least one of each"});
  }
  const uint64_t posted = Plus(Posted(demand), Deferred(demand));
  const uint64_t shares = Times(2, connections);  // windows, and as much again held
  const uint64_t each = pool > posted ? (pool - posted) / shares : 0;
  if (each >= least && each > 0 && pool - posted >= Kept(demand)) return each;
  const uint64_t smallest = Plus(posted, std::max(Kept(demand), Times(shares, std::max<uint64_t>(least, 1))));
  return MakeError(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("a landing pool of ", pool, " bytes is too small: the smallest is ", smallest, " = ", demand.queues,
                   " queues x ", demand.ring, " descriptors x ", demand.page_size, " bytes posted + ", Deferred(demand),
                   " in skbs to be freed + 2 x ", demand.queues, " queues x ", demand.connections, " connections x ",
                   std::max<uint64_t>(least, 1), " bytes of window, or ", Kept(demand),
                   " that page pools keep if that is more"),
      {.object = "landing pool", .cause = "too small", .action = "make it larger, or take fewer queues or connections"});
}

}  // namespace devmem
