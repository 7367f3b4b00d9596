// SPDX-License-Identifier: Apache-2.0
// RxBinding::Create(), Adopt() and Recover() on a kernel that is given: what tests call.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "net/rx/rx_binding.h"
#include "net/rx/rx_kernel.h"

namespace devmem {

[[nodiscard]] absl::StatusOr<std::unique_ptr<RxBinding>> CreateRxBinding(std::unique_ptr<RxKernel> kernel,
                                                                         const RxBindingOptions& options);
[[nodiscard]] absl::StatusOr<std::unique_ptr<RxBinding>> AdoptRxBinding(std::unique_ptr<RxKernel> kernel, HeldBinding held,
                                                                        const std::string& journal_folder);
// `open` is called if there is a NIC to put back.
[[nodiscard]] std::vector<std::string> RecoverOn(const std::function<absl::StatusOr<std::unique_ptr<RxKernel>>()>& open,
                                                 const std::string& folder, Duration patience);

}  // namespace devmem
