// SPDX-License-Identifier: Apache-2.0
// NCCL and the little of CUDA that gpu/nccl/ needs, as tables of functions, and their results as absl::Status. Nothing else
// here calls either. NCCL is loaded when it is first asked for, and CUDA's runtime is linked statically and finds the driver
// itself: a program with this in it starts on a machine that has neither.
//
//   DEVMEM_ASSIGN_OR_RETURN(const NcclApi* nccl, LoadNccl());
//   if (nccl->GetUniqueId(&id) != ncclSuccess) ...
//
// Thread-safe. The tables live as long as the process.
#pragma once

#include <nccl.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace devmem {

struct NcclApi {
  std::string version;  // of the library loaded: "2.28.9"
  decltype(&ncclGetUniqueId) GetUniqueId = nullptr;
  decltype(&ncclCommInitRankConfig) CommInitRankConfig = nullptr;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError = nullptr;
  decltype(&ncclCommAbort) CommAbort = nullptr;
  decltype(&ncclAllGather) AllGather = nullptr;
  decltype(&ncclBroadcast) Broadcast = nullptr;
  decltype(&ncclGetErrorString) GetErrorString = nullptr;
  decltype(&ncclGetLastError) GetLastError = nullptr;
};

struct CudaApi {
  decltype(&cudaSetDevice) SetDevice = nullptr;
  cudaError_t (*StreamCreateWithFlags)(cudaStream_t*, unsigned) = nullptr;
  cudaError_t (*StreamDestroy)(cudaStream_t) = nullptr;
  cudaError_t (*StreamQuery)(cudaStream_t) = nullptr;
  cudaError_t (*LaunchHostFunc)(cudaStream_t, cudaHostFn_t, void*) = nullptr;
  cudaError_t (*StreamWaitEvent)(cudaStream_t, cudaEvent_t, unsigned) = nullptr;
  cudaError_t (*EventCreateWithFlags)(cudaEvent_t*, unsigned) = nullptr;
  cudaError_t (*EventRecord)(cudaEvent_t, cudaStream_t) = nullptr;
  cudaError_t (*EventDestroy)(cudaEvent_t) = nullptr;
};

// kFailedPrecondition if there is no libnccl.so.2, or one without communicators that do not block (before 2.14). Loaded once.
[[nodiscard]] absl::StatusOr<const NcclApi*> LoadNccl();

[[nodiscard]] const CudaApi& StaticCuda();

// `result` is no success. `what` was being done, by `object`.
[[nodiscard]] absl::Status NcclError(const NcclApi& nccl, ncclResult_t result, std::string_view what, std::string object);
[[nodiscard]] absl::Status CudaError(cudaError_t error, std::string_view what, std::string object);

}  // namespace devmem
