// SPDX-License-Identifier: Apache-2.0
// BindingWatch: looks at a binding, and binds again what a reset or another tool took off. It does not fight: what is lost
// again the same way before its mending has held for a minute is another's wish. Then the queues are given up (an RSS table
// that leads to a bound one loses the traffic of others), that is said, and the NIC's connections are ordinary ones until the
// next start, or until the NIC itself is another. Rules are put in again however often they go, more and more seldom.
//
//   BindingWatch watch(*binding, [&] { return binding->Rebind(dmabuf_fd); }, say);
//   const BindingWatch::Seen seen = watch.Look(Clock::now());   // again and again
//   if (!seen.ready.ok()) ...                                   // connections by this NIC are not steered, and this is why
//
// Threads: its owner's.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"
#include "net/rx/rx_binding.h"
#include "net/rx/say.h"

namespace devmem {

class BindingWatch {
 public:
  // Binding again: at once, then after this, then twice that, and so on, at most as seldom as that.
  static constexpr Duration kRebindFirst = std::chrono::milliseconds(200);
  static constexpr Duration kRebindMost = std::chrono::seconds(30);
  // What held for so long was not set back by anybody: tools that keep a NIC configured look every few seconds, or every half
  // minute.
  static constexpr Duration kSettled = std::chrono::seconds(60);

  struct Seen {
    absl::Status ready;     // whether the queues are bound, and why not
    uint64_t inflight = 0;  // as RxState has it; 0 where they are not
  };

  BindingWatch(RxBinding& binding, std::function<absl::Status()> rebind, Say say)
      : binding_(binding), rebind_(std::move(rebind)), say_(std::move(say)) {}

  // Looks, and may bind again: once.
  [[nodiscard]] Seen Look(Time now);

 private:
  [[nodiscard]] absl::Status Lost(const absl::StatusOr<RxState>& state, Time now);
  [[nodiscard]] absl::Status NotBound(const std::string& why) const;

  RxBinding& binding_;
  const std::function<absl::Status()> rebind_;
  const Say say_;
  std::string lost_;  // the kind of loss there is; empty: none
  std::string left_;  // why the queues were given up; empty: they were not
  Time lost_since_{};
  std::pair<Severity, std::string> told_;  // why it could not be bound again, as last said
  std::set<std::string> mended_;           // kinds of loss since it last was intact for kSettled
  Time intact_since_{};
  Time next_try_{};
  Duration backoff_ = kRebindFirst;
};

}  // namespace devmem
