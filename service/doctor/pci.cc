// SPDX-License-Identifier: Apache-2.0
// A device's place is its path in /sys/devices: pci0000:3a (a root complex), then each bridge, then the device. A write from
// one device to another goes up to the lowest bridge above both and down again, if every port on the way lets it: a downstream
// port whose ACS redirects requests sends it up to the root complex instead.
#include "service/doctor/pci.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/text.h"

namespace devmem::doctor {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr char kDevices[] = "sys/bus/pci/devices/";
constexpr uint64_t kNvidia = 0x10de;

// PCI Express Base Specification, "Access Control Services Extended Capability": id 0x000d; its control register
// is the upper half of the word at 4.
constexpr size_t kExtended = 0x100;  // where extended capabilities begin
constexpr uint16_t kAcs = 0x000d;
constexpr uint16_t kRequestRedirect = 1 << 2, kCompletionRedirect = 1 << 3;
constexpr int kMostCapabilities = (4096 - 256) / 8;  // a list without an end is no list

std::vector<std::string> PathOf(const HostFiles& host, const std::string& address) {
  std::vector<std::string> parts;
  for (const auto& part : std::filesystem::path(host.Resolve(kDevices + address))) parts.push_back(part);
  return parts;
}

bool IsPci(const HostFiles& host, const std::string& bus) { return !bus.empty() && host.Exists(kDevices + bus); }

std::vector<std::string> NvidiaGpus(const HostFiles& host) {
  std::vector<std::string> found;
  for (const std::string& address : host.List("sys/bus/pci/devices")) {
    const uint64_t kind = host.Number(kDevices + address + "/class").value_or(0) >> 8;
    // 0x0300: VGA; 0x0302: 3D controller
    if (host.Number(kDevices + address + "/vendor") == kNvidia && (kind == 0x0300 || kind == 0x0302)) found.push_back(address);
  }
  return found;
}

struct Register {
  enum class State : uint8_t { kNone, kHidden, kRead } state = State::kNone;  // hidden: only root reads beyond 64 bytes
  uint16_t value = 0;
};

uint32_t Word(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  return value;
}

Register AcsControlOf(const std::optional<std::string>& config) {
  if (!config || config->size() <= 64) return {.state = Register::State::kHidden};
  size_t at = kExtended;
  for (int i = 0; i < kMostCapabilities && at >= kExtended && at + 8 <= config->size(); ++i) {
    const uint32_t header = Word(*config, at);
    if (header == 0 || header == UINT32_MAX) break;
    if ((header & 0xffff) == kAcs) {
      return {.state = Register::State::kRead, .value = static_cast<uint16_t>(Word(*config, at + 4) >> 16)};
    }
    at = header >> 20;
  }
  return {};
}

std::string NodeOf(const HostFiles& host, const std::string& address) {
  return host.Read(kDevices + address + "/numa_node").value_or("-1");
}

// ---- the GPU ----

Row GpuRow(const HostFiles& host, const std::string& device, const std::string& gpu) {
  if (device == "cpu") return Skip("gpu", "", "the device is the CPU");
  if (gpu.empty()) {
    return Fail("gpu", device,
                {.found = absl::StrCat(NvidiaGpus(host).size(), " NVIDIA GPUs on this machine's PCI bus"),
                 .wanted = device,
                 .fix = "lspci -d 10de: lists them; a container needs the nvidia runtime class"});
  }
  const std::string driver = std::filesystem::path(host.Resolve(kDevices + gpu + "/driver")).filename();
  return MakeRow(driver == "nvidia" ? Verdict::kPass : Verdict::kFail, "gpu", device,
                 {.found = absl::StrCat(gpu, driver.empty() ? ", without a driver" : absl::StrCat(", driver ", driver)),
                  .wanted = "driver nvidia",
                  .fix = "modprobe nvidia"});
}

Row CudaDriverRow(const HostFiles& host, const std::string& device) {
  const std::string wanted = "the open kernel modules, which alone export dma-bufs";
  const std::optional<std::string> version = host.Read("proc/driver/nvidia/version");
  if (!version) {
    return Fail("cuda-driver", device,
                {.found = "no driver: /proc/driver/nvidia/version is not there", .wanted = wanted, .fix = "install it"});
  }
  const std::string line = version->substr(0, version->find('\n'));
  const bool open = line.find("Open Kernel Module") != std::string::npos;
  return MakeRow(
      open ? Verdict::kPass : Verdict::kFail, "cuda-driver", device,
      {.found = line, .wanted = wanted, .fix = "install the driver's -open flavour (nvidia-open), for Turing and newer"});
}

Row Bar1Row(const HostFiles& host, const std::string& device, const std::string& gpu, uint64_t pool) {
  std::istringstream resources(host.Read(kDevices + gpu + "/resource").value_or(""));
  std::string start, end, flags;
  for (int bar = 0; bar <= 1; ++bar) resources >> start >> end >> flags;
  const auto number = [](const std::string& text) -> std::optional<uint64_t> {
    uint64_t value = 0;
    if (!text.starts_with("0x")) return std::nullopt;
    const auto [at, error] = std::from_chars(text.data() + 2, text.data() + text.size(), value, 16);
    return error == std::errc() && at == text.data() + text.size() ? std::optional(value) : std::nullopt;
  };
  const std::optional<uint64_t> first = number(start), last = number(end);
  if (!first || !last || *last <= *first) {
    return Fail("bar1", device,
                {.found = "the GPU has no BAR1",
                 .wanted = "BAR1, by which a NIC reaches its memory",
                 .fix = "'Above 4G decoding' in the firmware's set-up; dmesg tells what could not be placed"});
  }
  const uint64_t bytes = *last - *first + 1;
  Finding finding{.found = absl::StrCat(bytes / kMiB, " MiB"),
                  .wanted = absl::StrCat((pool + kMiB - 1) / kMiB, " MiB or more: the landing pool"),
                  .fix = "'Above 4G decoding' and 'Resizable BAR' in the firmware's set-up, or a smaller --landing-pool"};
  return MakeRow(bytes >= pool ? Verdict::kPass : Verdict::kFail, "bar1", device, std::move(finding));
}

// ---- a NIC, and the way between ----

Row IommuRow(const HostFiles& host, const std::string& interface, const std::string& nic, bool gpu) {
  const std::string group = host.Resolve(kDevices + nic + "/iommu_group");
  const std::string wanted =
      gpu ? "off, or identity (iommu=pt): device memory is reached by its bus address" : "any: memory of the CPU is mapped";
  const std::string type = group.empty() ? "off" : host.Read(group + "/type").value_or("on, of a type that is not told");
  Finding finding{.found = type, .wanted = wanted, .fix = "boot with iommu=pt; --canary tells whether writes are lost"};
  const bool plain = !gpu || type == "off" || type == "identity";
  if (!plain) finding.found += ": some drivers hand out raw bus addresses then, and writes are lost in silence";
  return MakeRow(plain ? Verdict::kPass : Verdict::kWarn, "iommu", interface, std::move(finding));
}

// What the ports of two paths have in common, and those that they have not, without the devices at the ends.
struct Way {
  std::vector<std::string> shared, apart;
};

Way WayBetween(const std::vector<std::string>& nic, const std::vector<std::string>& gpu) {
  Way way;
  const auto [a, b] = std::mismatch(nic.begin(), nic.end(), gpu.begin(), gpu.end());
  const auto port = [](const std::string& part) { return part.find(':') != std::string::npos && !part.starts_with("pci"); };
  std::copy_if(nic.begin(), a, std::back_inserter(way.shared), port);
  if (a != nic.end()) std::copy_if(a, nic.end() - 1, std::back_inserter(way.apart), port);
  if (b != gpu.end()) std::copy_if(b, gpu.end() - 1, std::back_inserter(way.apart), port);
  return way;
}

Row DistanceRow(const std::string& interface, const std::string& gpu, const Way& way, bool same_root) {
  Finding finding{
      .found = absl::StrCat(Counted(way.apart.size(), "port"), " between, below ", way.shared.empty() ? "" : way.shared.back()),
      .wanted = "one PCIe switch above NIC and GPU",
      .fix = absl::StrCat("a NIC nearer to ", gpu, ": lspci -tv; --interface takes it")};
  if (!way.shared.empty()) return Pass("pcie-distance", interface, std::move(finding));
  finding.found = same_root ? "by way of the root complex" : "by way of two root complexes";
  return Warn("pcie-distance", interface, std::move(finding));
}

Row AcsRow(const HostFiles& host, const std::string& interface, const Way& way) {
  const std::string wanted = "no redirection of requests in ports between NIC and GPU";
  if (way.shared.empty()) return Skip("acs", interface, "they share no switch: what goes between them passes the root complex");
  std::vector<std::string> redirecting, hidden;
  for (const std::string& port : way.apart) {
    const Register control = AcsControlOf(host.Read(kDevices + port + "/config"));
    if (control.state == Register::State::kHidden) hidden.push_back(port);
    if (control.state != Register::State::kRead || (control.value & (kRequestRedirect | kCompletionRedirect)) == 0) continue;
    redirecting.push_back(port);
  }
  if (!redirecting.empty()) {
    return Warn("acs", interface,
                {.found = absl::StrCat("redirects to the root complex: ", absl::StrJoin(redirecting, ", ")),
                 .wanted = wanted,
                 .fix = absl::StrCat("boot with pci=disable_acs_redir=", absl::StrJoin(redirecting, ";"),
                                     " (it takes virtual machines their isolation)")});
  }
  if (!hidden.empty()) {
    return Skip("acs", interface, absl::StrCat("the configuration of ", absl::StrJoin(hidden, ", "), " is not readable"),
                kAsRoot);
  }
  return Pass("acs", interface, {.found = "none", .wanted = wanted});
}

Row NumaRow(const HostFiles& host, const std::string& interface, const std::string& nic, const std::string& gpu) {
  const std::string node = NodeOf(host, nic);
  if (gpu.empty()) {
    return Pass("numa", interface,
                {.found = node == "-1" ? "one node" : absl::StrCat("node ", node), .wanted = "any: the device is the CPU"});
  }
  const std::string other = NodeOf(host, gpu);
  return MakeRow(node == other ? Verdict::kPass : Verdict::kWarn, "numa", interface,
                 {.found = node == other ? absl::StrCat("both on node ", node)
                                         : absl::StrCat("NIC on node ", node, ", GPU on node ", other),
                  .wanted = "NIC and GPU on one node",
                  .fix = "a NIC of the GPU's node: --interface"});
}

void SkipNic(Rows& rows, const std::string& interface, const std::string& why) {
  for (const char* check : {"iommu", "pcie-distance", "acs", "numa"}) rows.push_back(Skip(check, interface, why));
}

}  // namespace

