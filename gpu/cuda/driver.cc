// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/driver.h"

#include <cuda_runtime_api.h>

#include <string>

#include "base/error.h"

namespace devmem::cuda {
namespace {

constexpr unsigned kVersion = 12000;  // the ABI asked for: of every driver since R525

absl::Status NoDriver(const std::string& why, const std::string& action) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "cuda: no driver: " + why,
                   {.cause = "no CUDA driver", .action = action});
}

absl::StatusOr<Driver> Load() {
  int version = 0;
  if (const cudaError_t error = cudaDriverGetVersion(&version); error != cudaSuccess || version == 0) {
    return NoDriver("libcuda.so.1 is not here, or does not start",
                    "install the NVIDIA driver; in a container, take the nvidia runtime class; or use --device cpu");
  }
  constexpr int kOldest = CUDART_VERSION / 1000 * 1000;  // the runtime linked here works with all drivers of its major version
  if (version < kOldest) {
    const auto text = [](int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); };
    return NoDriver("the one here is for CUDA " + text(version) + ", and this build needs " + text(kOldest),
                    "install a driver for CUDA 13 (580 or newer), or build with an older toolkit");
  }
  Driver driver;
  std::string missing;
  const auto find = [&missing](const char* name, auto* function) {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &address, kVersion, cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess || address == nullptr) {
      missing = name;
      return;
    }
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(address);
  };
  find("cuGetErrorName", &driver.GetErrorName);
  find("cuGetErrorString", &driver.GetErrorString);
  find("cuCtxGetCurrent", &driver.CtxGetCurrent);
  find("cuCtxSetCurrent", &driver.CtxSetCurrent);
  find("cuDeviceGet", &driver.DeviceGet);
  find("cuDeviceGetAttribute", &driver.DeviceGetAttribute);
  find("cuDeviceGetUuid", &driver.DeviceGetUuid);  // the name of every version of it; 12.0 is _v2's
  find("cuMemGetAllocationGranularity", &driver.MemGetAllocationGranularity);
  find("cuMemCreate", &driver.MemCreate);
  find("cuMemRelease", &driver.MemRelease);
  find("cuMemAddressReserve", &driver.MemAddressReserve);
  find("cuMemAddressFree", &driver.MemAddressFree);
  find("cuMemMap", &driver.MemMap);
  find("cuMemUnmap", &driver.MemUnmap);
  find("cuMemSetAccess", &driver.MemSetAccess);
  find("cuMemExportToShareableHandle", &driver.MemExportToShareableHandle);
  find("cuMemImportFromShareableHandle", &driver.MemImportFromShareableHandle);
  find("cuMemGetHandleForAddressRange", &driver.MemGetHandleForAddressRange);
  if (!missing.empty()) {
    return NoDriver("it has no " + missing, "install a driver for CUDA 13 (580 or newer)");
  }
  return driver;
}

}  // namespace

absl::StatusOr<const Driver*> GetDriver() {
  static const absl::StatusOr<Driver> driver = Load();
  if (!driver.ok()) return driver.status();
  return &*driver;
}

KeepCurrent::KeepCurrent() {
  if (const auto driver = GetDriver(); driver.ok()) (void)(*driver)->CtxGetCurrent(&former_);
}

KeepCurrent::~KeepCurrent() {
  if (former_ != nullptr) (void)(*GetDriver())->CtxSetCurrent(former_);
}

}  // namespace devmem::cuda
