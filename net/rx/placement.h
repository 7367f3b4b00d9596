// SPDX-License-Identifier: Apache-2.0
// Which NICs and Rx queues payload shall come in by.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace devmem {

struct NicPlacement {
  std::string interface;  // a physical device
  std::vector<uint32_t> queues;
};

struct PlacementRequest {
  std::vector<std::string> interfaces;  // named by the operator: a bond or VLAN stands for the devices under it; empty: choose
  size_t queues = 1;                    // of each NIC, at most; fewer where it has fewer to give
  std::string near_pci;                 // PCI address of the GPU ("0000:3b:00.0"); empty: none
};

struct Placement {
  std::vector<NicPlacement> nics;
  std::vector<std::string> notes;  // a line for each NIC looked at: chosen and why, or why not
};

// The highest queues of each NIC, never queue 0, none that an RSS context, a rule, a dma-buf or an AF_XDP socket uses. Without
// named interfaces: the one physical NIC that is up and closest to `near_pci` by PCIe among those that could do it.
// kFailedPrecondition with a reason for each NIC when none can. Changes nothing.
[[nodiscard]] absl::StatusOr<Placement> ChoosePlacement(const PlacementRequest& request);

}  // namespace devmem
