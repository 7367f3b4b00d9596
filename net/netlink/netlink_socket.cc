// SPDX-License-Identifier: Apache-2.0
// An exchange:
//  1. The request goes out with a sequence number of its own, and asks for an acknowledgement.
//  2. Datagrams come until NLMSG_ERROR (error 0: acknowledged) or NLMSG_DONE (a dump's end, with its own error).
//     What carries another number is an answer to an exchange that was given up, and is dropped.
//  3. A refusal carries attributes behind its fixed part (NLM_F_ACK_TLVS): words, and what in the request was meant. The
//  request
//     itself is not sent back (NETLINK_CAP_ACK), or its length would have to be stepped over.
#include "net/netlink/netlink_socket.h"

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

constexpr std::chrono::seconds kPatience{5};
constexpr int kDumpAttempts = 5;
constexpr size_t kReceive = 256 << 10;  // the kernel sends dumps in pieces of 32 KiB at most, single answers in one of any size

// linux/netlink.h of 6.1 ends before these (enum nlmsgerr_attrs).
constexpr uint16_t kErrorMissingType = 5;

NetlinkRefusal ParseRefusal(int error, std::span<const std::byte> attributes) {
  const NetlinkAttributes told(attributes);
  return {.error = error,
          .words = std::string(told.String(NLMSGERR_ATTR_MSG).value_or("")),
          .offset = told.U32(NLMSGERR_ATTR_OFFS).value_or(0),
          .missing = told.U32(kErrorMissingType).value_or(0)};
}

// NLMSG_ERROR and NLMSG_DONE both open with an int.
bool ParseEnd(const nlmsghdr* message, std::span<const std::byte> payload, NetlinkProgress& progress) {
  size_t fixed = sizeof(int);
  if (message->nlmsg_type == NLMSG_ERROR) {
    fixed = sizeof(nlmsgerr);
    if (payload.size() < fixed) return false;
    if ((message->nlmsg_flags & NLM_F_CAPPED) == 0) {  // the whole request follows
      nlmsgerr error;
      std::memcpy(&error, payload.data(), sizeof(error));
      if (error.msg.nlmsg_len > sizeof(nlmsghdr)) fixed += NLMSG_ALIGN(error.msg.nlmsg_len) - sizeof(nlmsghdr);
    }
  }
  int error = 0;
  if (payload.size() >= sizeof(error)) std::memcpy(&error, payload.data(), sizeof(error));
  progress.done = true;
  const bool told = (message->nlmsg_flags & NLM_F_ACK_TLVS) != 0 && payload.size() > fixed;
  if (error != 0) progress.refusal = ParseRefusal(error < 0 ? -error : error, told ? payload.subspan(fixed) : payload.first(0));
  return true;
}

std::string ActionFor(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      return "run with CAP_NET_ADMIN in the network namespace's user namespace";
    case EOPNOTSUPP:
      return "this driver or this kernel cannot do that";
    case ENODEV:
      return "check the interface's name and network namespace (ip link)";
    case EBUSY:
    case EEXIST:
      return "whoever has it must let it go first";
    case ENOBUFS:
    case ENOMEM:
      return "free memory, or raise the limit of locked or socket memory";
    default:
      return "";
  }
}

// The type of the outermost attribute in which an offset of the request lies.
std::string Culprit(const NetlinkRequest& request, const NetlinkRefusal& refusal) {
  if (refusal.missing != 0) return absl::StrCat(" (attribute ", refusal.missing, " is missing in the request)");
  if (refusal.offset == 0) return "";
  const auto* message = request.message();
  size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(request.header_size());
  while (at + sizeof(nlattr) <= message->nlmsg_len) {
    const auto* attribute = reinterpret_cast<const nlattr*>(reinterpret_cast<const std::byte*>(message) + at);
    const size_t end = at + MNL_ALIGN(attribute->nla_len);
    if (end <= at) break;
    if (refusal.offset < end) {
      return absl::StrCat(" (attribute ", mnl_attr_get_type(attribute), " of the request, byte ", refusal.offset, ")");
    }
    at = end;
  }
  return absl::StrCat(" (byte ", refusal.offset, " of the request)");
}

}  // namespace

