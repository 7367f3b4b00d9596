// SPDX-License-Identifier: Apache-2.0
// An insertion, under this process's lock for the interface:
//  1. List what is there. A rule for the same flow is refused here: some drivers would put ours in its place.
//  2. Full by the driver's own word: refused.
//  3. A driver that takes RX_CLS_LOC_ANY chooses the location. For others it is the first one that nothing stands at, looked at
//     once more just before: a driver may replace what stands there, and says nothing.
//  4. Read back. What is not what was asked for is taken out again, unless it is plainly somebody else's.
// Between steps 3 and 4 another process could do the same: the kernel offers no exclusion, so step 4 finds out.
#include "net/netlink/flow_rules.h"

#include <linux/ethtool.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/netlink/ethtool_ioctl.h"
#include "net/netlink/flow_spec.h"
#include "net/netlink/netlink_socket.h"

namespace devmem {
namespace {

constexpr int kListAttempts = 5;       // the table may grow between being counted and being listed
constexpr uint32_t kListSlack = 16;    // rules more than were counted
constexpr int kLocationAttempts = 16;  // free locations that turn out to be taken

// One lock an interface for the whole process, however many FlowRules there are. Never freed: names are few.
std::mutex& InterfaceLock(const std::string& interface) {
  static std::mutex guard;
  static auto* locks = new std::map<std::string, std::mutex>;
  const std::lock_guard hold(guard);
  return (*locks)[interface];
}

struct Locations {
  std::vector<uint32_t> taken;
  uint32_t table_size = 0;  // as the driver tells with a list; 0: it does not
};

class IoctlFlowRules : public FlowRules {
 public:
  explicit IoctlFlowRules(EthtoolIoctl ioctl) : ioctl_(std::move(ioctl)) {}

  absl::StatusOr<RuleBudget> Budget(const std::string& interface) override {
    ethtool_rxnfc count{};
    count.cmd = ETHTOOL_GRXCLSRLCNT;
    if (const int error = ioctl_.Call(interface, &count); error != 0) {
      return KernelRefusal({interface, "cannot count its steering rules"}, error);
    }
    RuleBudget budget{.used = count.rule_cnt,
                      .capacity = static_cast<uint32_t>(count.data & ~uint64_t{RX_CLS_LOC_SPECIAL}),
                      .any_location = (count.data & RX_CLS_LOC_SPECIAL) != 0};
    if (budget.capacity == 0) {  // mlx5 tells it only with the list
      DEVMEM_ASSIGN_OR_RETURN(const Locations listed, ListLocations(interface));
      budget.capacity = listed.table_size;
    }
    return budget;
  }

  absl::StatusOr<std::vector<FlowRule>> List(const std::string& interface) override {
    DEVMEM_ASSIGN_OR_RETURN(const Locations listed, ListLocations(interface));
    std::vector<FlowRule> rules;
    rules.reserve(listed.taken.size());
    for (const uint32_t location : listed.taken) {
      ethtool_rxnfc told{};
      if (const int error = Read(interface, location, told); error == 0) {
        rules.push_back(Rule(told));
      } else if (!Absent(error)) {
        return KernelRefusal({interface, absl::StrCat("cannot read the steering rule at ", location)}, error);
      }  // else it was deleted since it was listed
    }
    return rules;
  }

  absl::StatusOr<uint32_t> Insert(const std::string& interface, const FlowMatch& match, uint32_t queue) override {
    if (absl::Status good = CheckMatch(match); !good.ok()) return WithObject(good, interface);
    const std::lock_guard hold(InterfaceLock(interface));
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<FlowRule> rules, List(interface));
    std::set<uint32_t> taken;
    for (const FlowRule& rule : rules) {
      if (rule.exact && rule.match == match) return There(interface, rule);
      taken.insert(rule.location);
    }
    DEVMEM_ASSIGN_OR_RETURN(const RuleBudget budget, Budget(interface));
    if (budget.capacity != 0 && budget.used >= budget.capacity) return Full(interface, match, budget.used);

    ethtool_rx_flow_spec spec = ToSpec(match);
    spec.ring_cookie = queue;
    if (absl::Status put = budget.any_location ? PutAnywhere(interface, match, spec)
                                               : PutAtFirstFree(interface, match, spec, std::move(taken), budget.capacity);
        !put.ok()) {
      return put;
    }
    DEVMEM_RETURN_IF_ERROR(Verify(interface, match, spec));
    return spec.location;
  }

