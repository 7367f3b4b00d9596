// SPDX-License-Identifier: Apache-2.0
// A GPU as a Device (gpu/device.h).
//
//   DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<Device> device, MakeCudaDevice(0));   // "cuda:0" of this process
//
// Every thread that calls has a stream of its own (up to kMostStreams; then they are shared), so that workers hold each other
// up as little as they do on the CPU. Work is one launch a call, whatever the number of fragments; descriptors travel in the
// launch, or by one copy. Nothing on the way waits for the GPU or allocates, but for buffers that grow to the largest batch
// seen.
//
// Threads: as in gpu/device.h.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gpu/cuda/facts.h"
#include "gpu/device.h"

namespace devmem {

// kFailedPrecondition, beginning with "cuda: no driver", on a machine without one; kNotFound if there is no such GPU.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(int ordinal);

}  // namespace devmem
