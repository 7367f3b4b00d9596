// SPDX-License-Identifier: Apache-2.0
// What a GPU and its driver can do, asked and never guessed from a version.
//
//   DEVMEM_ASSIGN_OR_RETURN(Facts facts, AskGpu(0));
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace devmem::cuda {

struct Facts {
  int ordinal = 0;  // of this process: CUDA_VISIBLE_DEVICES applies
  std::string name;
  std::string uuid;  // "GPU-…": of the GPU, or of the MIG instance where that is what this process has
  std::string pci;   // "0000:3b:00.0"
  int major = 0, minor = 0;
  int multiprocessors = 0;
  int driver = 0;             // CUDA version of the driver: 13000
  uint64_t bytes = 0;         // of memory
  bool vmm = false;           // cuMemCreate
  bool fd_handles = false;    // its memory goes to other processes by file descriptor
  bool rdma = false;          // its memory may be written to by other PCI devices
  bool rdma_ordered = false;  // and its own kernels see what was written before they were launched
  bool dma_buf = false;       // its memory can be had as a dma-buf
  bool exclusive = false;     // one process at a time
  uint64_t bar1_bytes = 0;    // window of its memory on the PCI bus; 0: not to be found out
  std::string module;         // "open", "proprietary", or empty where /proc does not say
};

// kNotFound for a GPU that is not there; kFailedPrecondition without a driver.
[[nodiscard]] absl::StatusOr<Facts> AskGpu(int ordinal);

// "…: what it lacks; what to change", for memory that is to go to another process, and for a NIC. OK where it can.
[[nodiscard]] absl::Status CanShare(const Facts& facts);
[[nodiscard]] absl::Status CanMakeDmaBuf(const Facts& facts);

}  // namespace devmem::cuda
