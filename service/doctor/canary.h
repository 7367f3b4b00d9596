// SPDX-License-Identifier: Apache-2.0
// The canary: binds a small landing pool to one free queue, has the store send an object into it over a steered connection, and
// compares every byte in device memory with the same bytes read over an ordinary socket. TCP's checksum is verified before the
// NIC writes, so nothing else finds a write that an IOMMU lost or that went to another place.
//
//   const Rows rows = RunCanary({.interface = "eth0", .queue = 7, .ring = 1024, .device = device, .store = *store,
//                                .object = "shard-0", .object_bytes = 1 << 30, .journal_folder = "/run/devmem-loader"});
//
// The NIC is changed as by a daemon (net/rx/rx_binding.h), with a journal, and put back; other queues' traffic goes on.
// Threads: blocks for as long as the timeout, a few times at worst.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "gpu/device.h"
#include "net/object_store.h"
#include "service/doctor/row.h"

namespace devmem::doctor {

struct CanaryQuestion {
  std::string interface;  // a physical device
  uint32_t queue = 0;     // free, not 0
  uint64_t ring = 0;      // Rx descriptors of a queue
  std::shared_ptr<Device> device;
  std::shared_ptr<ObjectStore> store;
  std::string object;
  uint64_t object_bytes = 0;
  std::string journal_folder;
  Duration timeout = std::chrono::seconds(30);  // of each step
};

// Rows page-size, binding, canary, put-back.
[[nodiscard]] Rows RunCanary(const CanaryQuestion& question);
// The same where it was asked for and cannot be tried: that is a FAIL.
[[nodiscard]] Rows NoCanaryRows(const std::string& interface, const std::string& why, const std::string& fix);

}  // namespace devmem::doctor
