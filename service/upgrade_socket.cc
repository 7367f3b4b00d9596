// SPDX-License-Identifier: Apache-2.0
// Who goes on is decided by one packet, adopted, and by the old daemon alone: it has come when the old one reads it. To give
// up, the old one shuts its end for reading first and then looks once more; what was sent by then it finds, what is sent later
// fails at the successor. So never do both go on, nor neither.
//
// Whatever can be known beforehand is asked before anything stops: the successor looks at what it is offered, and the old
// daemon, when it is asked, whether it could.
#include "service/upgrade_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "client/cpp/rpc_error.h"
#include "devmem_loader/v1/upgrade.pb.h"
#include "service/version.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;

constexpr uint32_t kProtocolVersion = 1;
constexpr size_t kMaxPacket = 64 << 10;
constexpr size_t kMaxFds = 253;  // SCM_MAX_FD
constexpr size_t kFdsOfListeners = 6;
constexpr size_t kFdsOfNic = 3;
constexpr Duration kLastWord = std::chrono::seconds(5);  // for a predecessor that shut its end to say why

// Why there is no packet, besides an error of the socket.
absl::Status Closed() {
  return MakeError(absl::StatusCode::kUnavailable, "the other daemon closed the connection, or died",
                   {.fault = Fault::kConnectionEnded, .cause = "peer closed"});
}
bool IsClosed(const absl::Status& status) { return FaultOf(status) == Fault::kConnectionEnded; }

absl::Status Send(int socket, const std::string& bytes, const std::vector<int>& fds = {}) {
  iovec iov{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  std::vector<char> control;
  if (!fds.empty()) {
    control.resize(CMSG_SPACE(fds.size() * sizeof(int)));
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  // Few small packets each way: the buffer is never full.
  while (::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno == EPIPE || errno == ECONNRESET) return Closed();
    if (errno != EINTR) return ErrnoError(errno, "sending to the other daemon", {.object = "upgrade socket"});
  }
  return absl::OkStatus();
}

absl::Status Send(int socket, const v1::UpgradePacket& packet) { return Send(socket, packet.SerializeAsString()); }

struct Received {
  v1::UpgradePacket packet;
  std::string bytes;
  std::vector<UniqueFd> fds;
};

// The next packet; `stop`, where it is valid, ends the waiting.
absl::StatusOr<Received> Receive(int socket, Time deadline, int stop = -1) {
  while (true) {
    std::array<pollfd, 2> watched = {{{socket, POLLIN, 0}, {stop, POLLIN, 0}}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    const int ready = ::poll(watched.data(), watched.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return ErrnoError(errno, "poll", {.object = "upgrade socket"});
    if (watched[0].revents == 0 && watched[1].revents != 0) {
      return MakeError(absl::StatusCode::kCancelled, "this daemon is to end", {.cause = "ending"});
    }
    if (watched[0].revents == 0) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "the other daemon did not answer in time",
                       {.object = "upgrade socket", .cause = "no answer", .action = "look at its log"});
    }
    Received received;
    received.bytes.resize(kMaxPacket);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
    iovec iov{received.bytes.data(), received.bytes.size()};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t length = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    // ECONNRESET: it went without having read all that we sent; what it said before still comes.
    if (length < 0 && (errno == EINTR || errno == EAGAIN || errno == ECONNRESET)) continue;
    if (length < 0) return ErrnoError(errno, "receiving from the other daemon", {.object = "upgrade socket"});
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      for (size_t at = CMSG_LEN(0); at + sizeof(int) <= header->cmsg_len; at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, reinterpret_cast<const char*>(header) + at, sizeof fd);
        received.fds.emplace_back(fd);
      }
    }
    if (length == 0) return Closed();
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
      return MakeError(absl::StatusCode::kResourceExhausted, "no room for the descriptors of the other daemon",
                       {.cause = "file descriptors", .action = "raise the limit of open files (LimitNOFILE)"});
    }
    received.bytes.resize(static_cast<size_t>(length));
    if ((message.msg_flags & MSG_TRUNC) != 0 || !received.packet.ParseFromString(received.bytes)) {
      return MakeError(absl::StatusCode::kInvalidArgument, "the other daemon sent what is no packet", {.cause = "bad packet"});
    }
    return received;
  }
}