std::string GpuAddress(const HostFiles& host, const std::string& device) {
  if (!device.starts_with("cuda:")) return "";
  size_t index = 0;
  const std::string number = device.substr(5);
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
  if (error != std::errc() || end != number.data() + number.size()) return "";
  const std::vector<std::string> gpus = NvidiaGpus(host);
  return index < gpus.size() ? gpus[index] : "";
}

Rows PciRows(const HostFiles& host, const PciQuestion& question) {
  const std::string& device = question.device;
  const std::string gpu = GpuAddress(host, device);
  Rows rows{GpuRow(host, device, gpu)};
  const std::string no_gpu =
      device == "cpu" ? "the device is the CPU" : absl::StrCat("there is no GPU ", device, " on this machine");
  if (gpu.empty()) {
    for (const char* check : {"cuda-driver", "bar1"}) rows.push_back(Skip(check, device == "cpu" ? "" : device, no_gpu));
  } else {
    rows.push_back(CudaDriverRow(host, device));
    rows.push_back(Bar1Row(host, device, gpu, question.pool));
  }
  if (question.nics.empty()) SkipNic(rows, "", "there is no NIC to look at");
  for (const auto& [interface, bus] : question.nics) {
    if (!IsPci(host, bus)) {
      const std::string why = bus.empty() ? "the driver tells no parent device" : absl::StrCat(bus, " is no PCI device");
      SkipNic(rows, interface, why);
      continue;
    }
    rows.push_back(IommuRow(host, interface, bus, !gpu.empty()));
    if (gpu.empty()) {
      for (const char* check : {"pcie-distance", "acs"}) rows.push_back(Skip(check, interface, no_gpu));
    } else {
      const std::vector<std::string> nic_path = PathOf(host, bus), gpu_path = PathOf(host, gpu);
      const Way way = WayBetween(nic_path, gpu_path);
      // sys/devices/pci0000:3a/...: the third part is the root complex.
      const bool same_root = nic_path.size() > 2 && gpu_path.size() > 2 && nic_path[2] == gpu_path[2];
      rows.push_back(DistanceRow(interface, gpu, way, same_root));
      rows.push_back(AcsRow(host, interface, way));
    }
    rows.push_back(NumaRow(host, interface, bus, gpu));
  }
  return rows;
}

}  // namespace devmem::doctor
