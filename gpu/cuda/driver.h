// SPDX-License-Identifier: Apache-2.0
// The driver's functions, found at run time: nothing here links libcuda, so that one binary starts with and without a GPU.
//
//   DEVMEM_ASSIGN_OR_RETURN(const Driver* const driver, GetDriver());
//   driver->MemCreate(&handle, bytes, &properties, 0);
//
// Thread-safe.
#pragma once

#include <cuda.h>

#include "absl/status/statusor.h"

namespace devmem::cuda {

struct Driver {
  decltype(&cuGetErrorName) GetErrorName = nullptr;
  decltype(&cuGetErrorString) GetErrorString = nullptr;
  decltype(&cuCtxGetCurrent) CtxGetCurrent = nullptr;
  decltype(&cuCtxSetCurrent) CtxSetCurrent = nullptr;
  decltype(&cuDeviceGet) DeviceGet = nullptr;
  decltype(&cuDeviceGetAttribute) DeviceGetAttribute = nullptr;
  decltype(&cuDeviceGetUuid_v2) DeviceGetUuid = nullptr;
  decltype(&cuMemGetAllocationGranularity) MemGetAllocationGranularity = nullptr;
  decltype(&cuMemCreate) MemCreate = nullptr;
  decltype(&cuMemRelease) MemRelease = nullptr;
  decltype(&cuMemAddressReserve) MemAddressReserve = nullptr;
  decltype(&cuMemAddressFree) MemAddressFree = nullptr;
  decltype(&cuMemMap) MemMap = nullptr;
  decltype(&cuMemUnmap) MemUnmap = nullptr;
  decltype(&cuMemSetAccess) MemSetAccess = nullptr;
  decltype(&cuMemExportToShareableHandle) MemExportToShareableHandle = nullptr;
  decltype(&cuMemImportFromShareableHandle) MemImportFromShareableHandle = nullptr;
  decltype(&cuMemGetHandleForAddressRange) MemGetHandleForAddressRange = nullptr;
};

// kFailedPrecondition, beginning with "cuda: no driver", where there is none, or one older than CUDA 12.
[[nodiscard]] absl::StatusOr<const Driver*> GetDriver();

// While it lives the calling thread may work with another GPU; then it has the one again that it had, a trainer's thread say. A
// thread that had none keeps the new one.
class KeepCurrent {
 public:
  KeepCurrent();
  KeepCurrent(const KeepCurrent&) = delete;
  KeepCurrent& operator=(const KeepCurrent&) = delete;
  ~KeepCurrent();

 private:
  CUcontext former_ = nullptr;
};

}  // namespace devmem::cuda
