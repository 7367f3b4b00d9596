// SPDX-License-Identifier: Apache-2.0
#include "service/cli/process_usage.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <sstream>

namespace devmem::cli {
namespace {

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

}  // namespace

std::optional<ProcessUsage> ReadProcessUsage(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  // "pid (command) state ppid ...": the command may hold blanks and parentheses, so count from the last one.
  const std::string stat = Slurp(folder + "/stat");
  const size_t open = stat.find('(');
  const size_t close = stat.rfind(')');
  if (open == std::string::npos || close == std::string::npos) return std::nullopt;
  ProcessUsage usage;
  usage.command = stat.substr(open + 1, close - open - 1);
  std::istringstream fields(stat.substr(close + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;  // numbered as in proc(5): 14 utime, 15 stime, 22 starttime
  uint64_t user = 0;
  uint64_t system = 0;
  fields >> user >> system;
  for (int field = 16; field < 22; ++field) fields >> skipped;
  fields >> usage.start_ticks;
  if (!fields) return std::nullopt;
  usage.cpu_seconds = static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));

  std::istringstream status(Slurp(folder + "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) usage.peak_rss_mib = std::stod(line.substr(6)) / 1024;
  }
  return usage;
}

ProcessUsage OwnUsage() {
  ProcessUsage usage = ReadProcessUsage(::getpid()).value_or(ProcessUsage{});
  rusage fine{};  // microseconds, where /proc has hundredths of a second
  if (::getrusage(RUSAGE_SELF, &fine) == 0) usage.cpu_seconds = Seconds(fine.ru_utime) + Seconds(fine.ru_stime);
  return usage;
}

}  // namespace devmem::cli
