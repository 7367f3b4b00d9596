// SPDX-License-Identifier: Apache-2.0
// Does with net/rx what it is told, a line of JSON each, and answers in a line of JSON: what the tests in the guest
// (tests/guest/rx) drive, to see what real kernels make of it.
//
//   {"do": "create", "interface": "dms0", "queues": [2, 3], "journal": "/tmp/x"}
//   {"value": {"dmabuf": 3, ...}}                        or {"code": "FAILED_PRECONDITION", "message": "dms0: ..."}
//
// One binding at a time for each interface, one steering, one connection. Everything goes when it ends; "dies-at" kills it
// on the way.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/error.h"
#include "net/netlink/uapi.h"
#include "net/rx/flow_steering.h"
#include "net/rx/placement.h"
#include "net/rx/rx_binding_on.h"
#include "tests/guest/rx/dying_kernel.h"

namespace devmem {
namespace {

using Json = nlohmann::json;
using Answer = absl::StatusOr<Json>;
using std::chrono::seconds;

absl::StatusOr<UniqueFd> MakeUdmabuf(uint64_t bytes, bool huge) {
  const UniqueFd memory(
      ::memfd_create("rx-guest-test", MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0)));
  if (!memory.valid() || ::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return ErrnoError(errno, "cannot make memory");
  }
  const UniqueFd device(::open("/dev/udmabuf", O_RDWR | O_CLOEXEC));
  if (!device.valid()) return ErrnoError(errno, "cannot open /dev/udmabuf");
  udmabuf_create create{.memfd = static_cast<uint32_t>(memory.get()), .flags = UDMABUF_FLAGS_CLOEXEC, .size = bytes};
  UniqueFd made(::ioctl(device.get(), UDMABUF_CREATE, &create));
  if (!made.valid()) return ErrnoError(errno, "cannot make a udmabuf");
  return made;
}

sockaddr_storage Address(const Json& told) {
  sockaddr_storage storage{};
  const std::string text = told.at(0);
  const uint16_t port = htons(told.at(1).get<uint16_t>());
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = port;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = port;
  }
  return storage;
}

Json QueuesToJson(const std::vector<BoundQueue>& queues) {
  Json list = Json::array();
  for (const BoundQueue& each : queues) list.push_back({{"queue", each.queue}, {"napi", each.napi_id}});
  return list;
}

Answer Nothing(const absl::Status& status) { return status.ok() ? Answer(Json(nullptr)) : Answer(status); }

class Tester {
 public:
  explicit Tester(std::optional<uint64_t> dies_at) : fate_(dies_at) {}

  Answer Do(const Json& told) {
    const std::map<std::string, Answer (Tester::*)(const Json&)> verbs = {
        {"create", &Tester::Create},     {"add-rule", &Tester::AddRule}, {"remove-rule", &Tester::RemoveRule},
        {"look", &Tester::Look},         {"rebind", &Tester::Rebind},    {"undo", &Tester::Undo},
        {"recover", &Tester::Recovered}, {"place", &Tester::Place},      {"steer", &Tester::Steer},
        {"connect", &Tester::Connect},   {"receive", &Tester::Receive},  {"check", &Tester::Check},
        {"hang-up", &Tester::HangUp},    {"moments", &Tester::Moments},
    };
    const auto verb = verbs.find(told.at("do"));
    if (verb == verbs.end()) return absl::InvalidArgumentError("no such verb");
    return (this->*verb->second)(told);
  }

 private:
  RxBinding& Binding(const Json& told) { return *bindings_.at(told.value("interface", bindings_.begin()->first)); }

