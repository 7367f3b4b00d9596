// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/ethtool.h"

#include <linux/ethtool.h>
#include <linux/ethtool_netlink.h>
#include <linux/netlink.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/netlink/ethtool_abi.h"
#include "net/netlink/ethtool_ioctl.h"
#include "net/netlink/genl.h"

namespace devmem {
namespace {

using namespace ethtool_abi;  // NOLINT(google-build-using-namespace): this file is about nothing else

static_assert(ETHTOOL_A_RINGS_TCP_DATA_SPLIT == 11 && ETHTOOL_MSG_MODULE_SET == 35, "ethtool_abi.h counts on from these");

constexpr uint32_t kLongestAddress = 32;  // MAX_ADDR_LEN of the kernel

// Whether a bitset that lists names has this one, and with the value set. A list without a mask holds set bits only.
struct Bit {
  bool listed = false;
  bool set = false;
};

Bit FindBit(NetlinkAttributes bitset, std::string_view name) {
  Bit found;
  const bool only_set = bitset.Has(ETHTOOL_A_BITSET_NOMASK);
  bitset.Nest(ETHTOOL_A_BITSET_BITS).ForEach([&](uint16_t type, std::span<const std::byte> value) {
    if (type != ETHTOOL_A_BITSET_BITS_BIT) return;
    const NetlinkAttributes bit(value);
    if (bit.String(ETHTOOL_A_BITSET_BIT_NAME) != name) return;
    found = {.listed = true, .set = only_set || bit.Has(ETHTOOL_A_BITSET_BIT_VALUE)};
  });
  return found;
}

RssTable ParseTable(std::span<const std::byte> value) {
  RssTable table;
  table.queues.resize(value.size() / sizeof(uint32_t));
  if (!table.queues.empty()) std::memcpy(table.queues.data(), value.data(), table.queues.size() * sizeof(uint32_t));
  return table;
}

class KernelEthtool : public Ethtool {
 public:
  KernelEthtool(GenlFamily family, EthtoolIoctl ioctl) : family_(std::move(family)), ioctl_(std::move(ioctl)) {}

  absl::StatusOr<std::string> Driver(const std::string& interface) override {
    DEVMEM_ASSIGN_OR_RETURN(const ethtool_drvinfo info, DriverInfo(interface));
    return std::string(info.driver, ::strnlen(info.driver, sizeof(info.driver)));
  }

  // By ioctl: sysfs may be another network namespace's.
  absl::StatusOr<NicIdentity> Identity(const std::string& interface) override {
    DEVMEM_ASSIGN_OR_RETURN(const ethtool_drvinfo info, DriverInfo(interface));
    NicIdentity identity{.driver = {info.driver, ::strnlen(info.driver, sizeof(info.driver))},
                         .bus = {info.bus_info, ::strnlen(info.bus_info, sizeof(info.bus_info))}};
    ethtool_perm_addr header{.cmd = ETHTOOL_GPERMADDR, .size = kLongestAddress};
    alignas(ethtool_perm_addr) std::array<uint8_t, sizeof header + kLongestAddress> answer{};
    std::memcpy(answer.data(), &header, sizeof header);
    if (const int error = ioctl_.Call(interface, answer.data()); error != 0) {
      return KernelRefusal({interface, "cannot read its permanent address"}, error);
    }
    std::memcpy(&header, answer.data(), sizeof header);
    const std::span address = std::span(answer).subspan(sizeof header, std::min<size_t>(header.size, kLongestAddress));
    if (std::all_of(address.begin(), address.end(), [](uint8_t byte) { return byte == 0; })) return identity;
    for (const uint8_t byte : address) {
      absl::StrAppend(&identity.permanent_mac, identity.permanent_mac.empty() ? "" : ":", absl::Hex(byte, absl::kZeroPad2));
    }
    return identity;
  }

  absl::StatusOr<Rings> GetRings(const std::string& interface) override {
    NetlinkRequest request = Request(ETHTOOL_MSG_RINGS_GET, ETHTOOL_A_RINGS_HEADER, interface);
    DEVMEM_ASSIGN_OR_RETURN(const NetlinkAnswer answer, Ask(request, {interface, "cannot read its rings"}));
    const NetlinkAttributes told = GenlAttributes(answer);
    const auto split = told.U8(ETHTOOL_A_RINGS_TCP_DATA_SPLIT);
    Rings rings{.rx = told.U32(ETHTOOL_A_RINGS_RX).value_or(0),
                .rx_max = told.U32(ETHTOOL_A_RINGS_RX_MAX).value_or(0),
                .has_header_split = split.has_value(),
                .threshold = told.U32(kRingsHdsThresh),
                .threshold_max = told.U32(kRingsHdsThreshMax)};
    if (split == ETHTOOL_TCP_DATA_SPLIT_ENABLED) rings.header_split = HeaderSplit::kOn;
    if (split == ETHTOOL_TCP_DATA_SPLIT_DISABLED) rings.header_split = HeaderSplit::kOff;
    return rings;
  }

