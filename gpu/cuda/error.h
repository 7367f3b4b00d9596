// SPDX-License-Identifier: Apache-2.0
// CUDA's two kinds of error as absl::Status, with what a person can do about each. Thread-safe.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string_view>

#include "absl/status/status.h"
#include "base/error.h"

namespace devmem::cuda {

// OK for success. `what` is what was tried ("allocating 4 GiB"); `info.action` is kept where it is given.
[[nodiscard]] absl::Status ToStatus(cudaError_t error, std::string_view what, ErrorInfo info = {});
[[nodiscard]] absl::Status ToStatus(CUresult error, std::string_view what, ErrorInfo info = {});

}  // namespace devmem::cuda

// Returns from the enclosing function if the call failed.
#define DEVMEM_CUDA_RETURN(call, what) DEVMEM_RETURN_IF_ERROR(::devmem::cuda::ToStatus((call), what))
