// SPDX-License-Identifier: Apache-2.0
// The release, from CMake's project().
#pragma once

namespace devmem {

inline constexpr char kVersion[] = DEVMEM_VERSION;

}  // namespace devmem
