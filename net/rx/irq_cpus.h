// SPDX-License-Identifier: Apache-2.0
// Which CPUs an interrupt goes to, so that a queue's worker runs beside it.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace devmem {

// "0-2,7" as {0, 1, 2, 7}; empty for what is no such list.
[[nodiscard]] std::vector<int> ParseCpuList(std::string_view text);

// From /proc/irq: where it goes, or else where it may go. Empty if there is no such interrupt to be seen.
[[nodiscard]] std::vector<int> IrqCpus(uint32_t irq);

}  // namespace devmem