void FillFailure(const absl::Status& why, v1::UpgradeFailure* failure) {
  failure->set_code(static_cast<int>(why.code()));
  failure->set_message(ToUtf8(Text(why)));
  *failure->mutable_detail() = DetailOf(why);
}

absl::Status StatusOf(const v1::UpgradeFailure& failure, const std::string& who) {
  const auto code = static_cast<absl::StatusCode>(failure.code());
  return MakeErrorVerbatim(
      code == absl::StatusCode::kOk ? absl::StatusCode::kUnknown : code, who + failure.message(),
      {.object = failure.detail().object(), .cause = failure.detail().cause(), .action = failure.detail().action()});
}

absl::Status BadParcel(const std::string& what) {
  return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("what was handed over is not whole: ", what),
                   {.cause = "bad hand-over", .action = "restart without --take-over"});
}

constexpr char kMemfd[] = "memfd";
constexpr char kCudaVmm[] = "cuda-vmm";

// All of the transport but its descriptors.
void Describe(const TransportParts& parts, v1::HandOver& message) {
  for (const TransportParts::Nic& each : parts.nics) {
    v1::HandOver::Nic& nic = *message.add_nics();
    nic.set_interface(each.binding.interface);
    nic.mutable_queues()->Add(each.binding.queues.begin(), each.binding.queues.end());
    nic.set_dmabuf_id(each.binding.dmabuf_id);
    nic.set_page_size(each.binding.page_size);
    nic.set_posted(each.binding.posted);
    nic.set_by_handle(each.binding.by_handle);
    nic.set_landing_bytes(each.landing.bytes);
    nic.set_landing_kind(each.landing.kind == ExportedHandle::Kind::kMemfd ? kMemfd : kCudaVmm);
    nic.set_landing_version(each.landing.version);
    nic.set_device_uuid(each.landing.device_uuid);
  }
  message.mutable_interfaces()->Add(parts.interfaces.begin(), parts.interfaces.end());
  message.set_queues(parts.queues);
  message.set_landing_pool(parts.landing_pool);
}

absl::StatusOr<TransportParts> PartsOf(const v1::HandOver& message) {
  TransportParts parts;
  for (const v1::HandOver::Nic& nic : message.nics()) {
    if (nic.interface().empty() || nic.queues().empty()) return BadParcel("a NIC without a name or queues");
    if (nic.landing_kind() != kMemfd && nic.landing_kind() != kCudaVmm) {
      return BadParcel(absl::StrCat("memory of kind ", nic.landing_kind()));
    }
    TransportParts::Nic& into = parts.nics.emplace_back();
    into.binding.interface = nic.interface();
    into.binding.queues = {nic.queues().begin(), nic.queues().end()};
    into.binding.dmabuf_id = nic.dmabuf_id();
    into.binding.page_size = nic.page_size();
    into.binding.posted = nic.posted();
    into.binding.by_handle = nic.by_handle();
    into.landing.kind = nic.landing_kind() == kMemfd ? ExportedHandle::Kind::kMemfd : ExportedHandle::Kind::kCudaVmm;
    into.landing.version = nic.landing_version();
    into.landing.bytes = nic.landing_bytes();
    into.landing.device_uuid = nic.device_uuid();
  }
  parts.interfaces = {message.interfaces().begin(), message.interfaces().end()};
  parts.queues = message.queues();
  parts.landing_pool = message.landing_pool();
  return parts;
}

class UpgradeSocketImpl final : public UpgradeSocket {
 public:
  UpgradeSocketImpl(UnixListener listener, Options options, UniqueFd stop)
      : listener_(std::move(listener)), options_(std::move(options)), stop_(std::move(stop)) {
    thread_ = std::thread([this] { Run(); });
  }

  ~UpgradeSocketImpl() override {
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
  }

 private:
  void Run() {
    while (!over_) {
      std::array<pollfd, 2> watched = {{{stop_.get(), POLLIN, 0}, {listener_.fd(), POLLIN, 0}}};
      if (::poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) return;
      if (watched[0].revents != 0) return;
      UnixListener::Accepted accepted = listener_.Accept();
      if (accepted.starved) {  // they are trainers', and come back
        pollfd stopped{stop_.get(), POLLIN, 0};
        (void)::poll(&stopped, 1, kStarvedPauseMs);
      }
      if (!accepted.fd.valid()) continue;
      if (!accepted.last_resort) {
        const int socket = accepted.fd.get();
        if (const absl::Status status = Talk(socket); !status.ok() && !IsClosed(status)) {
          v1::UpgradePacket packet;
          FillFailure(status, packet.mutable_refused());
          (void)Send(socket, packet);
        }
      }
      accepted.fd.Reset();
      listener_.Recover();
    }
  }

