// SPDX-License-Identifier: Apache-2.0
#include "net/rx/rx_kernel.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "net/rx/deferred_skbs.h"

namespace devmem {
namespace {

absl::StatusOr<UniqueFd> Duplicate(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return copy.valid() ? absl::StatusOr<UniqueFd>(std::move(copy)) : ErrnoError(errno, "a binding cannot be shared");
}

class NetlinkBound final : public RxKernel::Bound {
 public:
  NetlinkBound(DmabufBinding binding, FlowRules& rules) : binding_(std::move(binding)), rules_(rules) {}
  [[nodiscard]] uint32_t id() const override { return binding_.id(); }
  [[nodiscard]] bool by_handle() const override { return false; }
  [[nodiscard]] FlowRules& rules() override { return rules_; }
  absl::StatusOr<UniqueFd> Share() override { return Duplicate(binding_.socket()); }

 private:
  DmabufBinding binding_;
  FlowRules& rules_;
};

class HandleBound final : public RxKernel::Bound, private FlowRules {
 public:
  HandleBound(BindingHandle handle, FlowRules& all) : handle_(std::move(handle)), all_(all) {}
  [[nodiscard]] uint32_t id() const override { return handle_.dmabuf_id(); }
  [[nodiscard]] bool by_handle() const override { return true; }
  [[nodiscard]] FlowRules& rules() override { return *this; }
  absl::StatusOr<UniqueFd> Share() override { return Duplicate(handle_.fd()); }

 private:
  absl::StatusOr<RuleBudget> Budget(const std::string& interface) override { return all_.Budget(interface); }
  absl::StatusOr<std::vector<FlowRule>> List(const std::string& interface) override { return all_.List(interface); }
  absl::StatusOr<uint32_t> Insert(const std::string& interface, const FlowMatch& match, uint32_t queue) override {
    return handle_.AddRule(interface, match, queue);
  }
  absl::Status Delete(const std::string& interface, uint32_t location, const FlowMatch& match, uint32_t queue) override {
    absl::Status status = handle_.DeleteRule(interface, location);  // it knows what the rule was
    // One from before there was a handle, perhaps.
    return status.code() == absl::StatusCode::kNotFound ? all_.Delete(interface, location, match, queue) : status;
  }

  BindingHandle handle_;
  FlowRules& all_;
};

class RealKernel final : public RxKernel {
 public:
  absl::Status Start() {
    DEVMEM_ASSIGN_OR_RETURN(netdev_, Netdev::Open());
    DEVMEM_ASSIGN_OR_RETURN(ethtool_, Ethtool::Open());
    DEVMEM_ASSIGN_OR_RETURN(rules_, FlowRules::Open());
    // Not if_nametoindex(), which makes a socket at each call, in the namespace that the caller then is in.
    socket_ = UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    return socket_.valid() ? absl::OkStatus() : ErrnoError(errno, "no socket to ask for interfaces");
  }

  [[nodiscard]] Netdev& netdev() override { return *netdev_; }
  [[nodiscard]] Ethtool& ethtool() override { return *ethtool_; }
  [[nodiscard]] FlowRules& rules() override { return *rules_; }

  absl::StatusOr<Link> FindLink(const std::string& interface) override {
    ifreq request{};
    if (interface.empty() || interface.size() >= sizeof request.ifr_name) return NoSuch(interface);
    std::memcpy(request.ifr_name, interface.data(), interface.size());
    if (ioctl(socket_.get(), SIOCGIFINDEX, &request) != 0) return Failed(interface);
    Link link{.interface = interface, .ifindex = static_cast<uint32_t>(request.ifr_ifindex)};
    if (ioctl(socket_.get(), SIOCGIFFLAGS, &request) != 0) return Failed(interface);
    const auto flags = static_cast<uint16_t>(request.ifr_flags);
    link.up = (flags & IFF_UP) != 0;
    link.carrier = link.up && (flags & IFF_RUNNING) != 0;
    return link;
  }

