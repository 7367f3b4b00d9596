// SPDX-License-Identifier: Apache-2.0
// ChoosePlacement() on a kernel and a sysfs that are given: what tests call.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "net/netlink/route.h"
#include "net/rx/placement.h"
#include "net/rx/rx_kernel.h"

namespace devmem {

struct PlacementHost {
  RxKernel& kernel;
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string&)> physical_devices = PhysicalDevices;
  std::string sysfs = "/sys";
};

[[nodiscard]] absl::StatusOr<Placement> ChoosePlacementOn(PlacementHost host, const PlacementRequest& request);

}  // namespace devmem
