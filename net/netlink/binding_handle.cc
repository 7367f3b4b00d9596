// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/binding_handle.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/ethtool_netlink.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "linux/devmem_binding_ioctl.h"
#include "net/netlink/flow_spec.h"
#include "net/netlink/netlink_socket.h"

namespace devmem {
namespace {

constexpr char kDevice[] = "/dev/devmem_binding";

using Words = std::array<char, DEVMEM_BINDING_MESSAGE_MAX>;

uint64_t Address(const void* at) { return reinterpret_cast<uintptr_t>(at); }

// `request` has room for words. Returns errno, 0 for none. A driver's wait may be interrupted; then nothing was done.
template <typename Request>
int Call(int fd, unsigned long command, Request& request, Words& words) {
  request.message = Address(words.data());
  request.message_size = static_cast<uint32_t>(words.size());
  while (ioctl(fd, command, &request) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

std::string Said(const Words& words) { return {words.data(), strnlen(words.data(), words.size())}; }

absl::Status NoModule(const char* why) {
  return MakeError(
      absl::StatusCode::kUnimplemented, absl::StrCat("bindings as handles cannot be had: ", why),
      {.object = kDevice, .fault = Fault::kNoModule, .cause = "no devmem_binding", .action = "load the module devmem_binding"});
}

uint32_t Split(HeaderSplit split) {
  switch (split) {
    case HeaderSplit::kOff:
      return ETHTOOL_TCP_DATA_SPLIT_DISABLED;
    case HeaderSplit::kOn:
      return ETHTOOL_TCP_DATA_SPLIT_ENABLED;
    case HeaderSplit::kUnknown:
      break;
  }
  return ETHTOOL_TCP_DATA_SPLIT_UNKNOWN;
}

void PutEnd(const sockaddr_storage& end, __be16& port, uint8_t (&address)[16]) {
  if (end.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(end);
    port = v6.sin6_port;
    std::memcpy(address, &v6.sin6_addr, sizeof v6.sin6_addr);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(end);
    port = v4.sin_port;
    std::memcpy(address, &v4.sin_addr, sizeof v4.sin_addr);
  }
}

devmem_binding_flow ToFlow(const FlowMatch& match) {
  devmem_binding_flow flow{};
  flow.family = match.source.ss_family;
  flow.protocol = IPPROTO_TCP;
  PutEnd(match.source, flow.src_port, flow.src);
  PutEnd(match.destination, flow.dst_port, flow.dst);
  return flow;
}

}  // namespace

absl::StatusOr<BindingHandle> BindingHandle::Create(const std::string& interface, uint32_t ifindex, int dmabuf_fd,
                                                    std::span<const uint32_t> queues, uint32_t page_size,
                                                    const ResetAtEnd& reset) {
  const UniqueFd device(open(kDevice, O_RDWR | O_CLOEXEC));
  if (!device.valid()) return NoModule(std::strerror(errno));
  devmem_binding_create create{};
  create.ifindex = ifindex;
  create.dmabuf_fd = dmabuf_fd;
  create.rx_page_size = page_size;
  create.queues = Address(queues.data());
  create.queue_count = static_cast<uint32_t>(queues.size());
  if (reset.rss) create.reset |= DEVMEM_BINDING_RESET_RSS;
  if (reset.header_split) {
    create.reset |= DEVMEM_BINDING_RESET_SPLIT;
    create.split_before = Split(reset.split_before);
    create.threshold_before = reset.threshold_before;
  }
  Words words{};
  const int error = Call(device.get(), DEVMEM_BINDING_IOC_CREATE, create, words);
  if (error == 0) return BindingHandle(UniqueFd(create.fd), create.id, create.dmabuf_id);
  if (error == ENOTTY) return NoModule("the module is of another version");
  const NetlinkSubject subject{
      interface,
      absl::StrCat("cannot bind device memory to Rx queue", queues.size() == 1 ? " " : "s ", absl::StrJoin(queues, ", "),
                   page_size == 0 ? "" : absl::StrCat(" with pages of ", page_size, " bytes"))};
  return KernelRefusal(subject, error, Said(words));
}

absl::StatusOr<BindingHandle> BindingHandle::Adopt(UniqueFd fd) {
  devmem_binding_info info{};
  if (ioctl(fd.get(), DEVMEM_BINDING_IOC_INFO, &info) != 0) {
    return MakeError(absl::StatusCode::kInvalidArgument,
                     absl::StrCat("the descriptor is no handle of a binding: ", std::strerror(errno)),
                     {.cause = "no handle", .action = "both daemons must use the same devmem_binding module"});
  }
  if (info.state != DEVMEM_BINDING_STATE_LIVE) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     "the handle's NIC is gone, or was moved to another network namespace",
                     {.cause = "binding gone", .action = "start again where the NIC is"});
  }
  return BindingHandle(std::move(fd), info.id, info.dmabuf_id);
}

absl::StatusOr<uint32_t> BindingHandle::AddRule(const std::string& interface, const FlowMatch& match, uint32_t queue) const {
  if (absl::Status good = CheckMatch(match); !good.ok()) return WithObject(good, interface);
  devmem_binding_rule_change change{};
  change.rule.queue = queue;
  change.rule.flow = ToFlow(match);
  Words words{};
  const int error = Call(fd_.get(), DEVMEM_BINDING_IOC_RULE_ADD, change, words);
  if (error == 0) return change.rule.location;
  const std::string what = absl::StrCat("no rule for ", match.ToString(), " to queue ", queue);
  if (error == ENOSPC) {
    return MakeError(absl::StatusCode::kResourceExhausted, absl::StrCat(what, ": ", Said(words)),
                     {.object = interface,
                      .fault = Fault::kRuleTableFull,
                      .cause = "rule table full",
                      .action = "use fewer connections, or --steer address"});
  }
  return KernelRefusal({interface, what}, error, Said(words));
}

absl::Status BindingHandle::DeleteRule(const std::string& interface, uint32_t location) const {
  devmem_binding_rule_change change{};
  change.rule.location = location;
  Words words{};
  const int error = Call(fd_.get(), DEVMEM_BINDING_IOC_RULE_DEL, change, words);
  if (error == 0) return absl::OkStatus();
  if (error == ESTALE) {
    return MakeError(absl::StatusCode::kAborted,
                     absl::StrCat("cannot delete the steering rule at ", location, ": ", Said(words)),
                     {.object = interface, .cause = "rule is another's", .action = "it was left alone"});
  }
  return KernelRefusal({interface, absl::StrCat("cannot delete the steering rule at ", location)}, error, Said(words));
}

}  // namespace devmem