NetlinkRequest::NetlinkRequest(uint16_t type, uint16_t flags, size_t header_size)
    : header_size_(header_size), buffer_(kSize / sizeof(uint64_t)) {
  nlmsghdr* made = mnl_nlmsg_put_header(buffer_.data());
  made->nlmsg_type = type;
  made->nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK);
  mnl_nlmsg_put_extra_header(made, header_size);
}

void NetlinkRequest::PutU8(uint16_t type, uint8_t value) {
  if (!mnl_attr_put_u8_check(message(), kSize, type, value)) overflow_ = true;
}

void NetlinkRequest::PutU32(uint16_t type, uint32_t value) {
  if (!mnl_attr_put_u32_check(message(), kSize, type, value)) overflow_ = true;
}

void NetlinkRequest::PutFlag(uint16_t type) { PutBytes(type, {}); }

void NetlinkRequest::PutString(uint16_t type, std::string_view value) {
  const std::string ended(value);
  if (!mnl_attr_put_strz_check(message(), kSize, type, ended.c_str())) overflow_ = true;
}

void NetlinkRequest::PutBytes(uint16_t type, std::span<const std::byte> value) {
  // libmnl checks against the buffer, and the length's 16 bits wrap before that.
  if (value.size() > UINT16_MAX - sizeof(nlattr) || !mnl_attr_put_check(message(), kSize, type, value.size(), value.data())) {
    overflow_ = true;
  }
}

NetlinkAnswer::NetlinkAnswer(uint16_t type, std::span<const std::byte> payload)
    : type_(type), size_(payload.size()), words_((payload.size() + sizeof(uint64_t) - 1) / sizeof(uint64_t)) {
  if (!payload.empty()) std::memcpy(words_.data(), payload.data(), payload.size());
}

NetlinkAttributes NetlinkAnswer::Attributes(size_t header_size) const {
  const std::span<const std::byte> payload(reinterpret_cast<const std::byte*>(words_.data()), size_);
  const size_t skip = NLMSG_ALIGN(header_size);
  return NetlinkAttributes(skip < size_ ? payload.subspan(skip) : payload.first(0));
}

bool ConsumeDatagram(std::span<const std::byte> datagram, uint32_t sequence, NetlinkProgress& progress) {
  while (!datagram.empty()) {
    nlmsghdr header;
    if (datagram.size() < sizeof(header)) return false;
    std::memcpy(&header, datagram.data(), sizeof(header));
    if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > datagram.size()) return false;
    const std::span<const std::byte> payload = datagram.subspan(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
    datagram = datagram.subspan(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), datagram.size()));
    if (header.nlmsg_seq != sequence || progress.done) continue;
    if ((header.nlmsg_flags & NLM_F_DUMP_INTR) != 0) progress.interrupted = true;
    if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE) {
      if (!ParseEnd(&header, payload, progress)) return false;
    } else if (header.nlmsg_type >= NLMSG_MIN_TYPE) {
      progress.answers.emplace_back(header.nlmsg_type, payload);
    }
  }
  return true;
}

absl::Status KernelRefusal(const NetlinkSubject& subject, int error, std::string_view words, std::string_view detail) {
  const std::string cause = words.empty() ? std::strerror(error) : std::string(words);
  // What a newer kernel would take, an older one calls an invalid argument.
  if (error == EINVAL && words == "Unknown attribute type") error = EOPNOTSUPP;
  return MakeError(absl::ErrnoToStatusCode(error),
                   absl::StrCat(subject.what, ": ", cause, absl::string_view(detail.data(), detail.size())),
                   {.object = subject.object, .error_number = error, .cause = cause, .action = ActionFor(error)});
}

NetlinkSocket::NetlinkSocket(UniqueFd fd) : fd_(std::move(fd)), buffer_(kReceive / sizeof(uint64_t)) {}

