// SPDX-License-Identifier: Apache-2.0
// A NIC is fit if it is up, splits headers, takes ntuple rules and has a queue to give besides queue 0. Closeness of two PCI
// devices is how far their paths in /sys/devices go together: every bridge between them is a step.
#include "net/rx/placement.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "net/rx/placement_on.h"
#include "net/rx/queue_use.h"

namespace devmem {
namespace {

namespace fs = std::filesystem;

// How near: fewer steps, then the same NUMA node. Larger is farther.
struct Distance {
  size_t steps = 0;
  bool other_node = false;
  bool operator<(const Distance& other) const {
    return std::pair(steps, other_node) < std::pair(other.steps, other.other_node);
  }
};

class Chooser {
 public:
  Chooser(PlacementHost host, const PlacementRequest& request) : host_(std::move(host)), request_(request) {}

  absl::StatusOr<Placement> Choose() {
    if (request_.queues == 0) {
      return MakeError(absl::StatusCode::kInvalidArgument, "no queue is asked for",
                       {.object = "placement", .cause = "no queues"});
    }
    return request_.interfaces.empty() ? Nearest() : Named();
  }

 private:
  absl::StatusOr<Placement> Named() {
    std::vector<std::string> physical;
    for (const std::string& name : request_.interfaces) {
      DEVMEM_ASSIGN_OR_RETURN(const std::vector<std::string> under, host_.physical_devices(name));
      for (const std::string& device : under) {
        if (std::find(physical.begin(), physical.end(), device) != physical.end()) continue;
        physical.push_back(device);
        if (device != name) Note(device, absl::StrCat("stands under ", name));
      }
    }
    Placement placement;
    for (const std::string& name : physical) {
      // All of them or none: payload may come by each.
      DEVMEM_ASSIGN_OR_RETURN(NicPlacement nic, Fit(name));
      Note(name, absl::StrCat("taken, as named: queues ", absl::StrJoin(nic.queues, ",")));
      placement.nics.push_back(std::move(nic));
    }
    placement.notes = std::move(notes_);
    return placement;
  }

