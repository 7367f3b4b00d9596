// SPDX-License-Identifier: Apache-2.0
// FakeNic: one NIC as RxKernel shows it, with what real ones refuse, and a script for tests:
//
//   FakeNic nic;                       // 8 queues, up, driver "fake", nothing set
//   nic.fail["SetRss"] = status;       // each call of that name fails from now on, and changes nothing
//   nic.before = [&](const std::string& call) { ... };   // runs before each call that changes the NIC: "SetRss", "Bind" ...
//   nic.calls                          // those calls so far
//   auto kernel = nic.Kernel();        // any number of times, as processes come and go; nic outlives them; each has the index
//                                      // that the NIC had then: another index stands for another process
//
// A bound dma-buf lives as its Bound does. Threads: one.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/rx/rx_kernel.h"

namespace devmem {

struct FakeNic {
  // What it is.
  std::string name = "eth0";
  uint32_t ifindex = 7;
  uint32_t remade = 0;  // how often it went and came back: as another interface each time, to every process
  bool there = true;
  bool up = true;
  std::string driver = "fake";
  std::string permanent_mac = "02:00:00:00:00:07";
  bool splits = true;
  HeaderSplit split_default = HeaderSplit::kOff;
  bool split_refuses_off = false;   // bnxt
  bool split_wants_gro_hw = false;  // mlx5
  bool ntuple_gates = false;        // gve, bnxt
  uint32_t page_limit = 0;          // largest rx-page-size; 0: none
  uint32_t rule_room = 16;
  uint32_t ring = 256;
  bool module = false;  // devmem_binding is there: bindings are handles

  // How it stands.
  HeaderSplit split_set = HeaderSplit::kUnknown;
  std::optional<uint32_t> threshold = 0;
  std::map<std::string, Feature> features = {{"rx-ntuple-filter", {true, false}}, {"rx-gro-hw", {false, false}}};
  std::vector<uint32_t> rss_default = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<uint32_t> rss = rss_default;
  std::map<uint32_t, std::vector<uint32_t>> contexts;
  std::vector<FlowRule> rule_table;
  std::vector<RxQueueState> queues = MakeQueues(8);
  std::vector<PagePoolState> pools;
  std::vector<RxQueueStats> stats;
  uint32_t next_dmabuf = 11;
  std::map<uint32_t, int> holders;  // of a binding, by its dma-buf's id
  int looks_until_free = 0;         // a pool that lost its queue stays for so many looks

  // The script.
  std::map<std::string, absl::Status> fail;
  std::function<void(const std::string&)> before = [](const std::string&) {};
  std::vector<std::string> calls;

  [[nodiscard]] std::unique_ptr<RxKernel> Kernel();
  [[nodiscard]] HeaderSplit Split() const { return split_set == HeaderSplit::kUnknown ? split_default : split_set; }

  // All that a binding may change; equal before and after.
  [[nodiscard]] std::string Settings() const {
    std::string text = absl::StrCat("split ", static_cast<int>(Split()), " threshold ", threshold.value_or(9999), " rss");
    for (const uint32_t queue : rss) absl::StrAppend(&text, " ", queue);
    for (const auto& [feature, state] : features) absl::StrAppend(&text, " ", feature, state.active ? " on" : " off");
    for (const FlowRule& rule : rule_table) {
      absl::StrAppend(&text, " rule ", rule.location, " ", rule.match.ToString(), " > ", rule.ring_cookie);
    }
    for (const RxQueueState& queue : queues) absl::StrAppend(&text, " ", queue.dmabuf);
    return text;
  }

  // A handle's end: as devmem_binding does it, for one handle at a time.
  struct Handle {
    ResetAtEnd reset;
    std::vector<uint32_t> rss;  // as it was made
    std::map<uint32_t, std::pair<FlowMatch, uint32_t>> rules;
  };
  std::map<uint32_t, Handle> handles;

