// SPDX-License-Identifier: Apache-2.0
// A tree of files that stands for /sys and /proc; it goes with the object.
//
//   FakeHost host;
//   host.Write("proc/cmdline", "quiet swiotlb=force\n");
//   host.AddPci("pci0000:3a/0000:3a:00.0/0000:3b:00.0", {.vendor = "0x10de"});
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "service/doctor/host_files.h"

namespace devmem::doctor {

class FakeHost {
 public:
  FakeHost() {
    std::string pattern = (std::filesystem::temp_directory_path() / "doctor-host-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "no folder for a test";
    root_ = pattern;
  }
  ~FakeHost() {
    std::error_code error;
    std::filesystem::remove_all(root_, error);
  }
  FakeHost(const FakeHost&) = delete;
  FakeHost& operator=(const FakeHost&) = delete;

  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path, std::ios::binary) << text;
  }
  // `to` is below the root, too.
  void Link(const std::string& path, const std::string& to) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::filesystem::create_directories(root_ / to);
    std::filesystem::create_directory_symlink(root_ / to, root_ / path);
  }

  struct Pci {
    std::string vendor = "0x15b3", kind = "0x020000", node = "0", config, resource, driver, iommu_group;
  };
  // A device at the end of a path below sys/devices.
  void AddPci(const std::string& path, const Pci& pci) const {
    const std::string at = "sys/devices/" + path;
    Write(at + "/vendor", pci.vendor + "\n");
    Write(at + "/class", pci.kind + "\n");
    Write(at + "/numa_node", pci.node + "\n");
    if (!pci.config.empty()) Write(at + "/config", pci.config);
    if (!pci.resource.empty()) Write(at + "/resource", pci.resource);
    if (!pci.driver.empty()) Link(at + "/driver", "sys/bus/pci/drivers/" + pci.driver);
    if (!pci.iommu_group.empty()) Link(at + "/iommu_group", "sys/kernel/iommu_groups/" + pci.iommu_group);
    Link("sys/bus/pci/devices/" + std::filesystem::path(path).filename().string(), at);
  }

  [[nodiscard]] std::string Path(const std::string& path) const { return root_ / path; }
  [[nodiscard]] HostFiles files() const { return HostFiles(root_); }

 private:
  std::filesystem::path root_;
};

}  // namespace devmem::doctor
