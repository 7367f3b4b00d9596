// SPDX-License-Identifier: Apache-2.0
// Does with the netlink clients what it is told, a line of JSON each, and answers in a line of JSON: what the tests in the
// guest (tests/guest/netlink) drive, to compare it with what upstream's own tools see.
//
//   {"do": "insert", "interface": "dms0", "source": ["192.0.2.2", 80], "destination": ["192.0.2.1", 0], "queue": 3}
//   {"value": 0}                                               or {"code": "ALREADY_EXISTS", "message": "dms0: ..."}
//
// It knows no interface by default and keeps bindings until it ends, or until told to let one go.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"
#include "net/netlink/ethtool.h"
#include "net/netlink/flow_rules.h"
#include "net/netlink/netdev.h"
#include "net/netlink/route.h"

namespace devmem {
namespace {

using Json = nlohmann::json;
using Answer = absl::StatusOr<Json>;

constexpr size_t kMemory = 8 << 20;

// A dma-buf over anonymous memory, as the CPU device will export one.
absl::StatusOr<UniqueFd> MakeUdmabuf() {
  const UniqueFd memory(::memfd_create("netlink-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid() || ::ftruncate(memory.get(), kMemory) != 0 || ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return ErrnoError(errno, "cannot make memory");
  }
  const UniqueFd device(::open("/dev/udmabuf", O_RDWR | O_CLOEXEC));
  if (!device.valid()) return ErrnoError(errno, "cannot open /dev/udmabuf");
  udmabuf_create create{.memfd = static_cast<uint32_t>(memory.get()), .flags = UDMABUF_FLAGS_CLOEXEC, .size = kMemory};
  UniqueFd made(::ioctl(device.get(), UDMABUF_CREATE, &create));
  if (!made.valid()) return ErrnoError(errno, "cannot make a udmabuf");
  return made;
}

sockaddr_storage Address(const Json& told) {
  sockaddr_storage storage{};
  const std::string text = told.at(0);
  const uint16_t port = htons(told.at(1).get<uint16_t>());
  sockaddr_in v4{.sin_family = AF_INET, .sin_port = port};
  sockaddr_in6 v6{.sin6_family = AF_INET6, .sin6_port = port};
  if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) std::memcpy(&storage, &v4, sizeof(v4));
  if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) std::memcpy(&storage, &v6, sizeof(v6));
  return storage;
}

std::string AddressText(const sockaddr_storage& storage) {
  char text[INET6_ADDRSTRLEN] = "";
  const void* address = storage.ss_family == AF_INET
                            ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in&>(storage).sin_addr)
                            : &reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr;
  ::inet_ntop(storage.ss_family, address, text, sizeof(text));
  return text;
}

FlowMatch Match(const Json& told) {
  return {.source = Address(told.at("source")), .destination = Address(told.at("destination"))};
}

Answer Nothing(const absl::Status& status) { return status.ok() ? Answer(Json(nullptr)) : Answer(status); }

class Probe {
 public:
  absl::Status Open() {
    DEVMEM_ASSIGN_OR_RETURN(netdev_, Netdev::Open());
    DEVMEM_ASSIGN_OR_RETURN(ethtool_, Ethtool::Open());
    DEVMEM_ASSIGN_OR_RETURN(rules_, FlowRules::Open());
    return absl::OkStatus();
  }

  Answer Do(const Json& told) {
    const std::map<std::string, Answer (Probe::*)(const Json&)> verbs = {
        {"queues", &Probe::Queues},     {"pools", &Probe::Pools},       {"stats", &Probe::Stats},
        {"bind", &Probe::Bind},         {"unbind", &Probe::Unbind},     {"driver", &Probe::Driver},
        {"rings", &Probe::Rings},       {"split", &Probe::Split},       {"channels", &Probe::Channels},
        {"feature", &Probe::Feature},   {"set-feature", &Probe::Set},   {"rss", &Probe::Rss},
        {"contexts", &Probe::Contexts}, {"set-rss", &Probe::SetRss},    {"reset-rss", &Probe::ResetRss},
        {"budget", &Probe::Budget},     {"rules", &Probe::Rules},       {"insert", &Probe::Insert},
        {"delete", &Probe::Delete},     {"insert-many", &Probe::Flood}, {"route", &Probe::RouteOf},
        {"physical", &Probe::Physical}, {"race", &Probe::Race},
    };
    const auto verb = verbs.find(told.at("do"));
    if (verb == verbs.end()) return absl::InvalidArgumentError("no such verb");
    return (this->*verb->second)(told);
  }