  // An error is the reason why this is no successor.
  absl::Status Talk(int socket) {
    DEVMEM_ASSIGN_OR_RETURN(const PeerCredentials peer, CredentialsOfSocket(socket));
    if (peer.uid != 0 && peer.uid != ::geteuid()) {
      return MakeError(absl::StatusCode::kPermissionDenied,
                       absl::StrCat("uid ", peer.uid, " may not succeed a daemon of uid ", ::geteuid()),
                       {.cause = "not the daemon's user", .action = "start the successor as the daemon's user, or as root"});
    }
    DEVMEM_ASSIGN_OR_RETURN(const Received hello, Next(socket, options_.hello_timeout));
    if (!hello.packet.has_hello() || hello.packet.hello().version() != kProtocolVersion) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("this daemon (version ", kVersion, ") speaks version ", kProtocolVersion,
                                    " of the upgrade protocol, the successor (version ", hello.packet.hello().daemon_version(),
                                    ") version ", hello.packet.hello().version()),
                       {.cause = "version mismatch", .action = "end this daemon (SIGTERM) and start the other one then"});
    }
    const Successor successor{.version = hello.packet.hello().daemon_version(), .pid = peer.pid};
    v1::UpgradePacket present;
    present.mutable_present()->set_daemon_version(kVersion);
    present.mutable_present()->set_path(options_.path);
    if (absl::StatusOr<HandedOver> offer = Offer(); offer.ok())  // else the reason is due when it is asked for
      Describe(offer->transport, *present.mutable_present()->mutable_offer());
    DEVMEM_RETURN_IF_ERROR(Send(socket, present));
    DEVMEM_ASSIGN_OR_RETURN(const Received ready, Next(socket, options_.ready_timeout));
    if (ready.packet.has_failed()) {
      return Decline(StatusOf(ready.packet.failed(), "the successor could not take over: "));
    }
    if (!ready.packet.has_ready()) {
      return MakeError(absl::StatusCode::kInvalidArgument, "the successor is not ready", {.cause = "bad packet"});
    }
    if (const absl::Status could = Offer().status(); !could.ok()) return Decline(could);
    if (const absl::Status status = HandOver(socket, successor); !status.ok()) {
      const absl::Status goes_on = options_.go_on(status);
      if (goes_on.ok()) return status;
      return MakeErrorVerbatim(goes_on.code(), absl::StrCat(Text(status), "; and it cannot go on, and ends: ", Text(goes_on)),
                               GetErrorInfo(goes_on));
    }
    over_ = true;
    listener_.Leave();
    options_.handed_over(successor);
    return absl::OkStatus();
  }

  // What a hand-over would give now, but for the sockets of trainers. Nothing is stopped.
  absl::StatusOr<HandedOver> Offer() const {
    HandedOver offer;
    if (options_.offer) {
      DEVMEM_ASSIGN_OR_RETURN(offer.transport, options_.offer());
    }
    DEVMEM_RETURN_IF_ERROR(Fits(Pack(offer)));
    return offer;
  }

  static absl::Status Fits(const UpgradeParcel& parcel) {
    if (parcel.bytes.size() <= kMaxPacket && parcel.fds.size() <= kMaxFds) return absl::OkStatus();
    return MakeError(absl::StatusCode::kResourceExhausted, "too many NICs to hand over in one packet",
                     {.cause = "too many NICs"});
  }

  absl::Status Decline(const absl::Status& why) const {
    if (options_.declined) options_.declined(why);
    return why;
  }

  absl::Status HandOver(int socket, const Successor& successor) {
    DEVMEM_ASSIGN_OR_RETURN(HandedOver handed, options_.hand_over(successor));
    handed.version = kVersion;
    handed.pid = ::getpid();
    DEVMEM_ASSIGN_OR_RETURN(handed.upgrade, listener_.Share());
    const UpgradeParcel parcel = Pack(handed);
    DEVMEM_RETURN_IF_ERROR(Fits(parcel));
    DEVMEM_RETURN_IF_ERROR(Send(socket, parcel.bytes, parcel.fds));
    absl::StatusOr<Received> answer = Next(socket, options_.adopt_timeout);
    if (!answer.ok()) {
      (void)::shutdown(socket, SHUT_RD);
      if (absl::StatusOr<Received> last = Receive(socket, Clock::now()); last.ok()) answer = std::move(last);
    }
    DEVMEM_RETURN_IF_ERROR(answer.status());
    if (answer->packet.has_failed()) return StatusOf(answer->packet.failed(), "the successor could not take over: ");
    if (!answer->packet.has_adopted()) {
      return MakeError(absl::StatusCode::kInvalidArgument, "the successor does not say that it adopted",
                       {.cause = "bad packet"});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Received> Next(int socket, Duration patience) const {
    return Receive(socket, Clock::now() + patience, stop_.get());
  }

  static constexpr int kStarvedPauseMs = 200;
  UnixListener listener_;
  const Options options_;
  const UniqueFd stop_;
  bool over_ = false;  // the thread's own
  std::thread thread_;
};

class PredecessorImpl final : public Predecessor {
 public:
  explicit PredecessorImpl(UniqueFd socket) : socket_(std::move(socket)) {}

  absl::Status Meet(Time deadline) {
    v1::UpgradePacket hello;
    hello.mutable_hello()->set_version(kProtocolVersion);
    hello.mutable_hello()->set_daemon_version(kVersion);
    DEVMEM_ASSIGN_OR_RETURN(const Received answer, Ask(hello, deadline));
    if (!answer.packet.has_present()) return Unexpected();
    version_ = answer.packet.present().daemon_version();
    path_ = answer.packet.present().path();
    if (answer.packet.present().has_offer()) {
      DEVMEM_ASSIGN_OR_RETURN(offer_, PartsOf(answer.packet.present().offer()));
    }
    return absl::OkStatus();
  }

  const std::string& version() const override { return version_; }
  const std::string& path() const override { return path_; }
  const TransportParts* offer() const override { return offer_.has_value() ? &*offer_ : nullptr; }

  absl::StatusOr<std::optional<HandedOver>> TakeOver(Time deadline) override {
    v1::UpgradePacket ready;
    ready.mutable_ready();
    absl::StatusOr<Received> answer = Ask(ready, deadline);
    if (IsClosed(answer.status())) return std::nullopt;
    DEVMEM_RETURN_IF_ERROR(answer.status());
    if (!answer->packet.has_hand_over()) return Unexpected();
    DEVMEM_ASSIGN_OR_RETURN(HandedOver handed, Unpack(answer->bytes, std::move(answer->fds)));
    return handed;
  }

  absl::Status Adopted() override {
    v1::UpgradePacket adopted;
    adopted.mutable_adopted();
    const absl::Status sent = Send(socket_.get(), adopted);
    if (sent.ok() || !IsClosed(sent)) return sent;
    // Either it gave us up, and says so, or it is dead.
    const absl::StatusOr<Received> last = Next(Clock::now() + kLastWord);
    if (IsClosed(last.status())) return absl::OkStatus();
    return last.ok() ? Unexpected() : last.status();
  }

  void Failed(const absl::Status& why) override {
    v1::UpgradePacket packet;
    FillFailure(why, packet.mutable_failed());
    (void)Send(socket_.get(), packet);
  }

 private:
  // The answer, also where the question cannot be put any more: a refusal may be there already.
  absl::StatusOr<Received> Ask(const v1::UpgradePacket& packet, Time deadline) const {
    if (const absl::Status sent = Send(socket_.get(), packet); !sent.ok() && !IsClosed(sent)) return sent;
    return Next(deadline);
  }

  // The next packet, or the refusal that it is.
  absl::StatusOr<Received> Next(Time deadline) const {
    DEVMEM_ASSIGN_OR_RETURN(Received answer, Receive(socket_.get(), deadline));
    if (answer.packet.has_refused()) return StatusOf(answer.packet.refused(), "the living daemon does not hand over: ");
    return answer;
  }

  static absl::Status Unexpected() {
    return MakeError(absl::StatusCode::kInvalidArgument, "the living daemon says what was not asked", {.cause = "bad packet"});
  }

  const UniqueFd socket_;
  std::string version_;
  std::string path_;
  std::optional<TransportParts> offer_;
};

}  // namespace

