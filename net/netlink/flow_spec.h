// SPDX-License-Identifier: Apache-2.0
// FlowMatch as the kernel's ethtool_rx_flow_spec, and back. Pure functions.
#pragma once

#include <linux/ethtool.h>

#include "absl/status/status.h"
#include "net/netlink/flow_rules.h"

namespace devmem {

// kInvalidArgument if the families do not agree, are neither IPv4 nor IPv6, or nothing at all is given.
[[nodiscard]] absl::Status CheckMatch(const FlowMatch& match);

// `match` must be good by CheckMatch. Whatever is not zero is matched whole.
[[nodiscard]] ethtool_rx_flow_spec ToSpec(const FlowMatch& match);

// As GRXCLSRULE told it. The context's number is not in the spec.
[[nodiscard]] FlowRule FromSpec(const ethtool_rx_flow_spec& spec);

// Whether `spec` is what became of `ours`: the same protocol, and the same in every bit that ours matches; for a driver that
// changes masks.
[[nodiscard]] bool Resembles(const ethtool_rx_flow_spec& spec, const ethtool_rx_flow_spec& ours);

}  // namespace devmem