  // The kernel's side of a dying process, or of an unbind; of a binding by handle too.
  void End(uint32_t id) {
    const auto handle = handles.find(id);
    if (handle == handles.end()) return Unbind(id);
    for (const auto& [location, rule] : handle->second.rules) {
      std::erase_if(rule_table, [&](const FlowRule& each) { return each.location == location && each.match == rule.first; });
    }
    Unbind(id);
    if (handle->second.reset.rss && rss == handle->second.rss) rss = rss_default;
    if (handle->second.reset.header_split) {
      split_set = HeaderSplit::kUnknown;
      if (threshold) threshold = handle->second.reset.threshold_before;
      if (Split() != handle->second.reset.split_before) split_set = handle->second.reset.split_before;
    }
    handles.erase(handle);
  }
  void Unbind(uint32_t id) {
    for (RxQueueState& queue : queues) {
      if (queue.dmabuf == id) queue.dmabuf = 0;
    }
    for (PagePoolState& pool : pools) pool.detached |= pool.dmabuf == id;
    if (looks_until_free == 0) std::erase_if(pools, [](const PagePoolState& pool) { return pool.detached; });
  }

  absl::Status Do(const std::string& call) {
    before(call);
    calls.push_back(call);
    const auto found = fail.find(call);
    return found == fail.end() ? absl::OkStatus() : found->second;
  }

  static std::vector<RxQueueState> MakeQueues(uint32_t count) {
    std::vector<RxQueueState> made;
    for (uint32_t queue = 0; queue < count; ++queue) made.push_back({.queue = queue, .napi_id = 100 + queue});
    return made;
  }
};

class FakeKernel final : public RxKernel, private Netdev, private Ethtool, private FlowRules {
 public:
  explicit FakeKernel(FakeNic& nic) : nic_(nic), ifindex_(nic.ifindex) {}

  Netdev& netdev() override { return *this; }
  Ethtool& ethtool() override { return *this; }
  FlowRules& rules() override { return *this; }

  absl::StatusOr<Link> FindLink(const std::string& interface) override {
    if (!nic_.there || interface != nic_.name) return Gone(interface);
    return Link{nic_.name, Index(), nic_.up, nic_.up};
  }
  absl::StatusOr<Link> FindLink(uint32_t ifindex) override {
    return ifindex == Index() ? FindLink(nic_.name) : Gone(absl::StrCat(ifindex));
  }

  std::vector<std::string> Interfaces() override {
    return nic_.there ? std::vector<std::string>{"lo", nic_.name} : std::vector<std::string>{"lo"};
  }

  absl::StatusOr<std::unique_ptr<Bound>> Bind(const Link& link, int, std::span<const uint32_t> queues, uint32_t page_size,
                                              const ResetAtEnd& reset) override {
    DEVMEM_RETURN_IF_ERROR(Check(link.interface));
    DEVMEM_RETURN_IF_ERROR(nic_.Do(page_size == 0 ? "Bind" : absl::StrCat("Bind ", page_size)));
    if (page_size > nic_.page_limit) return absl::InvalidArgumentError("rx-page-size");
    if (nic_.split_set != HeaderSplit::kOn || nic_.threshold.value_or(0) != 0) {
      return absl::InvalidArgumentError("tcp-data-split is disabled");
    }
    for (const uint32_t queue : queues) {
      if (nic_.queues[queue].dmabuf != 0) return absl::AlreadyExistsError("memory provider bound");
    }
    const uint32_t id = nic_.next_dmabuf++;
    for (const uint32_t queue : queues) {
      nic_.queues[queue].dmabuf = id;
      nic_.pools.push_back({.id = 1000 + id * 8 + queue, .ifindex = Index(), .inflight = nic_.ring, .dmabuf = id});
    }
    if (nic_.module) nic_.handles[id] = {reset, nic_.rss, {}};
    return std::make_unique<FakeBound>(*this, id);
  }

  absl::StatusOr<std::unique_ptr<Bound>> Adopt(UniqueFd, bool by_handle, uint32_t id) override {
    if (by_handle != nic_.handles.contains(id)) return absl::InvalidArgumentError("no handle");
    return std::make_unique<FakeBound>(*this, id);
  }

