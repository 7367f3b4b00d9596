// SPDX-License-Identifier: Apache-2.0
// /proc/self/cgroup has a line "ID:CONTROLLERS:PATH" for each hierarchy: version 2's is "0::PATH", version 1's of memory
// "N:memory:PATH" (N is not 0, and other controllers may be named beside it). PATH is below the mount point, unless a container
// has its group mounted as the root and sees the host's path all the same: then there is no such folder, and the mount point
// itself is our group. /proc/self/mountinfo tells the mount points ("... - cgroup2 ..." and "... - cgroup cgroup rw,memory");
// most have the ones of systemd.
#include "service/memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace devmem {
namespace {

namespace fs = std::filesystem;

struct Hierarchy {
  std::string mount;                // without the root of a test
  std::string path;                 // of our group, below it
  std::vector<std::string> limits;  // files
};

std::vector<std::string> Lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// "max", or no number: no limit.
std::optional<uint64_t> NumberIn(const fs::path& path) {
  std::ifstream file(path);
  std::string text;
  if (!std::getline(file, text)) return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<Hierarchy> Hierarchies(const std::string& root) {
  std::string mount2 = "/sys/fs/cgroup", mount1 = "/sys/fs/cgroup/memory";
  for (const std::string& line : Lines(root + "/proc/self/mountinfo")) {
    const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<std::string> fields = absl::StrSplit(halves[0], ' ');
    const std::vector<std::string> kind = absl::StrSplit(halves[1], ' ');
    if (fields.size() < 5 || kind.size() < 3) continue;
    if (kind[0] == "cgroup2") mount2 = fields[4];
    if (kind[0] != "cgroup") continue;
    for (const absl::string_view option : absl::StrSplit(kind[2], ',')) {
      if (option == "memory") mount1 = fields[4];
    }
  }
  std::vector<Hierarchy> found;
  for (const std::string& line : Lines(root + "/proc/self/cgroup")) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[0] == "0" && parts[1].empty()) found.push_back({mount2, parts[2], {"memory.max", "memory.high"}});
    for (const absl::string_view controller : absl::StrSplit(parts[1], ',')) {
      if (controller == "memory") found.push_back({mount1, parts[2], {"memory.limit_in_bytes"}});
    }
  }
  return found;
}

}  // namespace

MemoryLimit DefaultMemoryLimit(const MemoryFiles& files) {
  uint64_t least = files.machine;
  if (least == 0) least = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::string source = "the machine's memory";
  for (const Hierarchy& hierarchy : Hierarchies(files.root)) {
    // From our group to the mount point, which is the root, or what a container sees of it.
    const std::string top = files.root + hierarchy.mount;
    std::error_code ignored;
    std::string path = hierarchy.path;
    if (path.empty() || path[0] != '/' || path.find("/..") != std::string::npos || !fs::is_directory(top + path, ignored))
      path.assign(1, '/');  // GCC 12 has a wrong word to say of = "/"
    while (true) {
      while (path.size() > 1 && path.back() == '/') path.pop_back();
      for (const std::string& limit : hierarchy.limits) {
        const std::optional<uint64_t> bytes = NumberIn(top + path + "/" + limit);
        if (!bytes.has_value() || *bytes >= least) continue;
        least = *bytes;
        source = absl::StrCat(limit, " of the control group ", path);
      }
      if (path == "/") break;
      path.erase(std::max<size_t>(path.rfind('/'), 1));
    }
  }
  return {.bytes = least / 2, .source = absl::StrCat("half of ", source)};
}

}  // namespace devmem
