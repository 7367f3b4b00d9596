// SPDX-License-Identifier: Apache-2.0
// Bindings that are held by handle (kernel/devmem_binding), as the module's netlink family `devmem-binding` lists them to
// anybody in their network namespace. They are made and changed by ioctl.
//
//   auto handles = ListHeldHandles();
//   if (absl::IsUnimplemented(handles.status())) ...  // the module is not loaded
//
// Everything happens in the network namespace of the calling thread. Thread-safe: each call has a socket of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "net/netlink/attributes.h"

namespace devmem {

struct HeldHandle {
  uint32_t id = 0;         // of the binding, unique on this machine
  uint32_t ifindex = 0;    // by now another's, if `gone`
  uint32_t dmabuf = 0;     // as RxQueueState has it
  uint32_t page_size = 0;  // bytes of a receive buffer
  std::vector<uint32_t> queues;
  bool gone = false;  // the NIC is no more, or left the namespace: nothing is bound, the handle remains to be closed
  bool resets_rss = false, resets_split = false;  // what goes back to the driver's default at the end
  uint32_t rules = 0;                             // that belong to it
  uint32_t creator_pid = 0;                       // 0: it is dead, or not to be seen from here
};

// Of this network namespace, in the order of their ids. kUnimplemented if the module is not loaded.
[[nodiscard]] absl::StatusOr<std::vector<HeldHandle>> ListHeldHandles();

// One answer's; nullopt if it names no binding. Here for the tests.
[[nodiscard]] std::optional<HeldHandle> ParseHeldHandle(const NetlinkAttributes& told);

}  // namespace devmem