  void FreeDeferred() override {}
  void Pause(Duration) override {
    if (nic_.looks_until_free > 0 && --nic_.looks_until_free == 0) nic_.Unbind(0);
  }

 private:
  struct FakeBound final : Bound, FlowRules {
    FakeBound(FakeKernel& of, uint32_t number) : kernel(of), nic(of.nic_), dmabuf(number) { ++nic.holders[dmabuf]; }
    ~FakeBound() override {
      if (--nic.holders[dmabuf] > 0) return;
      nic.before("Unbind");
      nic.calls.emplace_back("Unbind");
      nic.End(dmabuf);
    }
    [[nodiscard]] uint32_t id() const override { return dmabuf; }
    [[nodiscard]] bool by_handle() const override { return nic.handles.contains(dmabuf); }
    [[nodiscard]] FlowRules& rules() override { return by_handle() ? static_cast<FlowRules&>(*this) : kernel; }
    absl::StatusOr<UniqueFd> Share() override { return UniqueFd(); }

    absl::StatusOr<RuleBudget> Budget(const std::string& interface) override { return kernel.Budget(interface); }
    absl::StatusOr<std::vector<FlowRule>> List(const std::string& interface) override { return kernel.List(interface); }
    absl::StatusOr<uint32_t> Insert(const std::string& interface, const FlowMatch& match, uint32_t queue) override {
      absl::StatusOr<uint32_t> location = kernel.Insert(interface, match, queue);
      if (location.ok()) nic.handles[dmabuf].rules[*location] = {match, queue};
      return location;
    }
    absl::Status Delete(const std::string& interface, uint32_t location, const FlowMatch&, uint32_t) override {
      const auto found = nic.handles[dmabuf].rules.find(location);
      if (found == nic.handles[dmabuf].rules.end()) return absl::NotFoundError("no rule of this handle");
      const absl::Status status = kernel.Delete(interface, location, found->second.first, found->second.second);
      nic.handles[dmabuf].rules.erase(location);
      return status;
    }
    FakeKernel& kernel;
    FakeNic& nic;
    const uint32_t dmabuf;
  };

  static absl::Status Gone(const std::string& interface) {
    return absl::NotFoundError(absl::StrCat(interface, ": no such device"));
  }
  absl::Status Check(const std::string& interface) { return FindLink(interface).status(); }

  absl::StatusOr<std::vector<RxQueueState>> RxQueues(uint32_t) override { return nic_.queues; }
  absl::StatusOr<uint32_t> NapiIrq(uint32_t) override { return 0; }
  absl::StatusOr<std::vector<PagePoolState>> PagePools(uint32_t) override { return nic_.pools; }
  absl::StatusOr<std::vector<RxQueueStats>> RxStats(uint32_t) override { return nic_.stats; }

