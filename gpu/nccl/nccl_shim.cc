// SPDX-License-Identifier: Apache-2.0
#include "gpu/nccl/nccl_shim.h"

#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>

#include "base/error.h"

namespace devmem {
namespace {

std::string VersionText(int code) {  // as NCCL_VERSION() has it since 2.9
  return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
}

absl::Status NoNccl(std::string_view message, std::string action) {
  return MakeError(absl::StatusCode::kFailedPrecondition, message,
                   {.object = "libnccl.so.2", .cause = "no usable NCCL", .action = std::move(action)});
}

absl::StatusOr<const NcclApi*> Load() {
  // Ranks of one process would read each other's memory straight, which only cudaDeviceEnablePeerAccess() allows, and not for
  // memory of cuMemCreate(), as slabs are.
  (void)::setenv("NCCL_P2P_DIRECT_DISABLE", "1", 0);
  void* const library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);  // stays: NCCL has threads
  if (library == nullptr) {
    return NoNccl(std::string("loading NCCL: ") + ::dlerror(),
                  "install NCCL (libnccl2), or name its folder in LD_LIBRARY_PATH");
  }
  static NcclApi api;
  const char* missing = nullptr;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) missing = name;
  };
  decltype(&ncclGetVersion) get_version = nullptr;
  find(get_version, "ncclGetVersion");
  find(api.GetUniqueId, "ncclGetUniqueId");
  find(api.CommInitRankConfig, "ncclCommInitRankConfig");
  find(api.CommGetAsyncError, "ncclCommGetAsyncError");
  find(api.CommAbort, "ncclCommAbort");
  find(api.AllGather, "ncclAllGather");
  find(api.Broadcast, "ncclBroadcast");
  find(api.GetErrorString, "ncclGetErrorString");
  find(api.GetLastError, "ncclGetLastError");
  int version = 0;
  if (get_version != nullptr && get_version(&version) == ncclSuccess) api.version = VersionText(version);
  if (missing != nullptr || version < NCCL_VERSION(2, 14, 0)) {
    return NoNccl("NCCL " + api.version + " is too old" + (missing == nullptr ? "" : std::string(": it has no ") + missing),
                  "install NCCL 2.14 or newer");
  }
  return &api;
}

}  // namespace

absl::StatusOr<const NcclApi*> LoadNccl() {
  static const auto* const api = new absl::StatusOr<const NcclApi*>(Load());
  return *api;
}

const CudaApi& StaticCuda() {
  static constexpr CudaApi kCuda = {
      .SetDevice = cudaSetDevice,
      .StreamCreateWithFlags = cudaStreamCreateWithFlags,
      .StreamDestroy = cudaStreamDestroy,
      .StreamQuery = cudaStreamQuery,
      .LaunchHostFunc = cudaLaunchHostFunc,
      .StreamWaitEvent = cudaStreamWaitEvent,
      .EventCreateWithFlags = cudaEventCreateWithFlags,
      .EventRecord = cudaEventRecord,
      .EventDestroy = cudaEventDestroy,
  };
  return kCuda;
}

absl::Status NcclError(const NcclApi& nccl, ncclResult_t result, std::string_view what, std::string object) {
  std::string text = std::string(what) + ": NCCL: " + nccl.GetErrorString(result);
  if (const char* last = nccl.GetLastError(nullptr); last != nullptr && *last != '\0') text += std::string(" (") + last + ")";
  const bool peer = result == ncclRemoteError || result == ncclSystemError;  // what another attempt may not meet again
  return MakeError(peer ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal, text,
                   {.object = std::move(object), .cause = "NCCL failed", .action = "run with NCCL_DEBUG=WARN for more"});
}

absl::Status CudaError(cudaError_t error, std::string_view what, std::string object) {
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) {
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);  // stays 0 without one
    const std::string needs = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION / 10 % 100);
    const std::string why = driver == 0                  ? "no driver"
                            : error == cudaErrorNoDevice ? "no device"
                                                         : "the driver is too old for CUDA " + needs;
    return MakeError(absl::StatusCode::kFailedPrecondition, std::string(what) + ": cuda: " + why,
                     {.object = std::move(object),
                      .cause = why,
                      .action = "install an NVIDIA driver for CUDA " + needs + ", and give the process a GPU"});
  }
  return MakeError(absl::StatusCode::kInternal,
                   std::string(what) + ": cuda: " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error),
                   {.object = std::move(object), .cause = "CUDA failed", .action = "look at the kernel's log for an Xid"});
}

}  // namespace devmem
