// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/netdev.h"

#include <linux/netlink.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "net/netlink/genl.h"
#include "net/netlink/netdev_abi.h"

namespace devmem {
namespace {

using namespace netdev_abi;  // NOLINT(google-build-using-namespace): this file is about nothing else

constexpr char kNeeds[] = "Linux 6.12 or newer";

// "dms0", or "interface 7" if it is gone.
std::string Name(uint32_t ifindex) {
  std::array<char, IF_NAMESIZE> name{};
  if (ifindex == 0) return "all interfaces";
  return ::if_indextoname(ifindex, name.data()) != nullptr ? name.data() : absl::StrCat("interface ", ifindex);
}

class NetlinkNetdev : public Netdev {
 public:
  explicit NetlinkNetdev(GenlFamily family) : family_(std::move(family)) {}

  absl::StatusOr<std::vector<RxQueueState>> RxQueues(uint32_t ifindex) override {
    NetlinkRequest request = family_.Request(kQueueGet, NLM_F_DUMP);
    request.PutU32(kQueueIfindex, ifindex);
    DEVMEM_ASSIGN_OR_RETURN(const auto answers, family_.Exchange(request, {Name(ifindex), "cannot list its Rx queues"}));
    std::vector<RxQueueState> queues;
    for (const NetlinkAnswer& answer : answers) {
      const NetlinkAttributes told = GenlAttributes(answer);
      const auto queue = told.U32(kQueueId);
      if (!queue.has_value() || told.U32(kQueueType) != kRx) continue;
      queues.push_back({.queue = *queue,
                        .napi_id = told.U32(kQueueNapiId).value_or(0),
                        .dmabuf = told.U32(kQueueDmabuf).value_or(0),
                        .io_uring = told.Has(kQueueIoUring),
                        .xsk = told.Has(kQueueXsk)});
    }
    return queues;
  }

  absl::StatusOr<uint32_t> NapiIrq(uint32_t napi_id) override {
    NetlinkRequest request = family_.Request(kNapiGet);
    request.PutU32(kNapiId, napi_id);
    DEVMEM_ASSIGN_OR_RETURN(const auto answers,
                            family_.Exchange(request, {absl::StrCat("NAPI ", napi_id), "cannot read its interrupt"}));
    return answers.empty() ? 0 : GenlAttributes(answers.front()).U32(kNapiIrq).value_or(0);
  }

  absl::StatusOr<std::vector<PagePoolState>> PagePools(uint32_t ifindex) override {
    NetlinkRequest request = family_.Request(kPagePoolGet, NLM_F_DUMP);  // takes no filter
    DEVMEM_ASSIGN_OR_RETURN(const auto answers, family_.Exchange(request, {Name(ifindex), "cannot list its page pools"}));
    std::vector<PagePoolState> pools;
    for (const NetlinkAnswer& answer : answers) {
      const NetlinkAttributes told = GenlAttributes(answer);
      const uint32_t of = told.U32(kPoolIfindex).value_or(0);  // 0: its interface is gone
      if (ifindex != 0 && of != ifindex) continue;
      pools.push_back({.id = static_cast<uint32_t>(told.Uint(kPoolId).value_or(0)),
                       .ifindex = of,
                       .napi_id = static_cast<uint32_t>(told.Uint(kPoolNapiId).value_or(0)),
                       .inflight = told.Uint(kPoolInflight).value_or(0),
                       .inflight_bytes = told.Uint(kPoolInflightBytes).value_or(0),
                       .dmabuf = told.U32(kPoolDmabuf).value_or(0),
                       .io_uring = told.Has(kPoolIoUring),
                       .detached = told.Has(kPoolDetachTime)});
    }
    return pools;
  }

  absl::StatusOr<std::vector<RxQueueStats>> RxStats(uint32_t ifindex) override {
    NetlinkRequest request = family_.Request(kQstatsGet, NLM_F_DUMP);
    request.PutU32(kQstatsIfindex, ifindex);
    request.PutU32(kQstatsScope, kScopeQueue);
    DEVMEM_ASSIGN_OR_RETURN(const auto answers,
                            family_.Exchange(request, {Name(ifindex), "cannot read its queues' statistics"}));
    std::vector<RxQueueStats> stats;
    for (const NetlinkAnswer& answer : answers) {
      const NetlinkAttributes told = GenlAttributes(answer);
      const auto queue = told.U32(kQstatsQueueId);
      if (!queue.has_value() || told.U32(kQstatsQueueType) != kRx) continue;
      stats.push_back({.queue = *queue,
                       .packets = told.Uint(kQstatsRxPackets).value_or(0),
                       .bytes = told.Uint(kQstatsRxBytes).value_or(0),
                       .alloc_fail = told.Uint(kQstatsRxAllocFail).value_or(0)});
    }
    return stats;
  }

 private:
  GenlFamily family_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Netdev>> Netdev::Open() {
  DEVMEM_ASSIGN_OR_RETURN(GenlFamily family, GenlFamily::Open(kFamily, kNeeds));
  return std::make_unique<NetlinkNetdev>(std::move(family));
}

absl::StatusOr<DmabufBinding> DmabufBinding::Bind(const std::string& interface, uint32_t ifindex, int dmabuf_fd,
                                                  std::span<const uint32_t> queues, uint32_t page_size) {
  if (queues.empty()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "cannot bind device memory to no Rx queue at all",
                     {.object = interface});
  }
  DEVMEM_ASSIGN_OR_RETURN(GenlFamily family, GenlFamily::Open(kFamily, kNeeds));
  NetlinkRequest request = family.Request(kBindRx);
  request.PutU32(kDmabufIfindex, ifindex);
  request.PutU32(kDmabufFd, static_cast<uint32_t>(dmabuf_fd));
  for (const uint32_t queue : queues) {
    request.PutNest(kDmabufQueues, [&] {
      request.PutU32(kQueueId, queue);
      request.PutU32(kQueueType, kRx);
    });
  }
  if (page_size != 0) request.PutU32(kDmabufRxPageSize, page_size);
  const NetlinkSubject subject{
      interface,
      absl::StrCat("cannot bind device memory to Rx queue", queues.size() == 1 ? " " : "s ", absl::StrJoin(queues, ", "),
                   page_size == 0 ? "" : absl::StrCat(" with pages of ", page_size, " bytes"))};
  DEVMEM_ASSIGN_OR_RETURN(const auto answers, family.Exchange(request, subject));
  const uint32_t id = answers.empty() ? 0 : GenlAttributes(answers.front()).U32(kDmabufId).value_or(0);
  if (id == 0) {
    return MakeError(absl::StatusCode::kInternal, absl::StrCat(subject.what, ": the kernel told no id for the binding"),
                     {.object = interface, .action = "report this"});
  }
  return DmabufBinding(std::move(family).ReleaseSocket(), id);
}

}  // namespace devmem
