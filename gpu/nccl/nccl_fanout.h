// SPDX-License-Identifier: Apache-2.0
// The Fanout over NCCL: a rank a GPU, the bytes over NVLink (or whatever NCCL finds between them).
//
//   DEVMEM_ASSIGN_OR_RETURN(auto fanout,
//                           MakeNcclFanout(rendezvous, {.group = {"weights", 8}, .rank = r},
//                                          {.device = r, .after = reads}, Clock::now() + 30s));
//   DEVMEM_RETURN_IF_ERROR(fanout->Broadcast({&slab, 0, n}, 0, Clock::now() + 30s));  // then as gpu/fanout.h says
//
// Every call is on a stream of the Fanout's own, and waits on the host, as no one else could abort it at its deadline. A call
// may take up to 10 s longer where the device does not come to rest after an abort; the error says that it did not, and that
// the memory must not be used again.
//
// Threads: as in gpu/fanout.h. The calling thread's current CUDA device becomes `device`.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gpu/fanout.h"
#include "gpu/nccl/nccl_shim.h"

namespace devmem {

struct NcclFanoutOptions {
  int device = 0;                 // CUDA's number of the GPU that holds this rank's memory; no other rank's
  cudaStream_t after = nullptr;   // if any: collectives begin when what is on it is done
  const NcclApi* nccl = nullptr;  // if not LoadNccl()'s
  const CudaApi* cuda = nullptr;  // if not StaticCuda()'s
};

// Returns when every rank has come and NCCL has connected them. `rendezvous`, which carries NCCL's unique id, is borrowed for
// as long as the Fanout lives. kFailedPrecondition without NCCL, a driver or a GPU, which the other ranks then get too.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Fanout>> MakeNcclFanout(Rendezvous& rendezvous, const FanoutMember& member,
                                                                     const NcclFanoutOptions& options, Time deadline);

}  // namespace devmem
