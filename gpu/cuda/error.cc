// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/error.h"

#include <string>

#include "gpu/cuda/driver.h"

namespace devmem::cuda {
namespace {

struct Advice {
  absl::StatusCode code = absl::StatusCode::kInternal;
  const char* action = "see the kernel's log (dmesg, 'NVRM: Xid'); restart this process: its CUDA context may be lost";
};

// The numbers of cudaError_t and CUresult are the same where both have one.
Advice AdviceFor(int error) {
  using enum absl::StatusCode;
  switch (error) {
    case cudaErrorMemoryAllocation:
      return {kResourceExhausted, "free device memory (nvidia-smi shows who has it), or ask for less"};
    case cudaErrorInsufficientDriver:
      return {kFailedPrecondition, "install an NVIDIA driver for CUDA 13 (580 or newer), or use --device cpu"};
    case cudaErrorNoDevice:
      return {kNotFound, "give this process a GPU (CUDA_VISIBLE_DEVICES, the container's device list), or use --device cpu"};
    case cudaErrorInvalidDevice:
      return {kNotFound, "name a GPU that nvidia-smi -L lists for this process, or use --device cpu"};
    case cudaErrorDevicesUnavailable:
      return {
          kUnavailable,
          "another process has the GPU in exclusive mode: set compute mode DEFAULT (nvidia-smi -c 0), or stop that process"};
    case cudaErrorSystemNotReady:
      return {kUnavailable, "start nvidia-fabricmanager (nvidia-imex on GB200): the GPUs' fabric is not up"};
    case cudaErrorSystemDriverMismatch:
      return {kFailedPrecondition,
              "libcuda and the kernel module are of different releases: reload the module, or restart the container"};
    case cudaErrorCompatNotSupportedOnDevice:
      return {kFailedPrecondition, "take the CUDA compatibility libraries off LD_LIBRARY_PATH: this GPU does not allow them"};
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsRpcFailure:
    case cudaErrorMpsServerNotReady:
      return {kUnavailable, "start nvidia-cuda-mps-control, or unset CUDA_MPS_PIPE_DIRECTORY"};
    case cudaErrorMpsMaxClientsReached:
    case cudaErrorMpsMaxConnectionsReached:
      return {kResourceExhausted, "MPS takes no more clients: stop one"};
    case cudaErrorOperatingSystem:
      return {
          kFailedPrecondition,
          "the operating system refused: in a container, give it the GPU's device files (the nvidia runtime class) and, for "
          "handles between processes, one IPC and PID view of /proc"};
    case cudaErrorNotPermitted:
      return {kPermissionDenied, "the driver does not permit it to this process"};
    case cudaErrorNotSupported:
      return {kUnimplemented, "this GPU or driver cannot do it"};
    case cudaErrorInvalidValue:
      return {kInvalidArgument, "report a bug with this message"};
    case cudaErrorInvalidResourceHandle:
      return {kInvalidArgument, "name a stream that lives, of the GPU that the batch lies on"};
    case cudaErrorNoKernelImageForDevice:
      return {kUnimplemented, "this build has kernels for compute capability 8.0, 9.0, 10.0 and newer"};
    case cudaErrorECCUncorrectable:
      return {kDataLoss, "the GPU's memory has failed: drain this node and reset the GPU"};
    default:
      return {};
  }
}

absl::Status Make(int error, std::string_view name, std::string_view text, std::string_view what, ErrorInfo info) {
  const Advice advice = AdviceFor(error);
  if (info.cause.empty()) info.cause = std::string(name);
  if (info.action.empty()) info.action = advice.action;
  return MakeError(advice.code, std::string(what) + ": " + std::string(text) + " (" + std::string(name) + ")", info);
}

}  // namespace

absl::Status ToStatus(cudaError_t error, std::string_view what, ErrorInfo info) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // or the next call that asks would hear of it
  return Make(error, cudaGetErrorName(error), cudaGetErrorString(error), what, std::move(info));
}

absl::Status ToStatus(CUresult error, std::string_view what, ErrorInfo info) {
  if (error == CUDA_SUCCESS) return absl::OkStatus();
  const char *name = "CUresult", *text = "no text";
  if (const auto driver = GetDriver(); driver.ok()) {
    (void)(*driver)->GetErrorName(error, &name);
    (void)(*driver)->GetErrorString(error, &text);
  }
  return Make(error, name == nullptr ? "CUresult" : name, text == nullptr ? "no text" : text, what, std::move(info));
}

}  // namespace devmem::cuda
