// SPDX-License-Identifier: Apache-2.0
// What the kernel and this process's rights and limits allow, whatever the NIC. Facts are gathered by trying, where that
// changes nothing, and by reading /proc and /sys; what they mean is decided apart from that, in pure functions.
//
//   const Rows rows = MachineRows(LookAtMachine(HostFiles()), {.device = "cpu", .pool = LandingPoolSize(demand).bytes()});
//
// Threads: LookAtMachine() opens sockets in the network namespace of the calling thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "service/doctor/host_files.h"
#include "service/doctor/row.h"

namespace devmem::doctor {

struct MachineFacts {
  std::string kernel;                     // uname's release
  int dontneed_errno = 0;                 // what setsockopt(SO_DEVMEM_DONTNEED) of no tokens answers: EINVAL where it is known
  absl::Status netdev;                    // whether the netdev netlink family is there
  bool net_admin = false;                 // CAP_NET_ADMIN is effective
  bool ipc_lock = false;                  // CAP_IPC_LOCK is
  absl::Status module;                    // whether devmem_binding lists its handles
  absl::Status udmabuf;                   // whether a page of memory became a dma-buf
  uint64_t memlock = 0;                   // RLIMIT_MEMLOCK, bytes; UINT64_MAX: none
  uint64_t descriptors = 0;               // RLIMIT_NOFILE, the hard one, to which daemons raise theirs
  uint64_t receive_buffer = 0;            // what the kernel counts for a socket that asks for 8 MiB, bytes
  std::optional<uint64_t> tcp_rmem;       // most that TCP grows a receive buffer to by itself, bytes
  std::optional<uint64_t> huge_pages;     // free ones of 2 MiB
  std::optional<uint64_t> udmabuf_limit;  // bytes of one dma-buf made of memory
  bool swiotlb_forced = false;            // on the kernel's command line
  bool clock_in_step = false;             // adjtimex: something keeps the clock
  int64_t year = 0;                       // by that clock
};

[[nodiscard]] MachineFacts LookAtMachine(const HostFiles& host);

// What the daemon would want with its flags.
struct MachineNeeds {
  std::string device = "cpu";
  uint64_t pool = 0;         // bytes of a landing pool with 4 KiB buffers and room for every connection
  uint64_t least_pool = 0;   // the smallest that is accepted
  uint64_t huge_pool = 0;    // with 64 KiB buffers
  uint64_t descriptors = 0;  // that connections, streams and trainers take
};

[[nodiscard]] Rows MachineRows(const MachineFacts& facts, const MachineNeeds& needs);

}  // namespace devmem::doctor
