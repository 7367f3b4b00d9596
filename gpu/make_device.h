// SPDX-License-Identifier: Apache-2.0
// The device of a name, as flags and specifications say it.
//
//   DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<Device> device, MakeDevice("cpu"));
//
// Thread-safe.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "gpu/device.h"

namespace devmem {

// "cpu", or "cuda:N" in this process's numbering (CUDA_VISIBLE_DEVICES). kInvalidArgument for another name,
// kFailedPrecondition, naming what is missing, for a device that this build or this machine does not have.
[[nodiscard]] absl::StatusOr<std::shared_ptr<Device>> MakeDevice(std::string_view name);

}  // namespace devmem
