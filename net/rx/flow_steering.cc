// SPDX-License-Identifier: Apache-2.0
// A connection, in this order, for no payload may race its rule:
//
//   1. route: which interface leads to the peer, and from which local address; which bound NICs are under it
//   2. the socket is tied to that interface (SO_BINDTODEVICE), then to that address and a port of the kernel's choice (bind())
//   3. per connection: a rule for exactly that flow on each bound NIC under the interface (a bond has several), to the queue of
//      the same rank. Per address: the rules are there since Create()
//   4. the caller connects, and has Check() compare the NAPI that the first packets came by
#include "net/rx/flow_steering.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "net/rx/flow_steering_on.h"

namespace devmem {
namespace {

// One rule of every NIC stays free: drivers replace a rule by inserting the new one first, and so does an operator.
constexpr uint64_t kSpareRules = 1;

struct QueueAt {
  size_t binding = 0;
  size_t rank = 0;  // in its binding's queues()
};

socklen_t LengthOf(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

sockaddr_storage AnyOf(sa_family_t family) {
  sockaddr_storage any{};
  any.ss_family = family;
  return any;
}

std::string TextOf(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* bytes = address.ss_family == AF_INET6
                          ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr)
                          : static_cast<const void*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr);
  return inet_ntop(address.ss_family, bytes, text.data(), text.size()) == nullptr ? "no address" : text.data();
}

absl::StatusOr<sockaddr_storage> ParseAddress(const std::string& text) {
  sockaddr_storage address{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(address);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
  if (inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    return address;
  }
  if (inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    return address;
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "this is no IPv4 or IPv6 address",
                   {.object = text, .cause = "bad address", .action = "give numbers, without a port or prefix length"});
}

// The kernel lets a socket bind to it.
absl::Status IsLocal(const sockaddr_storage& address) {
  const UniqueFd probe(socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (probe.valid() && bind(probe.get(), reinterpret_cast<const sockaddr*>(&address), LengthOf(address)) == 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  if (error != EADDRNOTAVAIL) return ErrnoError(error, "no socket can be bound to it", {.object = TextOf(address)});
  return MakeError(absl::StatusCode::kInvalidArgument, "this is no address of this host",
                   {.object = TextOf(address), .cause = "not local", .action = "`ip addr add` it to the NIC, or name another"});
}

// IPv6 sockets reach IPv4 peers by mapped addresses; NICs see IPv4.
sockaddr_storage AsTheNicSees(const sockaddr_storage& address) {
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  sockaddr_storage seen{};
  if (address.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(seen);
    v4.sin_family = AF_INET;
    v4.sin_port = v6.sin6_port;
    std::memcpy(&v4.sin_addr, &v6.sin6_addr.s6_addr[12], sizeof v4.sin_addr);
  } else if (address.ss_family == AF_INET6) {
    auto& plain = reinterpret_cast<sockaddr_in6&>(seen);  // no scope, no flow label
    plain.sin6_family = AF_INET6;
    plain.sin6_port = v6.sin6_port;
    plain.sin6_addr = v6.sin6_addr;
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    auto& plain = reinterpret_cast<sockaddr_in&>(seen);
    plain.sin_family = AF_INET;
    plain.sin_port = v4.sin_port;
    plain.sin_addr = v4.sin_addr;
  }
  return seen;
}

// Those to steer by; none where connections are steered one by one.
absl::StatusOr<std::vector<sockaddr_storage>> AddressesOf(const SteeringOptions& options, size_t queues) {
  std::vector<sockaddr_storage> addresses;
  if (queues == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, "there is no bound queue to steer to", {.cause = "no queue"});
  }
  if (options.mode == SteerMode::kConnection) return addresses;
  if (options.addresses.size() != queues) {
    return MakeError(absl::StatusCode::kInvalidArgument,
                     absl::StrCat(options.addresses.size(), " addresses were given for ", queues, " bound queues"),
                     {.cause = "addresses and queues differ in number", .action = "give one local address for each queue"});
  }
  for (const std::string& text : options.addresses) {
    DEVMEM_ASSIGN_OR_RETURN(const sockaddr_storage address, ParseAddress(text));
    DEVMEM_RETURN_IF_ERROR(IsLocal(address));
    for (const sockaddr_storage& other : addresses) {
      if (TextOf(other) == TextOf(address)) {
        return MakeError(absl::StatusCode::kInvalidArgument, "this address is given twice",
                         {.object = text, .cause = "bad address"});
      }
    }
    addresses.push_back(address);
  }
  return addresses;
}

class Steering final : public FlowSteering {
 public:
  Steering(std::vector<RxBinding*> bindings, const SteeringOptions& options, Routing routing, Ready ready)
      : bindings_(std::move(bindings)), mode_(options.mode), routing_(std::move(routing)), ready_(std::move(ready)) {
    for (size_t binding = 0; binding < bindings_.size(); ++binding) {
      for (size_t rank = 0; rank < bindings_[binding]->queues().size(); ++rank) {
        queues_.push_back({binding, rank});
        napi_.push_back(bindings_[binding]->queues()[rank].napi_id);
      }
    }
  }

  ~Steering() override {
    for (const auto& [binding, location] : address_rules_) (void)binding->RemoveRule(location);
  }

  absl::Status Start(const SteeringOptions& options) {
    DEVMEM_ASSIGN_OR_RETURN(addresses_, AddressesOf(options, queues_.size()));
    return absl::OkStatus();
  }

  absl::Status Begin() override {
    for (size_t queue = 0; queue < addresses_.size(); ++queue) DEVMEM_RETURN_IF_ERROR(AddAddressRule(queue));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Lease>> Steer(int socket, const sockaddr* peer, socklen_t length, size_t queue) override;

  // By the NIC's latest word if the one at hand does not fit: a reset may have renewed the ids.
  absl::Status Check(uint32_t napi_id, const std::vector<size_t>& queues) {
    if (Has(napi_id, queues)) return absl::OkStatus();
    for (const size_t queue : queues) {
      const QueueAt at = queues_[queue];
      DEVMEM_ASSIGN_OR_RETURN(const RxState state, bindings_[at.binding]->Look());
      const uint32_t wanted = bindings_[at.binding]->queues()[at.rank].queue;
      const std::scoped_lock lock(mutex_);
      for (const BoundQueue& each : state.queues) {
        if (each.queue == wanted) napi_[queue] = each.napi_id;
      }
    }
    if (Has(napi_id, queues)) return absl::OkStatus();
    const std::scoped_lock lock(mutex_);
    std::vector<std::string> wanted;
    wanted.reserve(queues.size());
    for (const size_t queue : queues) wanted.push_back(absl::StrCat(Describe(queue), " (NAPI ", napi_[queue], ")"));
    return MakeError(
        absl::StatusCode::kUnavailable,
        absl::StrCat("packets came by NAPI ", napi_id, ", not by ", absl::StrJoin(wanted, " or ")),
        {.object = Describe(queues.front()),
         .fault = Fault::kSteering,
         .cause = "flow not steered",
         .action = "see whether the rule is there (`ethtool -n`) and whether something before it matches the flow"});
  }

 private:
  struct Held {
    RxBinding* binding;
    uint32_t location;
  };

  class LeaseImpl final : public Lease {
   public:
    LeaseImpl(Steering& steering, std::string interface) : steering_(steering), interface_(std::move(interface)) {}
    ~LeaseImpl() override {
      for (const Held& held : rules_) (void)held.binding->RemoveRule(held.location);
    }
    [[nodiscard]] const std::string& interface() const override { return interface_; }
    [[nodiscard]] size_t queue() const override { return queues_.front(); }
    [[nodiscard]] absl::Status Check(uint32_t napi_id) const override { return steering_.Check(napi_id, queues_); }

   private:
    friend class Steering;
    Steering& steering_;
    const std::string interface_;
    std::vector<size_t> queues_;  // where its packets may come by; more than one under a bond
    std::vector<Held> rules_;
  };

  std::string Describe(size_t queue) const {
    const BoundQueue& bound = bindings_[queues_[queue].binding]->queues()[queues_[queue].rank];
    return absl::StrCat(bound.interface, " Rx queue ", bound.queue);
  }

  bool Has(uint32_t napi_id, const std::vector<size_t>& queues) {
    const std::scoped_lock lock(mutex_);
    return napi_id != 0 && std::any_of(queues.begin(), queues.end(), [&](size_t queue) { return napi_[queue] == napi_id; });
  }

  // `queue`, or the one of its rank on each bound NIC under `interface`; `queue` itself first, if it is among them.
  absl::StatusOr<std::vector<size_t>> QueuesUnder(const std::string& interface, size_t queue) const {
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<std::string> devices, routing_.physical_devices(interface));
    std::vector<size_t> found;
    for (size_t binding = 0, first = 0; binding < bindings_.size(); first += bindings_[binding++]->queues().size()) {
      if (std::find(devices.begin(), devices.end(), bindings_[binding]->interface()) == devices.end()) continue;
      const size_t at =
          binding == queues_[queue].binding ? queue : first + queues_[queue].rank % bindings_[binding]->queues().size();
      found.insert(at == queue ? found.begin() : found.end(), at);
    }
    if (!found.empty()) return found;
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     absl::StrCat("the route leaves by ", interface, " (", absl::StrJoin(devices, ", "), "), and ", Bound(),
                                  devices.size() == 1 ? " is" : " are", " not among it"),
                     {.object = interface,
                      .fault = Fault::kOtherNic,
                      .cause = "route by another NIC",
                      .action = "bind that NIC too, or change the route"});
  }

  // Those whose NIC has its binding now. Another's loss is no matter; under a bond it is enough that one has it, for what comes
  // by the others is only copied.
  absl::StatusOr<std::vector<size_t>> OfReadyNics(const std::vector<size_t>& queues) const {
    std::vector<size_t> ready;
    absl::Status why;
    for (const size_t queue : queues) {
      absl::Status status = ready_(queues_[queue].binding);
      if (status.ok()) {
        ready.push_back(queue);
      } else if (why.ok()) {
        why = std::move(status);
      }
    }
    if (ready.empty()) return why;
    return ready;
  }

  std::string Bound() const {
    std::set<std::string> names;
    for (const RxBinding* binding : bindings_) names.insert(binding->interface());
    return absl::StrJoin(names, ", ");
  }

  absl::Status HasRoom(RxBinding& binding) const {
    const uint64_t capacity = binding.rule_capacity();
    if (capacity == 0 || binding.rules() + kSpareRules < capacity) return absl::OkStatus();
    return MakeError(absl::StatusCode::kResourceExhausted,
                     absl::StrCat("no rule is left: ", binding.rules(), " are ours of the ", capacity,
                                  " that it has room for, ", kSpareRules, " of which stays free"),
                     {.object = binding.interface(),
                      .fault = Fault::kRuleTableFull,
                      .cause = "rule table full",
                      .action = "use fewer connections, or steer by address"});
  }

  // `match` to each of `queues`; all of them or none.
  absl::Status AddRules(const FlowMatch& match, const std::vector<size_t>& queues, std::vector<Held>& rules) {
    for (const size_t queue : queues) {
      RxBinding& binding = *bindings_[queues_[queue].binding];
      const absl::StatusOr<uint32_t> location = binding.AddRule(match, queues_[queue].rank);
      if (!location.ok()) {
        for (const Held& held : rules) (void)held.binding->RemoveRule(held.location);
        rules.clear();
        return location.status();
      }
      rules.push_back({&binding, *location});
    }
    return absl::OkStatus();
  }

  // What comes to the address goes to the queue; under a bond, on whichever NIC it comes.
  absl::Status AddAddressRule(size_t queue) {
    const sockaddr_storage& address = addresses_[queue];
    std::vector<size_t> queues = {queue};
    const std::string& interface = bindings_[queues_[queue].binding]->interface();
    if (const auto above = routing_.interface_of(address); !above.empty() && above != interface) {
      // An address that stands on no NIC (a virtual one, on lo) may come by any: then only the queue's own.
      if (const auto under = QueuesUnder(above, queue); under.ok()) queues = *under;
    }
    for (const size_t each : queues) DEVMEM_RETURN_IF_ERROR(HasRoom(*bindings_[queues_[each].binding]));
    return AddRules({.source = AnyOf(address.ss_family), .destination = address}, queues, address_rules_);
  }

  absl::Status Tie(int socket, const std::string& interface, const sockaddr_storage& source) const {
    if (setsockopt(socket, SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(), static_cast<socklen_t>(interface.size())) != 0) {
      return ErrnoError(errno, "the socket cannot be tied to the route's interface", {.object = interface});
    }
    if (bind(socket, reinterpret_cast<const sockaddr*>(&source), LengthOf(source)) != 0) {
      return ErrnoError(errno, "the socket cannot be bound to a local address",
                        {.object = TextOf(source), .cause = "no local port", .action = "see whether ports are left (`ss -s`)"});
    }
    return absl::OkStatus();
  }

  // The family of the peer, of which the socket is.
  absl::StatusOr<sockaddr_storage> Source(const Route& route, const sockaddr* peer, size_t queue) const {
    if (mode_ == SteerMode::kAddress) {
      if (addresses_[queue].ss_family == peer->sa_family) return addresses_[queue];
      return MakeError(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("the queue's address, ", TextOf(addresses_[queue]), ", is of another family than the peer's"),
          {.object = Describe(queue), .cause = "wrong family", .action = "give addresses of the peers' family"});
    }
    sockaddr_storage source = route.source.ss_family == peer->sa_family ? route.source : AnyOf(peer->sa_family);
    if (peer->sa_family == AF_INET6 && route.source.ss_family == AF_INET) {  // a mapped peer
      auto& v6 = reinterpret_cast<sockaddr_in6&>(source);
      v6.sin6_addr.s6_addr[10] = v6.sin6_addr.s6_addr[11] = 0xff;
      std::memcpy(&v6.sin6_addr.s6_addr[12], &reinterpret_cast<const sockaddr_in&>(route.source).sin_addr, sizeof(in_addr));
    }
    if (auto& v6 = reinterpret_cast<sockaddr_in6&>(source);
        peer->sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr)) {
      v6.sin6_scope_id = route.ifindex;
    }
    return source;
  }

  const std::vector<RxBinding*> bindings_;
  const SteerMode mode_;
  const Routing routing_;
  const Ready ready_;
  std::vector<QueueAt> queues_;              // all bindings', one after another
  std::vector<sockaddr_storage> addresses_;  // kAddress: by queue
  std::vector<Held> address_rules_;
  std::mutex mutex_;
  std::vector<uint32_t> napi_;  // by queue, as last seen
};

absl::StatusOr<std::unique_ptr<FlowSteering::Lease>> Steering::Steer(int socket, const sockaddr* peer, socklen_t length,
                                                                     size_t queue) {
  if (queue >= queues_.size() || peer == nullptr || (peer->sa_family != AF_INET && peer->sa_family != AF_INET6) ||
      length > sizeof(sockaddr_storage)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "no such queue, or no address", {.cause = "bad request"});
  }
  DEVMEM_ASSIGN_OR_RETURN(const Route route, routing_.route_to(peer, length));
  if (route.local) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "the peer is this host: no NIC is on the way",
                     {.object = route.interface,
                      .fault = Fault::kNoRoute,
                      .cause = "local peer",
                      .action = "nothing; it comes by host memory"});
  }
  auto lease = std::make_unique<LeaseImpl>(*this, route.interface);
  DEVMEM_ASSIGN_OR_RETURN(const std::vector<size_t> under, QueuesUnder(route.interface, queue));
  DEVMEM_ASSIGN_OR_RETURN(lease->queues_, OfReadyNics(under));
  if (mode_ == SteerMode::kConnection) {
    for (const size_t each : lease->queues_) DEVMEM_RETURN_IF_ERROR(HasRoom(*bindings_[queues_[each].binding]));
  }
  DEVMEM_ASSIGN_OR_RETURN(const sockaddr_storage source, Source(route, peer, lease->queue()));
  DEVMEM_RETURN_IF_ERROR(Tie(socket, route.interface, source));
  if (mode_ == SteerMode::kAddress) return lease;

  sockaddr_storage local{}, remote{};
  socklen_t local_length = sizeof local;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&local), &local_length) != 0) {
    return ErrnoError(errno, "the socket does not tell its address", {.object = route.interface});
  }
  std::memcpy(&remote, peer, length);
  const FlowMatch match{.source = AsTheNicSees(remote), .destination = AsTheNicSees(local)};
  DEVMEM_RETURN_IF_ERROR(AddRules(match, lease->queues_, lease->rules_));
  return lease;
}

}  // namespace

std::string InterfaceOf(const sockaddr_storage& address) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  const std::string wanted = TextOf(address);
  std::string found;
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != address.ss_family) continue;
    sockaddr_storage held{};
    std::memcpy(&held, each->ifa_addr, LengthOf(address));
    if (TextOf(held) == wanted) found = each->ifa_name;
  }
  freeifaddrs(all);
  return found;
}

absl::StatusOr<std::unique_ptr<FlowSteering>> CreateFlowSteering(std::vector<RxBinding*> bindings,
                                                                 const SteeringOptions& options, Routing routing,
                                                                 FlowSteering::Ready ready) {
  auto steering = std::make_unique<Steering>(std::move(bindings), options, std::move(routing), std::move(ready));
  DEVMEM_RETURN_IF_ERROR(steering->Start(options));
  return steering;
}

absl::Status FlowSteering::Fits(const SteeringOptions& options, size_t queues) { return AddressesOf(options, queues).status(); }

absl::StatusOr<std::unique_ptr<FlowSteering>> FlowSteering::Create(std::vector<RxBinding*> bindings,
                                                                   const SteeringOptions& options, Ready ready) {
  return CreateFlowSteering(std::move(bindings), options, {}, std::move(ready));
}

}  // namespace devmem
