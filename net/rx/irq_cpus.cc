// SPDX-License-Identifier: Apache-2.0
#include "net/rx/irq_cpus.h"

#include <sched.h>

#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace devmem {

std::vector<int> ParseCpuList(std::string_view text) {
  std::vector<int> cpus;
  const absl::string_view list = absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  for (const absl::string_view range : absl::StrSplit(list, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(range, absl::MaxSplits('-', 1));
    int first = 0, last = 0;
    if (!absl::SimpleAtoi(ends.first, &first)) return {};
    last = first;
    if (!ends.second.empty() && !absl::SimpleAtoi(ends.second, &last)) return {};
    if (first < 0 || last < first || last >= CPU_SETSIZE) return {};
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> IrqCpus(uint32_t irq) {
  for (const char* name : {"effective_affinity_list", "smp_affinity_list"}) {
    std::string line;
    std::getline(std::ifstream(absl::StrCat("/proc/irq/", irq, "/", name)) >> std::ws, line);
    if (std::vector<int> cpus = ParseCpuList(line); !cpus.empty()) return cpus;
  }
  return {};
}

}  // namespace devmem
