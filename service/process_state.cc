// SPDX-License-Identifier: Apache-2.0
#include "service/process_state.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <system_error>

namespace devmem {
namespace {

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

// When the machine started, in seconds since the epoch.
double BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("btime ", 0) == 0) return std::stod(line.substr(6));
  }
  return 0;
}

}  // namespace

ProcessState ReadProcessState() {
  ProcessState state;
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) state.cpu_seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) state.max_fds = limit.rlim_cur;

  // "pid (command) state ...": the command may hold blanks and parentheses, so count from the last one. Numbered as in proc(5).
  std::ifstream file("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (const size_t close = text.rfind(')'); close != std::string::npos) {
    std::istringstream fields(text.substr(close + 1));
    std::string skipped;
    for (int field = 3; field < 22; ++field) fields >> skipped;
    uint64_t start = 0, pages = 0;
    fields >> start >> state.virtual_bytes >> pages;
    state.resident_bytes = pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    state.start_time = BootTime() + static_cast<double>(start) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }

  std::error_code error;
  std::filesystem::directory_iterator entry("/proc/self/fd", error);
  uint64_t found = 0;
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) ++found;
  state.open_fds = found - std::min<uint64_t>(found, 1);  // without the one it was counted by
  return state;
}

}  // namespace devmem
