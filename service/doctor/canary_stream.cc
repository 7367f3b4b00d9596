// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/canary_stream.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/netlink/uapi.h"
#include "net/stream_socket.h"

namespace devmem::doctor {
namespace {

constexpr size_t kReceive = 256 << 10;  // the iov bounds device bytes, too
constexpr size_t kControl = 64 << 10;   // 40 bytes a fragment
constexpr std::string_view kHttp = "HTTP/";

}  // namespace

CanaryStream::CanaryStream(const Parts& parts) : parts_(parts), host_(kReceive), control_(kControl) {}

absl::StatusOr<std::unique_ptr<CanaryStream>> CanaryStream::Connect(const Parts& parts, const SocketAddress& address,
                                                                    Time deadline) {
  std::unique_ptr<CanaryStream> stream(new CanaryStream(parts));
  DEVMEM_RETURN_IF_ERROR(stream->Open(address, deadline));
  return stream;
}

absl::Status CanaryStream::Open(const SocketAddress& address, Time deadline) {
  const auto* const peer = reinterpret_cast<const sockaddr*>(&address.storage);
  DEVMEM_ASSIGN_OR_RETURN(fd_, OpenStreamSocket(peer->sa_family));
  const int half = static_cast<int>(parts_.receive_buffer / 2);  // the kernel doubles it
  if (::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof half) != 0) {
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &half, sizeof half);
  }
  DEVMEM_ASSIGN_OR_RETURN(lease_, parts_.steering->Steer(fd_.get(), peer, address.length, 0));
  if (::connect(fd_.get(), peer, address.length) != 0 && errno != EINPROGRESS) return ConnectionError(errno, "connect");
  DEVMEM_RETURN_IF_ERROR(Await(POLLOUT, deadline));
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return ConnectionError(error, "connect");
  uint32_t napi = 0;
  length = sizeof napi;
  ::getsockopt(fd_.get(), SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &length);
  return lease_->Check(napi);
}

absl::Status CanaryStream::Await(short events, Time deadline) const {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd ready{.fd = fd_.get(), .events = events};
    const int polled = left.count() > 0 ? ::poll(&ready, 1, static_cast<int>(left.count())) : 0;
    if (polled > 0) return absl::OkStatus();
    if (polled < 0 && errno == EINTR) continue;
    if (polled < 0) return ErrnoError(errno, "waiting for the connection");
    return MakeError(
        absl::StatusCode::kDeadlineExceeded, absl::StrCat("nothing more came after ", bytes_.size(), " bytes"),
        {.cause = "stalled",
         .action = "ethtool -S tells what the NIC dropped; an empty landing pool or a lost rule stalls a connection"});
  }
}

absl::Status CanaryStream::Send(const std::string& request, Time deadline) {
  std::string_view left = request;
  while (!left.empty()) {
    DEVMEM_RETURN_IF_ERROR(Await(POLLOUT, deadline));
    const ssize_t sent = ::send(fd_.get(), left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return ConnectionError(errno, "send");
    if (sent > 0) left.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

absl::StatusOr<CanaryStream::Answer> CanaryStream::Ask(const std::string& request, Time deadline) {
  DEVMEM_RETURN_IF_ERROR(Send(request, deadline));
  Answer answer{.begin = bytes_.size()};
  while (true) {
    const std::string_view here = std::string_view(bytes_).substr(answer.begin);
    if (!answer.head && here.size() >= kHttp.size()) {
      if (!here.starts_with(kHttp)) return answer;
      const absl::StatusOr<std::optional<ResponseHead>> head = ParseResponseHead(here);
      if (!head.ok()) return answer;
      answer.head = *head;
      if (answer.head && !answer.head->content_length) {
        return MakeError(absl::StatusCode::kFailedPrecondition, "the store told no Content-Length", {.cause = "no length"});
      }
    }
    if (answer.head && here.size() >= answer.head->bytes + *answer.head->content_length) return answer;
    DEVMEM_RETURN_IF_ERROR(Receive(deadline));
  }
}

absl::Status CanaryStream::Receive(Time deadline) {
  DEVMEM_RETURN_IF_ERROR(Await(POLLIN, deadline));
  iovec into{.iov_base = host_.data(), .iov_len = host_.size()};
  msghdr message{};
  message.msg_iov = &into;
  message.msg_iovlen = 1;
  message.msg_control = control_.data();
  message.msg_controllen = control_.size();
  const ssize_t got = ::recvmsg(fd_.get(), &message, uapi::kMsgSockDevmem | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
  if (got < 0) return ConnectionError(errno, "receive");
  if (got == 0) return ConnectionEnded();
  return Take(message, static_cast<uint64_t>(got));
}

absl::Status CanaryStream::Take(msghdr& message, uint64_t bytes) {
  uint64_t linear = 0;
  bool described = false;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET ||
        (header->cmsg_type != uapi::kSoDevmemDmabuf && header->cmsg_type != uapi::kSoDevmemLinear)) {
      continue;
    }
    described = true;
    uapi::DmabufCmsg told;
    std::memcpy(&told, CMSG_DATA(header), sizeof told);
    const uint64_t at = bytes_.size();
    bytes_.resize(at + told.frag_size);
    if (header->cmsg_type == uapi::kSoDevmemLinear) {
      std::memcpy(bytes_.data() + at, host_.data() + linear, told.frag_size);
      linear += told.frag_size;
    } else if (told.dmabuf_id != parts_.dmabuf || told.frag_offset > parts_.pool->bytes() ||
               told.frag_size > parts_.pool->bytes() - told.frag_offset) {
      foreign_bytes_ += told.frag_size;
      foreign_dmabuf_ = told.dmabuf_id;
    } else {
      device_bytes_ += told.frag_size;
      fragments_.push_back({.pool = told.frag_offset, .stream = at, .bytes = told.frag_size});
      DEVMEM_ASSIGN_OR_RETURN(
          const Event read, parts_.device->Peek(std::as_writable_bytes(std::span(bytes_).subspan(at)),
                                                {.memory = parts_.pool, .offset = told.frag_offset, .bytes = told.frag_size}));
      DEVMEM_RETURN_IF_ERROR(read.Wait(Clock::now() + std::chrono::seconds(10)));
    }
  }
  linear_bytes_ += linear;
  if (described) return absl::OkStatus();
  bytes_.append(host_.data(), bytes);
  host_bytes_ += bytes;
  uint32_t napi = 0;
  socklen_t length = sizeof napi;
  ::getsockopt(fd_.get(), SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &length);
  host_napis_.insert(napi);
  return absl::OkStatus();
}

}  // namespace devmem::doctor