  absl::StatusOr<Placement> Nearest() {
    const std::optional<fs::path> gpu =
        request_.near_pci.empty() ? std::nullopt : DevicePath("bus/pci/devices/" + request_.near_pci);
    if (!request_.near_pci.empty() && !gpu) {
      return MakeError(absl::StatusCode::kNotFound, "there is no such PCI device",
                       {.object = request_.near_pci, .cause = "no such device", .action = "see `lspci -D`"});
    }
    std::optional<std::pair<Distance, NicPlacement>> best;
    std::vector<std::string> names = host_.kernel.Interfaces();
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      const auto under = host_.physical_devices(name);
      if (!under.ok() || *under != std::vector<std::string>{name}) continue;  // not physical itself
      const absl::StatusOr<NicPlacement> nic = Fit(name);
      if (!nic.ok()) {
        notes_.push_back(Text(nic.status()));  // names it
        continue;
      }
      const Distance distance = gpu ? DistanceTo(name, *gpu) : Distance{};
      Note(name, absl::StrCat("fit: queues ", absl::StrJoin(nic->queues, ","),
                              gpu ? absl::StrCat(", ", distance.steps, " PCIe steps from ", request_.near_pci,
                                                 distance.other_node ? ", on another NUMA node" : "")
                                  : ""));
      if (!best || distance < best->first) best = {distance, *nic};
    }
    if (!best) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("no NIC can receive into device memory: ",
                                    notes_.empty() ? "there is no physical one" : absl::StrJoin(notes_, "; ")),
                       {.cause = "no fit NIC", .action = "name one with --interface to see why not"});
    }
    Note(best->second.interface, gpu ? "chosen: the nearest" : "chosen: the first that is fit");
    return Placement{{best->second}, std::move(notes_)};
  }

  void Note(const std::string& name, const std::string& what) { notes_.push_back(absl::StrCat(name, ": ", what)); }

  static absl::Status Unfit(const std::string& name, const std::string& why, const std::string& action) {
    return MakeError(absl::StatusCode::kFailedPrecondition, why, {.object = name, .cause = "NIC not fit", .action = action});
  }

  absl::StatusOr<NicPlacement> Fit(const std::string& name) {
    DEVMEM_ASSIGN_OR_RETURN(const Link link, host_.kernel.FindLink(name));
    if (!link.up) return Unfit(name, "the link is down", absl::StrCat("`ip link set ", name, " up`"));
    // What the operator names may get its cable later; what is chosen here must work.
    if (!link.carrier && request_.interfaces.empty()) return Unfit(name, "it has no carrier", "name it if it shall be used");
    const absl::StatusOr<Rings> rings = host_.kernel.ethtool().GetRings(name);
    if (!rings.ok() || !rings->has_header_split) {
      return Unfit(
          name,
          rings.ok() ? "its driver knows no header split" : absl::StrCat("its rings cannot be read: ", Text(rings.status())),
          "`ethtool -g` must show 'TCP data split'");
    }
    if (const auto budget = host_.kernel.rules().Budget(name); !budget.ok()) {
      return Unfit(name, absl::StrCat("its driver takes no ntuple rules: ", Text(budget.status())), "another NIC or driver");
    }
    DEVMEM_ASSIGN_OR_RETURN(const QueueUse use, FindQueueUse(host_.kernel, link));
    if (use.queues < 2) return Unfit(name, "it has one Rx queue, and needs another", "`ethtool -L` for more");
    NicPlacement nic{.interface = name};
    for (uint32_t queue = use.queues - 1; queue > 0 && nic.queues.size() < request_.queues; --queue) {
      if (const auto taken = use.taken.find(queue); taken != use.taken.end()) {
        Note(name, absl::StrCat("queue ", queue, " is left out: ", taken->second));
      } else {
        nic.queues.push_back(queue);
      }
    }
    if (nic.queues.empty()) {
      return Unfit(name,
                   absl::StrCat("others use all its queues but 0; queue ", use.queues - 1, ": ", use.taken.at(use.queues - 1)),
                   "free one, or `ethtool -L` for more");
    }
    std::reverse(nic.queues.begin(), nic.queues.end());
    return nic;
  }

  [[nodiscard]] std::optional<fs::path> DevicePath(const std::string& link) const {
    std::error_code error;
    fs::path path = fs::canonical(fs::path(host_.sysfs) / link, error);
    if (error) return std::nullopt;
    return path;
  }

  // A NIC whose place is not known (a sysfs of another network namespace) is farther than any that is.
  [[nodiscard]] Distance DistanceTo(const std::string& name, const fs::path& gpu) const {
    const std::optional<fs::path> nic = DevicePath(absl::StrCat("class/net/", name, "/device"));
    if (!nic) return {.steps = 1000, .other_node = true};
    const auto [a, b] = std::mismatch(nic->begin(), nic->end(), gpu.begin(), gpu.end());
    return {.steps = static_cast<size_t>(std::distance(a, nic->end()) + std::distance(b, gpu.end())),
            .other_node = Node(*nic) != Node(gpu)};
  }

  static std::string Node(const fs::path& device) {
    std::string node;
    std::ifstream(device / "numa_node") >> node;
    return node;
  }

  const PlacementHost host_;
  const PlacementRequest& request_;
  std::vector<std::string> notes_;
};

}  // namespace

absl::StatusOr<Placement> ChoosePlacementOn(PlacementHost host, const PlacementRequest& request) {
  return Chooser(std::move(host), request).Choose();
}

absl::StatusOr<Placement> ChoosePlacement(const PlacementRequest& request) {
  DEVMEM_ASSIGN_OR_RETURN(const std::unique_ptr<RxKernel> kernel, RxKernel::Open());
  return ChoosePlacementOn({.kernel = *kernel}, request);
}

}  // namespace devmem
