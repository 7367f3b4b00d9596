// SPDX-License-Identifier: Apache-2.0
// What the kernel tells anybody of one network interface, beyond what RxKernel needs to bind it: for who has to explain
// why it cannot be bound (service/doctor).
//
//   DEVMEM_ASSIGN_OR_RETURN(const LinkFacts facts, LookAtLink("eth0"));
//   if (facts.xdp) ...  // the kernel refuses device memory on it
//
// Everything happens in the network namespace of the calling thread. Thread-safe: each call has sockets of its own.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace devmem {

struct LinkFacts {
  uint32_t mtu = 0;      // bytes, as `ip link` has it
  bool xdp = false;      // a program is attached, whichever way
  std::string driver;    // "mlx5_core"; empty: the driver tells nothing of itself
  std::string firmware;  // as the driver writes it; empty: it tells none
  std::string bus;       // its parent device, a PCI address mostly
};

// kNotFound if there is no such interface here.
[[nodiscard]] absl::StatusOr<LinkFacts> LookAtLink(const std::string& interface);

}  // namespace devmem
