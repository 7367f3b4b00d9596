// SPDX-License-Identifier: Apache-2.0
// The Fanout whose ranks are threads of one process, over memory that the CPU can read (gpu/fanout.h has the example).
// Each rank copies what it gets out of the others' memory, by itself; nothing is staged.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gpu/fanout.h"

namespace devmem {

// Returns when every rank of the group has come. `rendezvous` is borrowed for as long as the Fanout lives. kInvalidArgument if
// the ranks' sizes, implementations or specifications differ.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Fanout>> MakeCpuFanout(Rendezvous& rendezvous, const FanoutMember& member,
                                                                    Time deadline);

}  // namespace devmem