  absl::Status SetHeaderSplit(const std::string& interface, HeaderSplit split, std::optional<uint32_t> threshold) override {
    DEVMEM_ASSIGN_OR_RETURN(const Rings now, GetRings(interface));
    NetlinkRequest request = Request(ETHTOOL_MSG_RINGS_SET, ETHTOOL_A_RINGS_HEADER, interface);
    request.PutU8(ETHTOOL_A_RINGS_TCP_DATA_SPLIT, static_cast<uint8_t>(split));
    if (threshold.has_value() && now.threshold.has_value() && now.threshold != threshold) {
      request.PutU32(kRingsHdsThresh, *threshold);
    }
    constexpr std::array<const char*, 3> kWords = {"cannot leave header split to the driver", "cannot turn header split off",
                                                   "cannot turn header split on"};
    return family_.Exchange(request, {interface, kWords[static_cast<size_t>(split)]}).status();
  }

  absl::StatusOr<Channels> GetChannels(const std::string& interface) override {
    NetlinkRequest request = Request(ETHTOOL_MSG_CHANNELS_GET, ETHTOOL_A_CHANNELS_HEADER, interface);
    DEVMEM_ASSIGN_OR_RETURN(const NetlinkAnswer answer, Ask(request, {interface, "cannot read its channels"}));
    const NetlinkAttributes told = GenlAttributes(answer);
    return Channels{.rx = told.U32(ETHTOOL_A_CHANNELS_RX_COUNT).value_or(0),
                    .combined = told.U32(ETHTOOL_A_CHANNELS_COMBINED_COUNT).value_or(0),
                    .rx_max = told.U32(ETHTOOL_A_CHANNELS_RX_MAX).value_or(0),
                    .combined_max = told.U32(ETHTOOL_A_CHANNELS_COMBINED_MAX).value_or(0)};
  }

  absl::StatusOr<Feature> GetFeature(const std::string& interface, const std::string& name) override {
    const NetlinkSubject subject{interface, absl::StrCat("cannot read feature ", name)};
    NetlinkRequest request = Request(ETHTOOL_MSG_FEATURES_GET, ETHTOOL_A_FEATURES_HEADER, interface);
    DEVMEM_ASSIGN_OR_RETURN(const NetlinkAnswer answer, Ask(request, subject));
    const NetlinkAttributes told = GenlAttributes(answer);
    const Bit changeable = FindBit(told.Nest(ETHTOOL_A_FEATURES_HW), name);  // lists every feature this kernel knows
    if (!changeable.listed) {
      return MakeError(absl::StatusCode::kNotFound, absl::StrCat(subject.what, ": this kernel knows none of that name"),
                       {.object = interface, .cause = "no such feature", .action = "ethtool -k lists them"});
    }
    return Feature{.active = FindBit(told.Nest(ETHTOOL_A_FEATURES_ACTIVE), name).set,
                   .fixed = !changeable.set || FindBit(told.Nest(ETHTOOL_A_FEATURES_NOCHANGE), name).set};
  }

  absl::Status SetFeature(const std::string& interface, const std::string& name, bool on) override {
    const std::string what = absl::StrCat("cannot turn feature ", name, on ? " on" : " off");
    NetlinkRequest request = Request(ETHTOOL_MSG_FEATURES_SET, ETHTOOL_A_FEATURES_HEADER, interface);
    request.PutNest(ETHTOOL_A_FEATURES_WANTED, [&] {
      request.PutNest(ETHTOOL_A_BITSET_BITS, [&] {
        request.PutNest(ETHTOOL_A_BITSET_BITS_BIT, [&] {
          request.PutString(ETHTOOL_A_BITSET_BIT_NAME, name);
          if (on) request.PutFlag(ETHTOOL_A_BITSET_BIT_VALUE);
        });
      });
    });
    DEVMEM_RETURN_IF_ERROR(GetFeature(interface, name).status());  // so that an unknown name is kNotFound
    DEVMEM_RETURN_IF_ERROR(family_.Exchange(request, {interface, what}).status());
    DEVMEM_ASSIGN_OR_RETURN(const Feature now, GetFeature(interface, name));
    if (now.active == on) return absl::OkStatus();
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     absl::StrCat(what, now.fixed ? ": the driver has it fixed" : ": the driver left it as it was"),
                     {.object = interface,
                      .cause = "feature refused",
                      .action = "the kernel's log may tell why (dmesg); another feature may stand in its way (ethtool -k)"});
  }