  Answer Create(const Json& told) {
    if (!memory_.valid()) {
      DEVMEM_ASSIGN_OR_RETURN(memory_, MakeUdmabuf(told.value("bytes", uint64_t{16} << 20), told.value("huge", false)));
    }
    const RxBindingOptions options{.interface = told.at("interface"),
                                   .queues = told.at("queues"),
                                   .dmabuf_fd = memory_.get(),
                                   .page_size = told.value("page-size", 0U),
                                   .journal_folder = told.at("journal")};
    DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<RxKernel> kernel, RxKernel::Open());
    DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<RxBinding> made,
                            CreateRxBinding(std::make_unique<DyingKernel>(std::move(kernel), fate_), options));
    const RxBinding& binding = *(bindings_[options.interface] = std::move(made));
    return Json{{"dmabuf", binding.dmabuf_id()},
                {"page-size", binding.page_size()},
                {"by-handle", binding.by_handle()},
                {"posted", binding.posted()},
                {"driver", binding.driver()},
                {"capacity", binding.rule_capacity()},
                {"queues", QueuesToJson(binding.queues())}};
  }

  Answer AddRule(const Json& told) {
    const FlowMatch match{.source = Address(told.at("source")), .destination = Address(told.at("destination"))};
    DEVMEM_ASSIGN_OR_RETURN(const uint32_t location, Binding(told).AddRule(match, told.at("index")));
    return Json(location);
  }
  Answer RemoveRule(const Json& told) { return Nothing(Binding(told).RemoveRule(told.at("location"))); }
  Answer Look(const Json& told) {
    DEVMEM_ASSIGN_OR_RETURN(const RxState state, Binding(told).Look());
    return Json{{"intact", state.intact},         {"why", state.why},
                {"inflight", state.inflight},     {"detached", state.detached},
                {"alloc-fail", state.alloc_fail}, {"packets", state.packets},
                {"bytes", state.bytes},           {"dmabuf", Binding(told).dmabuf_id()},
                {"rules", Binding(told).rules()}, {"queues", QueuesToJson(state.queues)}};
  }
  Answer Rebind(const Json& told) { return Nothing(Binding(told).Rebind(memory_.get())); }
  Answer Undo(const Json& told) { return Nothing(Binding(told).Undo(Clock::now() + seconds(told.value("seconds", 10)))); }
  Answer Recovered(const Json& told) { return Json(Recover(told.at("journal"))); }
  Answer Moments(const Json&) { return Json(fate_.passed()); }

  Answer Place(const Json& told) {
    const PlacementRequest request{.interfaces = told.value("interfaces", std::vector<std::string>{}),
                                   .queues = told.value("queues", size_t{1}),
                                   .near_pci = told.value("near", "")};
    DEVMEM_ASSIGN_OR_RETURN(const Placement placement, ChoosePlacement(request));
    Json nics = Json::object();
    for (const NicPlacement& nic : placement.nics) nics[nic.interface] = nic.queues;
    return Json{{"nics", nics}, {"notes", placement.notes}};
  }

  Answer Steer(const Json& told) {
    std::vector<RxBinding*> bindings;
    for (const auto& [name, binding] : bindings_) bindings.push_back(binding.get());
    SteeringOptions options{.addresses = told.value("addresses", std::vector<std::string>{})};
    if (!options.addresses.empty()) options.mode = SteerMode::kAddress;
    DEVMEM_ASSIGN_OR_RETURN(steering_, FlowSteering::Create(bindings, options));
    if (const absl::Status begun = steering_->Begin(); !begun.ok()) {
      steering_.reset();
      return begun;
    }
    return Json(nullptr);
  }

  Answer Connect(const Json& told) {
    const sockaddr_storage peer = Address(told.at("peer"));
    const socklen_t length = peer.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    const auto* address = reinterpret_cast<const sockaddr*>(&peer);
    socket_ = UniqueFd(::socket(peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    DEVMEM_ASSIGN_OR_RETURN(lease_, steering_->Steer(socket_.get(), address, length, told.at("queue")));
    if (::connect(socket_.get(), address, length) != 0) return ErrnoError(errno, "cannot connect");
    return Json{{"interface", lease_->interface()}, {"queue", lease_->queue()}};
  }

  // Up to `bytes`, each fragment given back at once: how many came which way.
  Answer Receive(const Json& told) {
    const uint64_t wanted = told.at("bytes");
    std::map<std::string, uint64_t> ways = {{"device", 0}, {"host", 0}};
    std::vector<char> room(1 << 20);
    std::vector<char> control(256 << 10);
    for (uint64_t got = 0; got < wanted;) {
      pollfd wait{.fd = socket_.get(), .events = POLLIN};
      if (::poll(&wait, 1, 20'000) != 1) return absl::DeadlineExceededError(absl::StrCat("only ", got, " bytes came"));
      iovec iov{.iov_base = room.data(), .iov_len = std::min<uint64_t>(room.size(), wanted - got)};
      msghdr message{.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.data(), .msg_controllen = control.size()};
      const ssize_t bytes = ::recvmsg(socket_.get(), &message, uapi::kMsgSockDevmem);
      if (bytes < 0) return ErrnoError(errno, "cannot receive");
      if (bytes == 0) break;
      got += static_cast<uint64_t>(bytes);
      DEVMEM_ASSIGN_OR_RETURN(const uint64_t device, GiveBack(message));
      ways["device"] += device;
      ways["host"] += static_cast<uint64_t>(bytes) - device;
    }
    return Json(ways);
  }

  absl::StatusOr<uint64_t> GiveBack(msghdr& message) {
    uint64_t bytes = 0;
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
      if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != uapi::kSoDevmemDmabuf) continue;
      uapi::DmabufCmsg fragment{};
      std::memcpy(&fragment, CMSG_DATA(each), sizeof fragment);
      bytes += fragment.frag_size;
      const uapi::DmabufToken token{.token_start = fragment.frag_token, .token_count = 1};
      if (::setsockopt(socket_.get(), SOL_SOCKET, uapi::kSoDevmemDontneed, &token, sizeof token) != 1) {
        return ErrnoError(errno, "cannot give a token back");
      }
    }
    return bytes;
  }

  Answer Check(const Json&) {
    unsigned napi = 0;
    socklen_t length = sizeof napi;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &length) != 0) return ErrnoError(errno, "no NAPI");
    DEVMEM_RETURN_IF_ERROR(lease_->Check(napi));
    return Json(napi);
  }

  Answer HangUp(const Json&) {
    socket_.Reset();
    lease_.reset();
    return Json(nullptr);
  }

  Fate fate_;
  UniqueFd memory_;
  std::map<std::string, std::unique_ptr<RxBinding>> bindings_;
  std::unique_ptr<FlowSteering> steering_;
  std::unique_ptr<FlowSteering::Lease> lease_;
  UniqueFd socket_;
};

int Main(std::optional<uint64_t> dies_at) {
  Tester tester(dies_at);
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      const Answer answer = tester.Do(Json::parse(line));
      if (answer.ok()) {
        out["value"] = *answer;
      } else {
        out = {{"code", absl::StatusCodeToString(answer.status().code())}, {"message", Text(answer.status())}};
      }
    } catch (const std::exception& e) {  // a request that lacks something
      out = {{"code", "BAD_REQUEST"}, {"message", e.what()}};
    }
    std::cout << out << std::endl;  // NOLINT(performance-avoid-endl): the test waits for it
  }
  return 0;
}

}  // namespace
}  // namespace devmem

int main(int argc, char** argv) {
  return devmem::Main(argc > 1 ? std::optional<uint64_t>(std::stoull(argv[1])) : std::nullopt);
}
