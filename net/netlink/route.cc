// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/route.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>

#include <array>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/netlink/netlink_socket.h"

namespace devmem {
namespace {

struct Peer {
  sa_family_t family = AF_UNSPEC;
  std::array<std::byte, 16> address{};
  size_t size = 0;
  uint32_t scope = 0;  // the interface of a link-local address
  [[nodiscard]] std::string ToString() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(family, address.data(), text.data(), text.size());
    return text.data();
  }
};

std::optional<Peer> ParsePeer(const sockaddr* peer, socklen_t length) {
  Peer parsed;
  if (peer != nullptr && length >= sizeof(sockaddr_in) && peer->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, peer, sizeof(v4));
    parsed = {.family = AF_INET, .size = sizeof(v4.sin_addr)};
    std::memcpy(parsed.address.data(), &v4.sin_addr, parsed.size);
    return parsed;
  }
  if (peer != nullptr && length >= sizeof(sockaddr_in6) && peer->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, peer, sizeof(v6));
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
      constexpr size_t kPrefix = 12;
      parsed = {.family = AF_INET, .size = sizeof(in_addr)};
      std::memcpy(parsed.address.data(), &v6.sin6_addr.s6_addr[kPrefix], parsed.size);
      return parsed;
    }
    parsed = {.family = AF_INET6, .size = sizeof(v6.sin6_addr), .scope = v6.sin6_scope_id};
    std::memcpy(parsed.address.data(), &v6.sin6_addr, parsed.size);
    return parsed;
  }
  return std::nullopt;
}

sockaddr_storage StorageOf(sa_family_t family, std::span<const std::byte> address) {
  sockaddr_storage storage{};
  if (family == AF_INET && address.size() == sizeof(in_addr)) {
    sockaddr_in v4{};
    v4.sin_family = family;
    std::memcpy(&v4.sin_addr, address.data(), address.size());
    std::memcpy(&storage, &v4, sizeof(v4));
  } else if (family == AF_INET6 && address.size() == sizeof(in6_addr)) {
    sockaddr_in6 v6{};
    v6.sin6_family = family;
    std::memcpy(&v6.sin6_addr, address.data(), address.size());
    std::memcpy(&storage, &v6, sizeof(v6));
  }
  return storage;
}

absl::Status NoRoute(const std::string& to, const Cause& why) {
  std::string message = "no route: ";
  why.AppendTo(message);
  return MakeError(absl::StatusCode::kUnavailable, message,
                   {.object = to,
                    .fault = Fault::kNoRoute,
                    .cause = "no route",
                    .action = absl::StrCat("ip route get ", to, " should name an interface")});
}

}  // namespace

absl::StatusOr<Route> RouteTo(const sockaddr* peer, socklen_t length) {
  const std::optional<Peer> to = ParsePeer(peer, length);
  if (!to.has_value()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "a route was asked for what is neither an IPv4 nor an IPv6 address",
                     {});
  }
  DEVMEM_ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_ROUTE));
  NetlinkRequest request(RTM_GETROUTE, 0, sizeof(rtmsg));
  auto* header = request.Header<rtmsg>();
  header->rtm_family = static_cast<uint8_t>(to->family);
  header->rtm_dst_len = static_cast<uint8_t>(to->size * 8);
  request.PutBytes(RTA_DST, std::span(to->address).first(to->size));
  if (to->scope != 0) request.PutU32(RTA_OIF, to->scope);
  const std::string name = to->ToString();
  auto answers = socket.Exchange(request, {name, "no route"});
  if (absl::IsUnavailable(answers.status()))
    return NoRoute(name, GetErrorInfo(answers.status()).cause);  // ENETUNREACH and its kin
  if (!answers.ok()) return answers.status();

  const rtmsg* told = answers->empty() ? nullptr : answers->front().Header<rtmsg>();
  if (told == nullptr) {
    return MakeError(absl::StatusCode::kInternal, "the kernel's answer about its route is empty",
                     {.object = name, .action = "report this"});
  }
  if (told->rtm_type != RTN_UNICAST && told->rtm_type != RTN_LOCAL) {  // IPv6 tells of unreachable ones this way
    return NoRoute(name, absl::StrCat("the kernel has one of type ", told->rtm_type));
  }
  const NetlinkAttributes attributes = answers->front().Attributes(sizeof(rtmsg));
  Route route{.ifindex = attributes.U32(RTA_OIF).value_or(0),
              .source = StorageOf(to->family, attributes.Bytes(RTA_PREFSRC)),
              .local = told->rtm_type == RTN_LOCAL};
  std::array<char, IF_NAMESIZE> interface {};
  if (::if_indextoname(route.ifindex, interface.data()) == nullptr) return NoRoute(name, "its interface is gone");
  route.interface = interface.data();
  return route;
}

}  // namespace devmem
