// SPDX-License-Identifier: Apache-2.0
// ntuple rules: which Rx queue a TCP flow goes to. By ioctl (ETHTOOL_GRXCLSRL*, SRXCLSRL*): there is no netlink for them.
//
// Drivers differ (shared/kernel-facts): bnxt and fbnic want RX_CLS_LOC_ANY, mlx5 refuses it and silently replaces the
// rule of an occupied location. So Insert() picks the way, and reads back what it inserted.
// Thread-safe within a process: one insertion at a time, so that two of ours never choose one location.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace devmem {

// A TCP flow as the NIC sees it arrive. Families agree; a zero address or port matches any. Addresses without ports match
// every flow between them.
struct FlowMatch {
  sockaddr_storage source{};       // the server
  sockaddr_storage destination{};  // this host
  bool operator==(const FlowMatch& other) const;
  [[nodiscard]] std::string ToString() const;  // "tcp 192.0.2.2:80 > 192.0.2.1:40112"
};

struct FlowRule {
  uint32_t location = 0;
  FlowMatch match;           // meaningful if `exact`
  bool exact = false;        // a TCP rule that FlowMatch can express
  uint64_t ring_cookie = 0;  // the queue, where it is one
  bool has_context = false;  // leads to an RSS context
  uint32_t context = 0;
  bool discards = false;
};

struct RuleBudget {
  uint32_t used = 0;
  uint32_t capacity = 0;      // 0: the driver does not say
  bool any_location = false;  // takes RX_CLS_LOC_ANY
};

class FlowRules {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<FlowRules>> Open();
  virtual ~FlowRules() = default;
  [[nodiscard]] virtual absl::StatusOr<RuleBudget> Budget(const std::string& interface) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::vector<FlowRule>> List(const std::string& interface) = 0;
  // Returns the location. kResourceExhausted when the table is full, kAlreadyExists if a rule for that flow is there and is
  // not ours to replace, kInternal if what was read back is not what was asked for (then it was taken out again).
  [[nodiscard]] virtual absl::StatusOr<uint32_t> Insert(const std::string& interface, const FlowMatch& match,
                                                        uint32_t queue) = 0;
  // Deletes the rule at `location` if it is still this one; kNotFound if there is none, kAborted if it is another's now.
  [[nodiscard]] virtual absl::Status Delete(const std::string& interface, uint32_t location, const FlowMatch& match,
                                            uint32_t queue) = 0;
};

}  // namespace devmem
