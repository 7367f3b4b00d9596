// SPDX-License-Identifier: Apache-2.0
// What one NIC could do, looked at and not changed. What only a binding tells (whether the driver really splits headers, which
// rx-page-size it takes) is the canary's to try (canary.h).
//
//   const NicFacts facts = LookAtNic({.kernel = *kernel}, "eth0");
//   const Rows rows = NicRows(facts, {.queues = 4, .connections = 16});
//
// Threads: as RxKernel; NicRows() is a pure function.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "net/netlink/link_facts.h"
#include "net/rx/queue_use.h"
#include "net/rx/rx_kernel.h"
#include "service/doctor/row.h"

namespace devmem::doctor {

struct NicFacts {
  std::string interface;
  absl::StatusOr<Link> link;
  absl::StatusOr<LinkFacts> told;
  absl::StatusOr<Rings> rings;
  absl::StatusOr<Feature> ntuple;
  absl::StatusOr<Feature> gro_hw;
  absl::StatusOr<RuleBudget> rules;
  absl::StatusOr<Channels> channels;
  absl::StatusOr<RssTable> rss;
  absl::StatusOr<QueueUse> use;
  absl::Status bind;  // BindNothing() of the highest queue; OK: not asked, for there is none
};

// The kernel's answer to a binding of no dma-buf to this queue.
[[nodiscard]] absl::Status BindNothing(const Link& link, uint32_t queue);

// Whom to ask; tests give their own.
struct NicHost {
  RxKernel& kernel;
  std::function<absl::StatusOr<LinkFacts>(const std::string&)> look = LookAtLink;
  std::function<absl::Status(const Link& link, uint32_t queue)> bind_nothing = BindNothing;
};

// `interface` is a physical device.
[[nodiscard]] NicFacts LookAtNic(const NicHost& host, const std::string& interface);

struct NicNeeds {
  size_t queues = 4;        // that the daemon would take, at most
  size_t connections = 16;  // of each queue
};

[[nodiscard]] Rows NicRows(const NicFacts& facts, const NicNeeds& needs);
// The same checks where there is no NIC to look at, so that a script always finds them.
[[nodiscard]] Rows NoNicRows(const std::string& interface, const std::string& why);

}  // namespace devmem::doctor