  absl::Status Delete(const std::string& interface, uint32_t location, const FlowMatch& match, uint32_t queue) override {
    const std::lock_guard hold(InterfaceLock(interface));
    const NetlinkSubject subject{interface, absl::StrCat("cannot delete the steering rule at ", location)};
    ethtool_rxnfc told{};
    if (const int error = Read(interface, location, told); error != 0) {
      // Drivers have several words for an empty location; only the list is plain.
      auto listed = ListLocations(interface);
      if (!listed.ok()) return listed.status();
      for (const uint32_t each : listed->taken) {
        if (each == location) return KernelRefusal(subject, error);
      }
      return MakeError(absl::StatusCode::kNotFound, absl::StrCat(subject.what, ": there is none"),
                       {.object = interface, .cause = "rule is gone"});
    }
    const FlowRule rule = Rule(told);
    if (!IsOurs(rule, match, queue)) {
      return MakeError(
          absl::StatusCode::kAborted,
          absl::StrCat(subject.what, ": it is not ", match.ToString(), " to queue ", queue, " but ", Describe(rule)),
          {.object = interface, .cause = "rule is another's", .action = "it was left alone"});
    }
    if (const int error = Remove(interface, location); error != 0) return KernelRefusal(subject, error);
    return absl::OkStatus();
  }

 private:
  static FlowRule Rule(const ethtool_rxnfc& told) {
    FlowRule rule = FromSpec(told.fs);
    if (rule.has_context) rule.context = told.rss_context;
    return rule;
  }

  static bool IsOurs(const FlowRule& rule, const FlowMatch& match, uint32_t queue) {
    return rule.exact && rule.match == match && rule.ring_cookie == queue && !rule.has_context;
  }

  static std::string Describe(const FlowRule& rule) {
    const std::string to = rule.discards      ? std::string("nowhere")
                           : rule.has_context ? absl::StrCat("RSS context ", rule.context)
                                              : absl::StrCat("queue ", rule.ring_cookie);
    return absl::StrCat(rule.exact ? rule.match.ToString() : "a rule of another kind", " to ", to);
  }

  static absl::Status There(const std::string& interface, const FlowRule& rule) {
    return MakeError(absl::StatusCode::kAlreadyExists,
                     absl::StrCat("a steering rule for that flow is at ", rule.location, " already: ", Describe(rule)),
                     {.object = interface,
                      .cause = "rule exists",
                      .action = absl::StrCat("if nobody needs it: ethtool -N ", interface, " delete ", rule.location)});
  }