absl::StatusOr<NetlinkSocket> NetlinkSocket::Open(int protocol) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd.valid()) return ErrnoError(errno, absl::StrCat("cannot open a netlink socket of protocol ", protocol));
  // Errors that can be told; and, where a kernel has it, filters of dumps that are obeyed or refused rather than ignored.
  const int on = 1;
  for (const int option : {NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK}) {
    if (::setsockopt(fd.get(), SOL_NETLINK, option, &on, sizeof(on)) != 0) {
      return ErrnoError(errno, absl::StrCat("cannot set option ", option, " of a netlink socket"));
    }
  }
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoError(errno, "cannot bind a netlink socket");
  }
  return NetlinkSocket(std::move(fd));
}

absl::Status NetlinkSocket::Send(NetlinkRequest& request, const NetlinkSubject& subject) {
  request.message()->nlmsg_seq = ++sequence_;
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  ssize_t sent;
  do {
    sent = ::sendto(fd_.get(), request.message(), request.message()->nlmsg_len, 0, reinterpret_cast<const sockaddr*>(&kernel),
                    sizeof(kernel));
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return KernelRefusal(subject, errno);
  return absl::OkStatus();
}

absl::StatusOr<std::span<const std::byte>> NetlinkSocket::ReceiveDatagram(std::chrono::steady_clock::time_point deadline,
                                                                          const NetlinkSubject& subject) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd ready{.fd = fd_.get(), .events = POLLIN};
    const int polled = left.count() > 0 ? ::poll(&ready, 1, static_cast<int>(left.count())) : 0;
    if (polled < 0 && errno == EINTR) continue;
    if (polled < 0) return ErrnoError(errno, absl::StrCat(subject.what, ": poll"), {.object = subject.object});
    if (polled == 0) {
      return MakeError(absl::StatusCode::kDeadlineExceeded,
                       absl::StrCat(subject.what, ": no answer from the kernel within ", kPatience.count(), " s"),
                       {.object = subject.object, .action = "the kernel's log may tell what holds its network lock (dmesg)"});
    }
    sockaddr_nl from{};
    iovec room{.iov_base = buffer_.data(), .iov_len = kReceive};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof(from);
    message.msg_iov = &room;
    message.msg_iovlen = 1;
    const ssize_t got = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return KernelRefusal(subject, errno);
    if (from.nl_pid != 0) continue;  // not the kernel
    if ((message.msg_flags & MSG_TRUNC) != 0) {
      return MakeError(absl::StatusCode::kInternal,
                       absl::StrCat(subject.what, ": the kernel's answer is larger than ", kReceive),
                       {.object = subject.object, .action = "report this"});
    }
    return std::as_bytes(std::span(buffer_)).first(static_cast<size_t>(got));
  }
}

absl::StatusOr<NetlinkProgress> NetlinkSocket::Receive(const NetlinkRequest& request, const NetlinkSubject& subject) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  NetlinkProgress progress;
  while (!progress.done) {
    DEVMEM_ASSIGN_OR_RETURN(const std::span<const std::byte> datagram, ReceiveDatagram(deadline, subject));
    if (!ConsumeDatagram(datagram, request.message()->nlmsg_seq, progress)) {
      return MakeError(absl::StatusCode::kInternal, absl::StrCat(subject.what, ": the kernel's answer is no netlink message"),
                       {.object = subject.object, .action = "report this"});
    }
  }
  return progress;
}

absl::StatusOr<std::vector<NetlinkAnswer>> NetlinkSocket::Exchange(NetlinkRequest& request, const NetlinkSubject& subject) {
  if (request.overflow()) {
    return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat(subject.what, ": too much for one netlink message"),
                     {.object = subject.object});
  }
  for (int attempt = 1;; ++attempt) {
    DEVMEM_RETURN_IF_ERROR(Send(request, subject));
    DEVMEM_ASSIGN_OR_RETURN(NetlinkProgress progress, Receive(request, subject));
    if (progress.refusal.error != 0) {
      return KernelRefusal(subject, progress.refusal.error, progress.refusal.words, Culprit(request, progress.refusal));
    }
    if (!progress.interrupted) return std::move(progress.answers);
    if (attempt == kDumpAttempts) {
      return MakeError(absl::StatusCode::kUnavailable,
                       absl::StrCat(subject.what, ": what was listed changed during each of ", kDumpAttempts, " attempts"),
                       {.object = subject.object, .action = "try again when the interface's set-up is at rest"});
    }
  }
}

}  // namespace devmem
