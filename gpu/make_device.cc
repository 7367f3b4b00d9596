// SPDX-License-Identifier: Apache-2.0
#include "gpu/make_device.h"

#include <charconv>
#include <string>

#include "base/error.h"
#include "gpu/cpu_device.h"
#ifdef DEVMEM_CUDA
#include "gpu/cuda/cuda_device.h"
#endif

namespace devmem {
namespace {

constexpr std::string_view kCuda = "cuda:";

absl::StatusOr<std::shared_ptr<Device>> MakeGpu(std::string_view name) {
#ifdef DEVMEM_CUDA
  const std::string_view number = name.substr(kCuda.size());
  int ordinal = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), ordinal);
  if (error != std::errc() || end != number.data() + number.size() || ordinal < 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "there is no device '" + std::string(name) + "'",
                     {.object = std::string(name), .cause = "no such device", .action = "name 'cuda:0', 'cuda:1' and so on"});
  }
  DEVMEM_ASSIGN_OR_RETURN(auto device, MakeCudaDevice(ordinal));
  return std::shared_ptr<Device>(std::move(device));
#else
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   "there is no device '" + std::string(name) + "': this build has no CUDA",
                   {.object = std::string(name), .cause = "built without CUDA", .action = "use the device 'cpu'"});
#endif
}

}  // namespace

absl::StatusOr<std::shared_ptr<Device>> MakeDevice(std::string_view name) {
  if (name == "cpu") return std::shared_ptr<Device>(MakeCpuDevice());
  if (name.substr(0, kCuda.size()) == kCuda) return MakeGpu(name);
  return MakeError(absl::StatusCode::kInvalidArgument, "there is no device '" + std::string(name) + "'",
                   {.object = std::string(name), .cause = "no such device", .action = "name 'cpu' or 'cuda:N'"});
}

}  // namespace devmem