  static absl::Status Full(const std::string& interface, const FlowMatch& match, uint32_t used) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     absl::StrCat("no room for a steering rule for ", match.ToString(), ": ", used, " are there"),
                     {.object = interface,
                      .fault = Fault::kRuleTableFull,
                      .cause = "rule table full",
                      .action = "use fewer connections, or --steer address"});
  }

  [[nodiscard]] static NetlinkSubject Inserting(const std::string& interface, const FlowMatch& match, uint64_t queue) {
    return {interface, absl::StrCat("no rule for ", match.ToString(), " to queue ", queue)};
  }

  // How drivers say that nothing stands at a location.
  static bool Absent(int error) { return error == ENOENT || error == EINVAL || error == ESRCH; }

  int Read(const std::string& interface, uint32_t location, ethtool_rxnfc& told) {
    told = {};
    told.cmd = ETHTOOL_GRXCLSRULE;
    told.fs.location = location;
    return ioctl_.Call(interface, &told);
  }

  int Put(const std::string& interface, ethtool_rx_flow_spec& spec) {
    ethtool_rxnfc command{};
    command.cmd = ETHTOOL_SRXCLSRLINS;
    command.fs = spec;
    const int error = ioctl_.Call(interface, &command);
    if (error == 0) spec.location = command.fs.location;
    return error;
  }

  int Remove(const std::string& interface, uint32_t location) {
    ethtool_rxnfc command{};
    command.cmd = ETHTOOL_SRXCLSRLDEL;
    command.fs.location = location;
    return ioctl_.Call(interface, &command);
  }

  absl::StatusOr<Locations> ListLocations(const std::string& interface) {
    const NetlinkSubject subject{interface, "cannot list its steering rules"};
    for (int attempt = 1;; ++attempt) {
      ethtool_rxnfc count{};
      count.cmd = ETHTOOL_GRXCLSRLCNT;
      if (const int error = ioctl_.Call(interface, &count); error != 0) return KernelRefusal(subject, error);
      const uint32_t room = count.rule_cnt + kListSlack;
      // rule_locs stands inside the structure's own padding.
      const size_t bytes = std::max(sizeof(ethtool_rxnfc), offsetof(ethtool_rxnfc, rule_locs) + room * sizeof(uint32_t));
      std::vector<uint64_t> buffer((bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
      auto* all = reinterpret_cast<ethtool_rxnfc*>(buffer.data());
      all->cmd = ETHTOOL_GRXCLSRLALL;
      all->rule_cnt = room;
      const int error = ioctl_.Call(interface, all);
      if (error == EMSGSIZE && attempt < kListAttempts) continue;
      if (error != 0) return KernelRefusal(subject, error);
      Locations listed{.table_size = static_cast<uint32_t>(all->data & ~uint64_t{RX_CLS_LOC_SPECIAL})};
      const auto* locations = reinterpret_cast<const std::byte*>(buffer.data()) + offsetof(ethtool_rxnfc, rule_locs);
      listed.taken.resize(std::min(all->rule_cnt, room));
      if (!listed.taken.empty()) std::memcpy(listed.taken.data(), locations, listed.taken.size() * sizeof(uint32_t));
      return listed;
    }
  }

  absl::Status Refused(const std::string& interface, const FlowMatch& match, const ethtool_rx_flow_spec& spec, int error) {
    const NetlinkSubject subject = Inserting(interface, match, spec.ring_cookie);
    if (error == ENOSPC) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       absl::StrCat(subject.what, ": the driver has no room for the rule"),
                       {.object = interface,
                        .fault = Fault::kRuleTableFull,
                        .cause = "rule table full",
                        .action = "use fewer connections, or --steer address"});
    }
    if (error == EOPNOTSUPP) {
      return MakeError(absl::StatusCode::kUnimplemented, absl::StrCat(subject.what, ": the driver takes no such rule"),
                       {.object = interface,
                        .cause = "rule not supported",
                        .action = absl::StrCat("turn its rules on: ethtool -K ", interface, " ntuple on")});
    }
    return KernelRefusal(subject, error);
  }

  absl::Status PutAnywhere(const std::string& interface, const FlowMatch& match, ethtool_rx_flow_spec& spec) {
    spec.location = RX_CLS_LOC_ANY;
    const int error = Put(interface, spec);
    return error == 0 ? absl::OkStatus() : Refused(interface, match, spec, error);
  }

  absl::Status PutAtFirstFree(const std::string& interface, const FlowMatch& match, ethtool_rx_flow_spec& spec,
                              std::set<uint32_t> taken, uint32_t capacity) {
    for (int attempt = 0; attempt < kLocationAttempts; ++attempt) {
      uint32_t location = 0;
      for (const uint32_t each : taken) {  // in order
        if (each != location) break;
        ++location;
      }
      if (capacity != 0 && location >= capacity) return Full(interface, match, static_cast<uint32_t>(taken.size()));
      spec.location = location;
      ethtool_rxnfc there{};
      if (Read(interface, location, there) != 0) {
        const int error = Put(interface, spec);
        if (error == 0) return absl::OkStatus();
        if (error != EEXIST) return Refused(interface, match, spec, error);
      }
      taken.insert(location);  // by another process, just now
    }
    return MakeError(absl::StatusCode::kAborted,
                     absl::StrCat(Inserting(interface, match, spec.ring_cookie).what, ": another process took ",
                                  kLocationAttempts, " locations just before us"),
                     {.object = interface, .cause = "rules in motion", .action = "find what else changes its rules"});
  }

  absl::Status Verify(const std::string& interface, const FlowMatch& match, const ethtool_rx_flow_spec& spec) {
    ethtool_rxnfc told{};
    const NetlinkSubject subject = Inserting(interface, match, spec.ring_cookie);
    if (const int error = Read(interface, spec.location, told); error != 0) {
      return MakeError(
          absl::StatusCode::kInternal,
          absl::StrCat(subject.what, ": the rule was taken, and is not at ", spec.location, ": ", std::strerror(error)),
          {.object = interface, .cause = "rule lost", .action = "find what else changes its rules"});
    }
    const FlowRule rule = Rule(told);
    if (IsOurs(rule, match, static_cast<uint32_t>(spec.ring_cookie))) return absl::OkStatus();
    const bool ours = Resembles(told.fs, spec);
    if (ours) Remove(interface, spec.location);
    return MakeError(absl::StatusCode::kInternal,
                     absl::StrCat(subject.what, ": what stands at ", spec.location, " now is ", Describe(rule),
                                  ours ? "; it was taken out again" : "; it is somebody else's and was left alone"),
                     {.object = interface,
                      .cause = "rule changed",
                      .action = ours ? "the driver cannot steer this flow" : "find what else changes its rules"});
  }

  EthtoolIoctl ioctl_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FlowRules>> FlowRules::Open() {
  DEVMEM_ASSIGN_OR_RETURN(EthtoolIoctl ioctl, EthtoolIoctl::Open());
  return std::make_unique<IoctlFlowRules>(std::move(ioctl));
}

}  // namespace devmem
