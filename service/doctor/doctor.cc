// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/doctor.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu/make_device.h"
#include "net/netlink/route.h"
#include "net/rx/landing_pool.h"
#include "net/rx/placement.h"
#include "net/rx/rx_kernel.h"
#include "service/doctor/canary.h"
#include "service/doctor/host_files.h"
#include "service/doctor/machine.h"
#include "service/doctor/nic.h"
#include "service/doctor/pci.h"
#include "service/doctor/store.h"

namespace devmem::doctor {
namespace {

constexpr uint64_t kRing = 1024;              // Rx descriptors, where no NIC tells its own
constexpr uint64_t kReceiveBuffer = 8 << 20;  // as net/devmem_transport.cc gives them, at most and at least
constexpr uint64_t kLeastReceiveBuffer = 128 << 10;
constexpr uint64_t kOtherDescriptors =
    1024;  // of trainers: a connection, a handle socket, a pidfd and a slab each, and the daemon's own

void Append(Rows& rows, Rows more) {
  rows.insert(rows.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

class Examination {
 public:
  explicit Examination(const DoctorOptions& options) : options_(options), gpu_(GpuAddress(host_, options.device)) {}

  Rows Run() {
    FindNics();
    Rows rows = MachineRows(LookAtMachine(host_), MachineNeed());
    Append(rows, std::move(nic_rows_));
    Append(rows, PciRows(host_, PciNeed()));
    std::optional<StoreFacts> store;
    if (options_.bucket.empty()) {
      for (const char* check : {"store", "latency", "route", "credentials"})
        rows.push_back(Skip(check, "", "no bucket was named", "--bucket URI"));
    } else {
      store = LookAtStore({.uri = options_.bucket, .endpoint_url = options_.endpoint_url, .timeout = options_.timeout});
      Append(rows, StoreRows(*store, {.nics = Names(), .slow = options_.slow}));
    }
    Append(rows, CanaryRows(store));
    return rows;
  }

 private:
  [[nodiscard]] std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const NicFacts& nic : nics_) names.push_back(nic.interface);
    return names;
  }

  // Fills nics_, and nic_rows_ with what can be told of each, and of those that are none.
  void FindNics() {
    const absl::StatusOr<std::unique_ptr<RxKernel>> kernel = RxKernel::Open();
    if (options_.interfaces.empty()) {
      Choose(kernel.status());
    } else {
      for (const std::string& name : options_.interfaces) Find(name);
    }
    for (auto& [name, row] : found_) {
      nic_rows_.push_back(std::move(row));
      if (name.empty()) {
        Append(nic_rows_, NoNicRows(nic_rows_.back().object, "there is no NIC to look at"));
      } else if (!kernel.ok()) {
        Append(nic_rows_, NoNicRows(name, Words(kernel.status())));
      } else {
        nics_.push_back(LookAtNic({.kernel = **kernel}, name));
        Append(nic_rows_, NicRows(nics_.back(), {.queues = options_.queues, .connections = options_.connections}));
      }
    }
  }

  static constexpr char kWanted[] = "a NIC, or a bond or VLAN over some";

  void Choose(const absl::Status& kernel) {
    const absl::StatusOr<Placement> placement =
        kernel.ok() ? ChoosePlacement({.queues = options_.queues, .near_pci = gpu_}) : absl::StatusOr<Placement>(kernel);
    if (!placement.ok()) {
      found_.emplace_back("", Unseen("interface", "", placement.status(), kWanted));
      return;
    }
    for (const NicPlacement& nic : placement->nics) {
      found_.emplace_back(nic.interface,
                          Pass("interface", nic.interface, {.found = "chosen, as a daemon would", .wanted = kWanted}));
    }
  }

  void Find(const std::string& name) {
    const absl::StatusOr<std::vector<std::string>> devices = PhysicalDevices(name);
    if (!devices.ok()) {
      found_.emplace_back("", Unseen("interface", name, devices.status(), kWanted));
      return;
    }
    for (const std::string& device : *devices) {
      const auto same = [&device](const auto& each) { return each.first == device; };
      if (std::any_of(found_.begin(), found_.end(), same)) continue;
      found_.emplace_back(device,
                          Pass("interface", device,
                               {.found = device == name ? "named" : absl::StrCat("stands under ", name), .wanted = kWanted}));
    }
  }

  [[nodiscard]] PoolDemand Demand(uint64_t page_size, uint64_t receive_buffer) const {
    uint64_t ring = kRing;
    if (!nics_.empty() && nics_.front().rings.ok() && nics_.front().rings->rx != 0) ring = nics_.front().rings->rx;
    return {.queues = options_.queues,
            .ring = ring,
            .page_size = page_size,
            .connections = options_.connections,
            .receive_buffer = receive_buffer};
  }

  [[nodiscard]] MachineNeeds MachineNeed() const {
    return {.device = options_.device,
            .pool = LandingPoolSize(Demand(4 << 10, kReceiveBuffer)).bytes(),
            .least_pool = LandingPoolSize(Demand(4 << 10, kLeastReceiveBuffer)).bytes(),
            .huge_pool = LandingPoolSize(Demand(64 << 10, kReceiveBuffer)).bytes(),
            .descriptors = options_.queues * options_.connections + kOtherDescriptors};
  }

  [[nodiscard]] PciQuestion PciNeed() const {
    PciQuestion question{.device = options_.device, .pool = MachineNeed().pool};
    for (const NicFacts& nic : nics_) question.nics.emplace_back(nic.interface, nic.told.ok() ? nic.told->bus : "");
    return question;
  }

  // Where the bytes shall go. A GPU's device is made here once gpu/ has one.
  Rows CanaryRows(const std::optional<StoreFacts>& store) {
    if (!options_.canary) {
      Rows rows;
      for (const char* check : {"page-size", "binding", "canary", "put-back"}) {
        rows.push_back(Skip(check, "", "only a binding tells", "--canary --bucket URI, as root"));
      }
      return rows;
    }
    if (nics_.empty()) return NoCanaryRows("", "there is no NIC to try it on", "see row interface");
    if (!store || store->store == nullptr || store->largest.empty()) {
      return NoCanaryRows("", "there is no object to read", "see row store");
    }
    const absl::StatusOr<std::shared_ptr<Device>> device = MakeDevice(options_.device);
    if (!device.ok()) return NoCanaryRows("", Words(device.status()), FixOf(device.status()));
    Rows rows;
    for (const NicFacts& nic : nics_) Append(rows, CanaryOn(nic, *store, *device));
    return rows;
  }

  [[nodiscard]] Rows CanaryOn(const NicFacts& nic, const StoreFacts& store, const std::shared_ptr<Device>& device) const {
    const auto under_route = std::find(store.devices.begin(), store.devices.end(), nic.interface);
    if (store.routed.ok() && store.by_wire && (under_route == store.devices.end() || store.local)) {
      return NoCanaryRows(nic.interface, absl::StrCat("the store's bytes come by ", store.route), "see row route");
    }
    const absl::StatusOr<Placement> placement = ChoosePlacement({.interfaces = {nic.interface}, .queues = 1});
    if (!placement.ok()) {
      return NoCanaryRows(nic.interface, Words(placement.status()), FixOf(placement.status()));
    }
    return RunCanary({.interface = nic.interface,
                      .queue = placement->nics.front().queues.front(),
                      .ring = nic.rings.ok() && nic.rings->rx != 0 ? nic.rings->rx : kRing,
                      .device = device,
                      .store = store.store,
                      .object = store.largest,
                      .object_bytes = store.largest_bytes,
                      .journal_folder = options_.journal_folder,
                      .timeout = options_.timeout});
  }

  const DoctorOptions& options_;
  const HostFiles host_;
  const std::string gpu_;
  std::vector<std::pair<std::string, Row>> found_;  // a physical device, or empty, and row interface
  std::vector<NicFacts> nics_;
  Rows nic_rows_;
};

}  // namespace

Rows Examine(const DoctorOptions& options) { return Examination(options).Run(); }

bool Healthy(const Rows& rows) {
  return std::none_of(rows.begin(), rows.end(), [](const Row& row) { return row.verdict == Verdict::kFail; });
}

}  // namespace devmem::doctor
