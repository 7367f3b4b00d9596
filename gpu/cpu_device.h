// SPDX-License-Identifier: Apache-2.0
// The CPU standing in for a GPU: the reference every other Device is tested against.
//
// Exportable memory is a memfd of fixed size (sealed SHRINK|GROW|SEAL), mapped shared; other memory is anonymous.
// HostSpan() is always there. Work is done inside the call, so every Event returned is already complete.
//
//   std::unique_ptr<Device> device = MakeCpuDevice();
//   DEVMEM_ASSIGN_OR_RETURN(auto slab, device->Allocate(64 << 20, {.name = "slab", .exportable = true}));
//   DEVMEM_ASSIGN_OR_RETURN(ExportedHandle handle, slab->ExportHandle());  // handle.fd goes out by SCM_RIGHTS
//   slab->Retire();  // a peer that kept handle.fd now holds no memory
//
// Threads: as in device.h. Memory outlives the Device that made it.
#pragma once

#include <memory>

#include "gpu/device.h"

namespace devmem {

[[nodiscard]] std::unique_ptr<Device> MakeCpuDevice();

}  // namespace devmem
