// SPDX-License-Identifier: Apache-2.0
// Small files of /sys and /proc, below a root that a test may set up. Thread-safe: it holds a path.
//
//   HostFiles host;                                        // this machine's
//   host.Number("proc/sys/net/core/rmem_max")              // nullopt: there is none, or it is no number
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace devmem::doctor {

class HostFiles {
 public:
  explicit HostFiles(std::string root = "/") : root_(std::move(root)) {}

  // Its text, at most 64 KiB of it, without white space at the end; nullopt if it cannot be read.
  [[nodiscard]] std::optional<std::string> Read(const std::string& path) const;
  [[nodiscard]] std::optional<uint64_t> Number(const std::string& path) const;  // decimal, or hexadecimal after "0x"
  [[nodiscard]] bool Exists(const std::string& path) const;
  [[nodiscard]] std::vector<std::string> List(const std::string& path) const;  // names in a folder, sorted; empty: no such
  // Where a symbolic link or folder really is, below the root ("sys/devices/pci0000:00/..."); empty: nowhere.
  [[nodiscard]] std::string Resolve(const std::string& path) const;

 private:
  std::filesystem::path root_;
};

}  // namespace devmem::doctor