UpgradeParcel Pack(const HandedOver& handed) {
  v1::UpgradePacket packet;
  v1::HandOver& message = *packet.mutable_hand_over();
  UpgradeParcel parcel;
  message.set_daemon_version(handed.version);
  message.set_pid(handed.pid);
  message.set_stopped_ns(std::chrono::duration_cast<std::chrono::nanoseconds>(handed.stopped.time_since_epoch()).count());
  message.set_streams(handed.streams);
  message.set_sockets_lent(handed.grpc.lent);
  for (const UnixListener::Parts* const each : {&handed.grpc, &handed.handles, &handed.upgrade}) {
    parcel.fds.push_back(each->socket.get());
    parcel.fds.push_back(each->lock.get());
  }
  Describe(handed.transport, message);
  for (const TransportParts::Nic& each : handed.transport.nics) {
    for (const UniqueFd* const fd : {&each.binding.fd, &each.landing.fd, &each.dmabuf}) parcel.fds.push_back(fd->get());
  }
  parcel.bytes = packet.SerializeAsString();
  return parcel;
}

absl::StatusOr<HandedOver> Unpack(std::string_view bytes, std::vector<UniqueFd> fds) {
  v1::UpgradePacket packet;
  if (!packet.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !packet.has_hand_over()) {
    return BadParcel("no such packet");
  }
  const v1::HandOver& message = packet.hand_over();
  if (fds.size() != kFdsOfListeners + kFdsOfNic * static_cast<size_t>(message.nics_size())) {
    return BadParcel(absl::StrCat(fds.size(), " descriptors for ", message.nics_size(), " NICs"));
  }
  HandedOver handed{.version = message.daemon_version(),
                    .pid = message.pid(),
                    .stopped = Time(std::chrono::nanoseconds(message.stopped_ns())),
                    .streams = message.streams()};
  auto next = fds.begin();
  for (UnixListener::Parts* const each : {&handed.grpc, &handed.handles, &handed.upgrade}) {
    each->socket = std::move(*next++);
    each->lock = std::move(*next++);
  }
  handed.grpc.lent = handed.handles.lent = message.sockets_lent();
  DEVMEM_ASSIGN_OR_RETURN(handed.transport, PartsOf(message));
  for (TransportParts::Nic& each : handed.transport.nics) {
    for (UniqueFd* const fd : {&each.binding.fd, &each.landing.fd, &each.dmabuf}) *fd = std::move(*next++);
  }
  return handed;
}

