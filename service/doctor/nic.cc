// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/nic.h"

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "net/netlink/netdev.h"
#include "net/rx/nic_settings.h"

namespace devmem::doctor {
namespace {

// A segment that fills a page of 4,096 bytes, with IPv6, TCP and timestamps before it.
constexpr uint32_t kPageFillingMtu = 4096 + 40 + 20 + 12;
constexpr uint32_t kLeastMtu = 1280;  // IPv6's
constexpr std::array kBindable = {"bnxt_en", "mlx5_core", "gve", "fbnic", "devmemsim"};
constexpr std::array kChecks = {"link", "driver", "mtu", "xdp", "header-split", "ntuple", "rules", "rss", "queues", "bind"};

Row LinkRow(const NicFacts& facts) {
  const std::string wanted = "up, with a carrier";
  if (!facts.link.ok()) return Unseen("link", facts.interface, facts.link.status(), wanted);
  if (!facts.link->up) {
    return Fail("link", facts.interface,
                {.found = "down", .wanted = wanted, .fix = absl::StrCat("ip link set ", facts.interface, " up")});
  }
  if (!facts.link->carrier) {
    return Fail("link", facts.interface,
                {.found = "up, without a carrier",
                 .wanted = wanted,
                 .fix = absl::StrCat("the cable, the switch's port, or the other end; ethtool ", facts.interface)});
  }
  return Pass("link", facts.interface, {.found = wanted, .wanted = wanted});
}

Row DriverRow(const NicFacts& facts) {
  const std::string wanted = absl::StrCat("a driver that takes device memory: ", absl::StrJoin(kBindable, ", "));
  if (!facts.told.ok()) return Unseen("driver", facts.interface, facts.told.status(), wanted);
  const LinkFacts& told = *facts.told;
  Finding finding{.found = absl::StrCat(told.driver.empty() ? "none is told" : told.driver,
                                        told.firmware.empty() ? "" : absl::StrCat(", firmware ", told.firmware),
                                        told.bus.empty() ? "" : absl::StrCat(", at ", told.bus)),
                  .wanted = wanted,
                  .fix = "another NIC, or --canary: only a binding tells what an unknown driver can do"};
  const bool known = std::find(kBindable.begin(), kBindable.end(), told.driver) != kBindable.end();
  return MakeRow(known ? Verdict::kPass : Verdict::kWarn, "driver", facts.interface, std::move(finding));
}

Row MtuRow(const NicFacts& facts) {
  const std::string wanted = absl::StrCat(kPageFillingMtu, " or more: a segment fills a page of a buffer");
  if (!facts.told.ok()) return Unseen("mtu", facts.interface, facts.told.status(), wanted);
  Finding finding{.found = absl::StrCat(facts.told->mtu),
                  .wanted = wanted,
                  .fix = absl::StrCat("ip link set ", facts.interface, " mtu 9000, if switches and store do so too")};
  if (facts.told->mtu >= kPageFillingMtu) return Pass("mtu", facts.interface, std::move(finding));
  return MakeRow(facts.told->mtu < kLeastMtu ? Verdict::kFail : Verdict::kWarn, "mtu", facts.interface, std::move(finding));
}

Row XdpRow(const NicFacts& facts) {
  const std::string wanted = "no XDP program: the kernel binds no device memory beside one";
  if (!facts.told.ok()) return Unseen("xdp", facts.interface, facts.told.status(), wanted);
  Finding finding{.found = "none", .wanted = wanted, .fix = absl::StrCat("ip link set ", facts.interface, " xdp off")};
  if (!facts.told->xdp) return Pass("xdp", facts.interface, std::move(finding));
  finding.found = "an XDP program is attached";
  return Fail("xdp", facts.interface, std::move(finding));
}

Row HeaderSplitRow(const NicFacts& facts) {
  const std::string wanted = "a driver that splits headers from payload";
  if (!facts.rings.ok()) return Unseen("header-split", facts.interface, facts.rings.status(), wanted);
  if (!facts.rings->has_header_split) {
    return Fail("header-split", facts.interface,
                {.found = "the driver knows no tcp-data-split",
                 .wanted = wanted,
                 .fix = "another NIC, or newer driver and firmware; ethtool -g shows 'TCP data split'"});
  }
  const bool on = SplitIsOn(*facts.rings);
  const bool gro_hw_fixed_off = facts.gro_hw.ok() && facts.gro_hw->fixed && !facts.gro_hw->active;
  if (!on && gro_hw_fixed_off && facts.told.ok() && facts.told->driver == "mlx5_core") {
    return Fail("header-split", facts.interface,
                {.found = "off, and rx-gro-hw, which the driver wants first, cannot be turned on",
                 .wanted = wanted,
                 .fix = "ConnectX-7 or newer, and no XDP, PTP or HTB on it"});
  }
  return Pass("header-split", facts.interface,
              {.found = on ? "on" : "off now; the daemon turns it on (tried by --canary)", .wanted = wanted});
}

Row NtupleRow(const NicFacts& facts) {
  const std::string wanted = "rx-ntuple-filter on, or to be turned on";
  // A driver without that feature may take rules all the same: row `rules` tells.
  if (absl::IsNotFound(facts.ntuple.status())) {
    return Pass("ntuple", facts.interface, {.found = "the driver has no such switch", .wanted = wanted});
  }
  if (!facts.ntuple.ok()) return Unseen("ntuple", facts.interface, facts.ntuple.status(), wanted);
  if (facts.ntuple->active) return Pass("ntuple", facts.interface, {.found = "on", .wanted = wanted});
  if (facts.ntuple->fixed) {
    return Fail("ntuple", facts.interface,
                {.found = "off, and the driver cannot turn it on",
                 .wanted = wanted,
                 .fix = "another NIC, or its firmware's flow steering (mlx5: FLOW_STEERING)"});
  }
  return Warn("ntuple", facts.interface,
              {.found = "off: the daemon turns it on where rules are refused without it, and off again at its end",
               .wanted = wanted,
               .fix = absl::StrCat("ethtool -K ", facts.interface, " ntuple on")});
}

Row RulesRow(const NicFacts& facts, const NicNeeds& needs) {
  const uint64_t rules = uint64_t{needs.queues} * needs.connections;
  const std::string wanted = absl::StrCat(rules, " free: one a connection");
  if (!facts.rules.ok()) {
    return Fail("rules", facts.interface,
                {.found = absl::StrCat("the driver takes no ntuple rules: ", Words(facts.rules.status())),
                 .wanted = wanted,
                 .fix = "another NIC or driver"});
  }
  const RuleBudget& budget = *facts.rules;
  if (budget.capacity == 0) {
    return Pass("rules", facts.interface,
                {.found = absl::StrCat(budget.used, " in use; the driver does not tell its capacity"), .wanted = wanted});
  }
  const uint64_t free = budget.capacity - std::min(budget.used, budget.capacity);
  Finding finding{.found = absl::StrCat(free, " free of ", budget.capacity),
                  .wanted = wanted,
                  .fix = absl::StrCat("ethtool -n ", facts.interface, " lists them, ethtool -N ", facts.interface,
                                      " delete N takes one out; or --steer address, which needs one a queue")};
  if (free >= rules) return Pass("rules", facts.interface, std::move(finding));
  if (free == 0) {
    finding.found += ": the rule table is full";
    return Fail("rules", facts.interface, std::move(finding));
  }
  finding.found += ": further connections fall back to host memory";
  return Warn("rules", facts.interface, std::move(finding));
}

Row RssRow(const NicFacts& facts, const NicNeeds& needs) {
  const std::string wanted = "a table that can be moved off the bound queues";
  if (absl::IsUnimplemented(facts.rss.status())) {
    return Warn("rss", facts.interface,
                {.found = "the driver has no RSS table: where hashed traffic goes is not to be seen",
                 .wanted = wanted,
                 .fix = absl::StrCat("ethtool -x ", facts.interface, " says what it has")});
  }
  if (!facts.rss.ok()) return Unseen("rss", facts.interface, facts.rss.status(), wanted);
  if (!facts.use.ok()) return Skip("rss", facts.interface, "its queues cannot be listed: see row queues");
  const std::set<uint32_t> leads(facts.rss->queues.begin(), facts.rss->queues.end());
  // The highest that are free, as placement takes them.
  std::set<uint32_t> bound;
  for (uint32_t queue = facts.use->queues; queue-- > 1 && bound.size() < needs.queues;) {
    if (!facts.use->taken.contains(queue)) bound.insert(queue);
  }
  const size_t stays = static_cast<size_t>(
      std::count_if(leads.begin(), leads.end(), [&bound](uint32_t queue) { return !bound.contains(queue); }));
  Finding finding{.found = absl::StrCat("leads to queues ", absl::StrJoin(leads, ","),
                                        stays < leads.size() ? "; the daemon moves it off " : "",
                                        stays < leads.size() ? absl::StrJoin(bound, ",") : ""),
                  .wanted = wanted,
                  .fix = absl::StrCat("ethtool -X ", facts.interface, " default")};
  if (stays > 0 || leads.empty()) return Pass("rss", facts.interface, std::move(finding));
  finding.found += ", all that it leads to: somebody has chosen them for other traffic";
  return Warn("rss", facts.interface, std::move(finding));
}

Row QueuesRow(const NicFacts& facts, const NicNeeds& needs) {
  const std::string wanted = absl::StrCat(needs.queues, " free besides queue 0");
  if (facts.link.ok() && !facts.link->up && (!facts.use.ok() || facts.use->queues == 0)) {
    return Skip("queues", facts.interface, "the kernel lists none while the link is down");
  }
  if (!facts.use.ok()) return Unseen("queues", facts.interface, facts.use.status(), wanted);
  std::vector<std::string> taken;
  size_t free = 0;
  for (uint32_t queue = 1; queue < facts.use->queues; ++queue) {
    const auto found = facts.use->taken.find(queue);
    if (found == facts.use->taken.end()) {
      ++free;
    } else if (taken.size() < 2) {
      taken.push_back(absl::StrCat("queue ", queue, ": ", found->second));
    }
  }
  const uint32_t most = facts.channels.ok() ? std::max(facts.channels->combined_max, facts.channels->rx_max) : 0;
  const uint64_t more = uint64_t{facts.use->queues} + needs.queues - std::min(needs.queues, free);
  const std::string channels = absl::StrCat("ethtool -L ", facts.interface,
                                            facts.channels.ok() && facts.channels->combined == 0 ? " rx " : " combined ");
  Finding finding{
      .found = absl::StrCat(free, " free of ", facts.use->queues, taken.empty() ? "" : "; ", absl::StrJoin(taken, "; ")),
      .wanted = wanted,
      .fix = most == 0 || more <= most
                 ? absl::StrCat(channels, more)
                 : absl::StrCat("--queues ", std::max<size_t>(free, 1), ", or free one (it has ", most, " at most)")};
  if (free >= needs.queues) return Pass("queues", facts.interface, std::move(finding));
  return MakeRow(free == 0 ? Verdict::kFail : Verdict::kWarn, "queues", facts.interface, std::move(finding));
}

// Asked with a dma-buf that is none, the kernel refuses for the first thing in the way: where that is the dma-buf, nothing is.
Row BindRow(const NicFacts& facts) {
  const std::string wanted = "a kernel and driver that would bind a dma-buf";
  const absl::StatusCode code = facts.bind.code();
  if (code == absl::StatusCode::kPermissionDenied) return Skip("bind", facts.interface, Words(facts.bind), kAsRoot);
  // EBADF, which has no status code of its own.
  if (GetErrorInfo(facts.bind).error_number == EBADF) {
    return Pass("bind", facts.interface, {.found = "bind-rx is there, and looks at the dma-buf", .wanted = wanted});
  }
  if (facts.bind.ok()) return Skip("bind", facts.interface, "not asked: there is no queue to ask for");
  return Fail("bind", facts.interface, {.found = Words(facts.bind), .wanted = wanted, .fix = FixOf(facts.bind)});
}

}  // namespace

absl::Status BindNothing(const Link& link, uint32_t queue) {
  // The dma-buf is looked up before anything is changed, and there is none of that number.
  return DmabufBinding::Bind(link.interface, link.ifindex, -1, std::array{queue}, 0).status();
}

NicFacts LookAtNic(const NicHost& host, const std::string& interface) {
  RxKernel& kernel = host.kernel;
  NicFacts facts;
  facts.interface = interface;
  facts.link = kernel.FindLink(interface);
  facts.told = host.look(interface);
  facts.rings = kernel.ethtool().GetRings(interface);
  facts.ntuple = kernel.ethtool().GetFeature(interface, kNtuple);
  facts.gro_hw = kernel.ethtool().GetFeature(interface, kGroHw);
  facts.rules = kernel.rules().Budget(interface);
  facts.channels = kernel.ethtool().GetChannels(interface);
  facts.rss = kernel.ethtool().GetRss(interface);
  facts.use = facts.link.ok() ? FindQueueUse(kernel, *facts.link) : absl::StatusOr<QueueUse>(facts.link.status());
  if (facts.link.ok() && facts.link->up && facts.use.ok() && facts.use->queues > 1) {
    facts.bind = host.bind_nothing(*facts.link, facts.use->queues - 1);
  }
  return facts;
}

Rows NicRows(const NicFacts& facts, const NicNeeds& needs) {
  return {LinkRow(facts),   DriverRow(facts),       MtuRow(facts),        XdpRow(facts),           HeaderSplitRow(facts),
          NtupleRow(facts), RulesRow(facts, needs), RssRow(facts, needs), QueuesRow(facts, needs), BindRow(facts)};
}

Rows NoNicRows(const std::string& interface, const std::string& why) {
  Rows rows;
  for (const char* check : kChecks) rows.push_back(Skip(check, interface, why));
  return rows;
}

}  // namespace devmem::doctor