  absl::StatusOr<Link> FindLink(uint32_t ifindex) override {
    ifreq request{};
    request.ifr_ifindex = static_cast<int>(ifindex);
    if (ioctl(socket_.get(), SIOCGIFNAME, &request) != 0) return Failed(absl::StrCat("interface ", ifindex));
    return FindLink(std::string(request.ifr_name, strnlen(request.ifr_name, sizeof request.ifr_name)));
  }

  std::vector<std::string> Interfaces() override {
    std::vector<std::string> names;
    struct if_nameindex* all = if_nameindex();
    for (const struct if_nameindex* each = all; each != nullptr && each->if_index != 0; ++each)
      names.emplace_back(each->if_name);
    if (all != nullptr) if_freenameindex(all);
    return names;
  }

  absl::StatusOr<std::unique_ptr<Bound>> Bind(const Link& link, int dmabuf_fd, std::span<const uint32_t> queues,
                                              uint32_t page_size, const ResetAtEnd& reset) override {
    absl::StatusOr<BindingHandle> handle =
        BindingHandle::Create(link.interface, link.ifindex, dmabuf_fd, queues, page_size, reset);
    if (handle.ok()) return std::make_unique<HandleBound>(*std::move(handle), *rules_);
    if (FaultOf(handle.status()) != Fault::kNoModule) return handle.status();
    DEVMEM_ASSIGN_OR_RETURN(DmabufBinding binding,
                            DmabufBinding::Bind(link.interface, link.ifindex, dmabuf_fd, queues, page_size));
    return std::make_unique<NetlinkBound>(std::move(binding), *rules_);
  }

  absl::StatusOr<std::unique_ptr<Bound>> Adopt(UniqueFd fd, bool by_handle, uint32_t id) override {
    // To have it takes no right, but without one there would be no rules, and nothing could be put back.
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3]{};
    if (syscall(SYS_capget, &header, rights) != 0 || (rights[0].effective & (1U << CAP_NET_ADMIN)) == 0) {
      return MakeError(absl::StatusCode::kPermissionDenied, "a binding was handed over to a process without CAP_NET_ADMIN",
                       {.cause = "no CAP_NET_ADMIN", .action = "give it to this daemon as it was given to the other"});
    }
    if (!by_handle) {
      int domain = 0, protocol = 0;
      socklen_t length = sizeof domain, length2 = sizeof protocol;
      if (getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_NETLINK ||
          getsockopt(fd.get(), SOL_SOCKET, SO_PROTOCOL, &protocol, &length2) != 0 || protocol != NETLINK_GENERIC) {
        return MakeError(absl::StatusCode::kInvalidArgument, "what was handed over is no netlink socket",
                         {.cause = "no binding"});
      }
      return std::make_unique<NetlinkBound>(DmabufBinding::Adopt(std::move(fd), id), *rules_);
    }
    DEVMEM_ASSIGN_OR_RETURN(BindingHandle handle, BindingHandle::Adopt(std::move(fd)));
    if (handle.dmabuf_id() != id) {
      return MakeError(absl::StatusCode::kInvalidArgument,
                       absl::StrCat("the handle is of dma-buf ", handle.dmabuf_id(), ", not ", id),
                       {.cause = "another handle"});
    }
    return std::make_unique<HandleBound>(std::move(handle), *rules_);
  }

  void FreeDeferred() override { FreeDeferredSkbs(); }
  void Pause(Duration duration) override { std::this_thread::sleep_for(duration); }  // only how often we look

 private:
  static absl::Status NoSuch(const std::string& interface) {
    return MakeError(absl::StatusCode::kNotFound, "there is no such interface",
                     {.object = interface, .cause = "no such interface", .action = "see `ip link`"});
  }
  static absl::Status Failed(const std::string& interface) {
    const int error = errno;
    if (error == ENODEV || error == ENXIO) return NoSuch(interface);
    return ErrnoError(error, "the interface cannot be looked at", {.object = interface});
  }

  std::unique_ptr<Netdev> netdev_;
  std::unique_ptr<Ethtool> ethtool_;
  std::unique_ptr<FlowRules> rules_;
  UniqueFd socket_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RxKernel>> RxKernel::Open() {
  auto kernel = std::make_unique<RealKernel>();
  DEVMEM_RETURN_IF_ERROR(kernel->Start());
  return kernel;
}

}  // namespace devmem
