// SPDX-License-Identifier: Apache-2.0
#include "gpu/make_device.h"

#include <string>

#include "base/error.h"
#include "gpu/cpu_device.h"

namespace devmem {

absl::StatusOr<std::shared_ptr<Device>> MakeDevice(std::string_view name) {
  if (name == "cpu") return std::shared_ptr<Device>(MakeCpuDevice());
  if (name.substr(0, 5) == "cuda:") {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     "there is no device '" + std::string(name) + "': this build has no CUDA",
                     {.object = std::string(name), .cause = "built without CUDA", .action = "use the device 'cpu'"});
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "there is no device '" + std::string(name) + "'",
                   {.object = std::string(name), .cause = "no such device", .action = "name 'cpu' or 'cuda:N'"});
}

}  // namespace devmem