absl::StatusOr<std::unique_ptr<UpgradeSocket>> UpgradeSocket::On(UnixListener listener, Options options) {
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.valid()) return ErrnoError(errno, "eventfd", {.object = listener.path()});
  return std::make_unique<UpgradeSocketImpl>(std::move(listener), std::move(options), std::move(stop));
}

absl::StatusOr<std::unique_ptr<Predecessor>> Predecessor::Find(std::string_view service_path, Time deadline) {
  const std::string path = std::string(service_path) + kUpgradeSuffix;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return nullptr;  // the gRPC socket's own error says it
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoError(errno, "cannot make a socket", {.object = path});
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR) return nullptr;
    return ErrnoError(errno, "cannot reach the living daemon", {.object = path, .action = "start as its user, or as root"});
  }
  // Nobody else's sockets and memory: in a folder that others may write to, anybody can listen here.
  DEVMEM_ASSIGN_OR_RETURN(const PeerCredentials peer, CredentialsOfSocket(socket.get()));
  if (peer.uid != 0 && peer.uid != ::geteuid()) {
    return MakeError(
        absl::StatusCode::kPermissionDenied,
        absl::StrCat("who listens there is user ", peer.uid, "'s: nothing is taken over from him"),
        {.object = path, .cause = "another user", .action = "see who that is; keep the socket's folder to one user"});
  }
  auto found = std::make_unique<PredecessorImpl>(std::move(socket));
  if (const absl::Status met = found->Meet(deadline); IsClosed(met)) {
    return nullptr;
  } else if (!met.ok()) {
    return WithObject(met, path);
  }
  return found;
}

}  // namespace devmem
