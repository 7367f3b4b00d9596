// SPDX-License-Identifier: Apache-2.0
// Where NIC and GPU stand, and what lies between them: IOMMU, PCIe bridges with their ACS, NUMA nodes, the GPU's BAR1, the
// flavour of its driver. From /sys and /proc alone, so that it is told on a machine without CUDA, too. What is not theirs (a
// write that an IOMMU loses) only the canary finds.
//
//   const Rows rows = PciRows(HostFiles(), {.device = "cuda:0", .nics = {{"eth0", "0000:3b:00.0"}}, .pool = 64 << 20});
//
// Threads: thread-safe; files are read at each call.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "service/doctor/host_files.h"
#include "service/doctor/row.h"

namespace devmem::doctor {

struct PciQuestion {
  std::string device = "cpu";                             // or "cuda:N": the N-th NVIDIA GPU in the order of PCI addresses
  std::vector<std::pair<std::string, std::string>> nics;  // interface, and its parent device as its driver tells it
  uint64_t pool = 0;                                      // bytes of a landing pool, which BAR1 has to show
};

[[nodiscard]] Rows PciRows(const HostFiles& host, const PciQuestion& question);

// The PCI address of "cuda:N"; empty: there is no such GPU, or it is another kind of device.
[[nodiscard]] std::string GpuAddress(const HostFiles& host, const std::string& device);

}  // namespace devmem::doctor