  absl::StatusOr<RssTable> GetRss(const std::string& interface, uint32_t context) override {
    NetlinkRequest request = Request(kMsgRssGet, kRssHeader, interface);
    if (context != 0) request.PutU32(kRssContext, context);
    const NetlinkSubject subject{interface, context == 0 ? "cannot read its RSS table"
                                                         : absl::StrCat("cannot read the RSS table of its context ", context)};
    DEVMEM_ASSIGN_OR_RETURN(const NetlinkAnswer answer, Ask(request, subject));
    RssTable table = ParseTable(GenlAttributes(answer).Bytes(kRssIndir));
    if (table.queues.empty()) return KernelRefusal(subject, EOPNOTSUPP, "it has none");
    return table;
  }

  absl::StatusOr<std::vector<uint32_t>> RssContexts(const std::string& interface) override {
    NetlinkRequest request = Request(kMsgRssGet, kRssHeader, interface, NLM_F_DUMP);
    DEVMEM_ASSIGN_OR_RETURN(const auto answers, family_.Exchange(request, {interface, "cannot list its RSS contexts"}));
    std::vector<uint32_t> contexts;
    for (const NetlinkAnswer& answer : answers) {
      const uint32_t context = GenlAttributes(answer).U32(kRssContext).value_or(0);
      if (context != 0) contexts.push_back(context);
    }
    std::sort(contexts.begin(), contexts.end());
    return contexts;
  }

  absl::Status SetRss(const std::string& interface, const RssTable& table) override {
    const NetlinkSubject subject{interface, "cannot set its RSS table"};
    DEVMEM_ASSIGN_OR_RETURN(const RssTable now, GetRss(interface, 0));
    const size_t size = now.queues.size();
    if (table.queues.empty() || size % table.queues.size() != 0) {
      return MakeError(absl::StatusCode::kInvalidArgument,
                       absl::StrCat(subject.what, ": ", table.queues.size(), " entries do not divide the table's ", size),
                       {.object = interface, .action = "give as many entries as GetRss does"});
    }
    std::vector<uint32_t> whole(size);
    for (size_t i = 0; i < size; ++i) whole[i] = table.queues[i % table.queues.size()];
    return PutRss(subject, whole);
  }

  absl::Status ResetRss(const std::string& interface) override { return PutRss({interface, "cannot reset its RSS table"}, {}); }

 private:
  [[nodiscard]] NetlinkRequest Request(uint8_t command, uint16_t header, const std::string& interface,
                                       uint16_t flags = 0) const {
    NetlinkRequest request = family_.Request(command, flags);
    request.PutNest(header, [&] { request.PutString(ETHTOOL_A_HEADER_DEV_NAME, interface); });
    return request;
  }

  // Where exactly one answer is due.
  [[nodiscard]] absl::StatusOr<NetlinkAnswer> Ask(NetlinkRequest& request, const NetlinkSubject& subject) {
    DEVMEM_ASSIGN_OR_RETURN(auto answers, family_.Exchange(request, subject));
    if (answers.empty()) {
      return MakeError(absl::StatusCode::kInternal, absl::StrCat(subject.what, ": the kernel's answer is empty"),
                       {.object = subject.object, .action = "report this"});
    }
    return std::move(answers.front());
  }

  // An empty table is the driver's default, by netlink and by ioctl.
  [[nodiscard]] absl::Status PutRss(const NetlinkSubject& subject, const std::vector<uint32_t>& table) {
    NetlinkRequest request = Request(kMsgRssSet, kRssHeader, subject.object);
    request.PutBytes(kRssIndir, std::as_bytes(std::span(table)));
    absl::Status set = family_.Exchange(request, subject).status();
    if (!absl::IsUnimplemented(set)) return set;
    // Before 6.17 there is no such message.
    std::vector<uint32_t> command(sizeof(ethtool_rxfh_indir) / sizeof(uint32_t) + table.size());
    command[0] = ETHTOOL_SRXFHINDIR;
    command[1] = static_cast<uint32_t>(table.size());
    std::copy(table.begin(), table.end(), command.begin() + sizeof(ethtool_rxfh_indir) / sizeof(uint32_t));
    if (const int error = ioctl_.Call(subject.object, command.data()); error != 0) return KernelRefusal(subject, error);
    return absl::OkStatus();
  }

  absl::StatusOr<ethtool_drvinfo> DriverInfo(const std::string& interface) {
    ethtool_drvinfo info{};
    info.cmd = ETHTOOL_GDRVINFO;
    if (const int error = ioctl_.Call(interface, &info); error != 0) {
      return KernelRefusal({interface, "cannot read its driver's name"}, error);
    }
    return info;
  }

  GenlFamily family_;
  EthtoolIoctl ioctl_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ethtool>> Ethtool::Open() {
  DEVMEM_ASSIGN_OR_RETURN(GenlFamily family, GenlFamily::Open(ETHTOOL_GENL_NAME, "a kernel with CONFIG_ETHTOOL_NETLINK"));
  DEVMEM_ASSIGN_OR_RETURN(EthtoolIoctl ioctl, EthtoolIoctl::Open());
  return std::make_unique<KernelEthtool>(std::move(family), std::move(ioctl));
}

}  // namespace devmem