  absl::StatusOr<std::string> Driver(const std::string&) override { return nic_.driver; }
  absl::StatusOr<NicIdentity> Identity(const std::string& interface) override {
    DEVMEM_RETURN_IF_ERROR(Check(interface));
    return NicIdentity{nic_.driver, "0000:00:07.0", nic_.permanent_mac};
  }
  absl::StatusOr<Rings> GetRings(const std::string& interface) override {
    DEVMEM_RETURN_IF_ERROR(Check(interface));
    return Rings{.rx = nic_.ring, .has_header_split = nic_.splits, .header_split = nic_.Split(), .threshold = nic_.threshold};
  }
  absl::Status SetHeaderSplit(const std::string&, HeaderSplit split, std::optional<uint32_t> threshold) override {
    DEVMEM_RETURN_IF_ERROR(nic_.Do("SetHeaderSplit"));
    if (split == HeaderSplit::kOff && nic_.split_refuses_off) return absl::InvalidArgumentError("cannot be off");
    if (split == HeaderSplit::kOn && nic_.split_wants_gro_hw && !nic_.features[kGroHw].active) {
      return absl::InvalidArgumentError("needs rx-gro-hw");
    }
    nic_.split_set = split;
    if (threshold && nic_.threshold) nic_.threshold = threshold;
    return absl::OkStatus();
  }
  absl::StatusOr<Channels> GetChannels(const std::string&) override {
    return Channels{.combined = static_cast<uint32_t>(nic_.queues.size())};
  }
  absl::StatusOr<Feature> GetFeature(const std::string&, const std::string& name) override {
    const auto found = nic_.features.find(name);
    if (found == nic_.features.end()) return absl::NotFoundError(name);
    return found->second;
  }
  absl::Status SetFeature(const std::string&, const std::string& name, bool on) override {
    DEVMEM_RETURN_IF_ERROR(nic_.Do(absl::StrCat("SetFeature ", name, on ? " on" : " off")));
    if (name == kGroHw && !on && nic_.split_wants_gro_hw && nic_.Split() == HeaderSplit::kOn) {
      return absl::FailedPreconditionError("header split needs it");
    }
    nic_.features[name].active = on;
    if (name == "rx-ntuple-filter" && !on && nic_.ntuple_gates) nic_.rule_table.clear();
    return absl::OkStatus();
  }
  absl::StatusOr<RssTable> GetRss(const std::string&, uint32_t context) override {
    if (context == 0) return RssTable{nic_.rss};
    return RssTable{nic_.contexts[context]};
  }
  absl::StatusOr<std::vector<uint32_t>> RssContexts(const std::string&) override {
    std::vector<uint32_t> numbers;
    for (const auto& [number, table] : nic_.contexts) numbers.push_back(number);
    return numbers;
  }
  absl::Status SetRss(const std::string&, const RssTable& table) override {
    DEVMEM_RETURN_IF_ERROR(nic_.Do("SetRss"));
    nic_.rss = table.queues;
    return absl::OkStatus();
  }
  absl::Status ResetRss(const std::string&) override {
    DEVMEM_RETURN_IF_ERROR(nic_.Do("ResetRss"));
    nic_.rss = nic_.rss_default;
    return absl::OkStatus();
  }

  absl::StatusOr<RuleBudget> Budget(const std::string&) override {
    return RuleBudget{static_cast<uint32_t>(nic_.rule_table.size()), nic_.rule_room, true};
  }
  absl::StatusOr<std::vector<FlowRule>> List(const std::string&) override { return nic_.rule_table; }
  absl::StatusOr<uint32_t> Insert(const std::string&, const FlowMatch& match, uint32_t queue) override {
    DEVMEM_RETURN_IF_ERROR(nic_.Do("Insert"));
    if (nic_.ntuple_gates && !nic_.features["rx-ntuple-filter"].active) return absl::UnimplementedError("ntuple is off");
    if (nic_.rule_table.size() >= nic_.rule_room) return absl::ResourceExhaustedError("no room");
    uint32_t location = 0;
    const auto taken = [&](const FlowRule& rule) { return rule.location == location; };
    while (std::any_of(nic_.rule_table.begin(), nic_.rule_table.end(), taken)) ++location;
    nic_.rule_table.push_back({.location = location, .match = match, .exact = true, .ring_cookie = queue});
    return location;
  }
  absl::Status Delete(const std::string&, uint32_t location, const FlowMatch& match, uint32_t queue) override {
    DEVMEM_RETURN_IF_ERROR(nic_.Do("Delete"));
    for (auto rule = nic_.rule_table.begin(); rule != nic_.rule_table.end(); ++rule) {
      if (rule->location != location) continue;
      if (!(rule->match == match) || rule->ring_cookie != queue) return absl::AbortedError("another's");
      nic_.rule_table.erase(rule);
      return absl::OkStatus();
    }
    return absl::NotFoundError("no rule there");
  }

  static constexpr const char* kGroHw = "rx-gro-hw";
  FakeNic& nic_;
  const uint32_t ifindex_;  // while the NIC is the first

  [[nodiscard]] uint32_t Index() const { return ifindex_ + 100 * nic_.remade; }
};

inline std::unique_ptr<RxKernel> FakeNic::Kernel() { return std::make_unique<FakeKernel>(*this); }

}  // namespace devmem