 private:
  static std::string Interface(const Json& told) { return told.at("interface"); }
  static uint32_t Index(const Json& told) {
    return told.contains("ifindex") ? told["ifindex"].get<uint32_t>() : ::if_nametoindex(Interface(told).c_str());
  }

  Answer Queues(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const auto queues, netdev_->RxQueues(Index(told)));
    Json all = Json::array();
    for (const RxQueueState& each : queues) {
      all.push_back({{"queue", each.queue},
                     {"napi", each.napi_id},
                     {"dmabuf", each.dmabuf},
                     {"io-uring", each.io_uring},
                     {"xsk", each.xsk}});
    }
    return all;
  }

  Answer Pools(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const auto pools, netdev_->PagePools(Index(told)));
    Json all = Json::array();
    for (const PagePoolState& each : pools) {
      all.push_back({{"id", each.id},
                     {"ifindex", each.ifindex},
                     {"napi", each.napi_id},
                     {"inflight", each.inflight},
                     {"inflight-bytes", each.inflight_bytes},
                     {"dmabuf", each.dmabuf},
                     {"detached", each.detached}});
    }
    return all;
  }

  Answer Stats(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const auto stats, netdev_->RxStats(Index(told)));
    Json all = Json::array();
    for (const RxQueueStats& each : stats) {
      all.push_back({{"queue", each.queue}, {"packets", each.packets}, {"bytes", each.bytes}, {"alloc-fail", each.alloc_fail}});
    }
    return all;
  }

  Answer Bind(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const UniqueFd memory, MakeUdmabuf());
    const std::vector<uint32_t> queues = told.at("queues");
    DEVMEM_ASSIGN_OR_RETURN(DmabufBinding binding, DmabufBinding::Bind(Interface(told), Index(told), memory.get(), queues,
                                                                       told.value("page-size", 0U)));
    const uint32_t id = binding.id();
    bindings_.emplace(id, std::move(binding));
    return Json(id);
  }

  Answer Unbind(const Json& told) {
    bindings_.erase(told.at("id").get<uint32_t>());
    return Json(nullptr);
  }

  Answer Driver(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const std::string driver, ethtool_->Driver(Interface(told)));
    return Json(driver);
  }

  Answer Rings(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const devmem::Rings rings, ethtool_->GetRings(Interface(told)));
    Json out = {{"rx", rings.rx},
                {"rx-max", rings.rx_max},
                {"has-split", rings.has_header_split},
                {"split", static_cast<int>(rings.header_split)}};
    if (rings.threshold.has_value()) out["threshold"] = *rings.threshold;
    if (rings.threshold_max.has_value()) out["threshold-max"] = *rings.threshold_max;
    return out;
  }

  Answer Split(const Json& told) {
    std::optional<uint32_t> threshold;
    if (told.contains("threshold")) threshold = told["threshold"].get<uint32_t>();
    return Nothing(ethtool_->SetHeaderSplit(Interface(told), static_cast<HeaderSplit>(told.at("split").get<int>()), threshold));
  }

  Answer Channels(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const devmem::Channels channels, ethtool_->GetChannels(Interface(told)));
    return Json{{"rx", channels.rx},
                {"combined", channels.combined},
                {"combined-max", channels.combined_max},
                {"queues", channels.rx_queues()}};
  }

  Answer Feature(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const devmem::Feature feature, ethtool_->GetFeature(Interface(told), told.at("name")));
    return Json{{"active", feature.active}, {"fixed", feature.fixed}};
  }

  Answer Set(const Json& told) { return Nothing(ethtool_->SetFeature(Interface(told), told.at("name"), told.at("on"))); }

  Answer Rss(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const RssTable table, ethtool_->GetRss(Interface(told), told.value("context", 0U)));
    return Json(table.queues);
  }

  Answer Contexts(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<uint32_t> contexts, ethtool_->RssContexts(Interface(told)));
    return Json(contexts);
  }

  Answer SetRss(const Json& told) { return Nothing(ethtool_->SetRss(Interface(told), {.queues = told.at("table")})); }

  Answer ResetRss(const Json& told) { return Nothing(ethtool_->ResetRss(Interface(told))); }

  Answer Budget(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const RuleBudget budget, rules_->Budget(Interface(told)));
    return Json{{"used", budget.used}, {"capacity", budget.capacity}, {"any", budget.any_location}};
  }

  Answer Rules(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<FlowRule> rules, rules_->List(Interface(told)));
    Json all = Json::array();
    for (const FlowRule& rule : rules) {
      Json each = {{"location", rule.location}, {"exact", rule.exact}, {"discards", rule.discards}};
      if (!rule.discards) each["queue"] = rule.ring_cookie;
      if (rule.exact) each["match"] = rule.match.ToString();
      if (rule.has_context) each["context"] = rule.context;
      all.push_back(std::move(each));
    }
    return all;
  }

  Answer Insert(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const uint32_t location, rules_->Insert(Interface(told), Match(told), told.at("queue")));
    return Json(location);
  }

  Answer Delete(const Json& told) {
    return Nothing(rules_->Delete(Interface(told), told.at("location"), Match(told), told.at("queue")));
  }

  // As many rules as "count" says, each for the next destination port: their locations.
  Answer Flood(const Json& told) {
    Json locations = Json::array();
    Json each = told;
    for (uint32_t i = 0; i < told.at("count").get<uint32_t>(); ++i) {
      DEVMEM_ASSIGN_OR_RETURN(Json location, Insert(each));
      locations.push_back(std::move(location));
      each["destination"][1] = each["destination"][1].get<int>() + 1;
    }
    return locations;
  }

  // The same from two threads, each with a FlowRules of its own: both lists of locations.
  Answer Race(const Json& told) {
    Answer other = absl::UnknownError("did not run");
    std::thread thread([&] {
      Probe probe;
      const absl::Status opened = probe.Open();
      other = opened.ok() ? probe.Flood(told) : Answer(opened);
    });
    Json mine = told;
    mine["destination"][1] = told["destination"][1].get<int>() + told.at("count").get<int>();
    Answer ours = Flood(mine);
    thread.join();
    if (!ours.ok()) return ours;
    if (!other.ok()) return other;
    return Json{*ours, *other};
  }

  Answer RouteOf(const Json& told) {
    const sockaddr_storage peer = Address(told.at("peer"));
    DEVMEM_ASSIGN_OR_RETURN(const Route route, RouteTo(reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)));
    return Json{{"ifindex", route.ifindex},
                {"interface", route.interface},
                {"source", AddressText(route.source)},
                {"local", route.local}};
  }

  Answer Physical(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const auto devices, PhysicalDevices(Interface(told)));
    return Json(devices);
  }

  std::unique_ptr<Netdev> netdev_;
  std::unique_ptr<Ethtool> ethtool_;
  std::unique_ptr<FlowRules> rules_;
  std::map<uint32_t, DmabufBinding> bindings_;
};

int Main() {
  Probe probe;
  if (const absl::Status opened = probe.Open(); !opened.ok()) {
    std::cerr << opened.message() << "\n";
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      const Answer answer = probe.Do(Json::parse(line));
      if (answer.ok()) {
        out["value"] = *answer;
      } else {
        out = {{"code", absl::StatusCodeToString(answer.status().code())}, {"message", Text(answer.status())}};
      }
    } catch (const Json::exception& e) {
      out = {{"code", "BAD_REQUEST"}, {"message", e.what()}};
    }
    std::cout << out << std::endl;  // NOLINT(performance-avoid-endl): the test waits for it
  }
  return 0;
}

}  // namespace
}  // namespace devmem

int main() { return devmem::Main(); }
