// SPDX-License-Identifier: Apache-2.0
// A netlink socket: one request at a time, its answers collected under a deadline, and the kernel's refusal, with its own
// words (extack), as a Status. Built on libmnl, which lays out messages; the socket is ours, because a binding lives as long
// as it does.
//
//   DEVMEM_ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_ROUTE));
//   NetlinkRequest request(RTM_GETROUTE, 0, sizeof(rtmsg));
//   request.PutU32(RTA_OIF, 2);
//   DEVMEM_ASSIGN_OR_RETURN(auto answers, socket.Exchange(request, {.object = "dms0", .what = "cannot look up a route"}));
//
// It speaks to the network namespace of the thread that opened it. An object belongs to one thread at a time.
#pragma once

#include <libmnl/libmnl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "net/netlink/attributes.h"

namespace devmem {

// A message under construction. What does not fit into 64 KiB is left out, and Exchange refuses the whole.
class NetlinkRequest {
 public:
  // `flags` besides NLM_F_REQUEST | NLM_F_ACK; NLM_F_DUMP for a dump. The protocol's own header, zeroed, is `Header<T>()`.
  NetlinkRequest(uint16_t type, uint16_t flags, size_t header_size);

  template <typename T>
  [[nodiscard]] T* Header() {
    return static_cast<T*>(mnl_nlmsg_get_payload(message()));
  }
  void PutU8(uint16_t type, uint8_t value);
  void PutU32(uint16_t type, uint32_t value);
  void PutFlag(uint16_t type);
  void PutString(uint16_t type, std::string_view value);
  void PutBytes(uint16_t type, std::span<const std::byte> value);
  template <typename F>
  void PutNest(uint16_t type, F fill) {
    nlattr* nest = mnl_attr_nest_start_check(message(), kSize, type);
    if (nest == nullptr) {
      overflow_ = true;
      return;
    }
    fill();
    mnl_attr_nest_end(message(), nest);
  }

  [[nodiscard]] nlmsghdr* message() { return reinterpret_cast<nlmsghdr*>(buffer_.data()); }
  [[nodiscard]] const nlmsghdr* message() const { return reinterpret_cast<const nlmsghdr*>(buffer_.data()); }
  [[nodiscard]] size_t header_size() const { return header_size_; }
  [[nodiscard]] bool overflow() const { return overflow_; }

 private:
  static constexpr size_t kSize = 64 << 10;  // an attribute's length has 16 bits
  size_t header_size_;
  std::vector<uint64_t> buffer_;
  bool overflow_ = false;
};

// One message of the kernel's answer, without the netlink header.
class NetlinkAnswer {
 public:
  NetlinkAnswer(uint16_t type, std::span<const std::byte> payload);
  [[nodiscard]] uint16_t type() const { return type_; }
  // The protocol's header; null if the message is too short for one.
  template <typename T>
  [[nodiscard]] const T* Header() const {
    return size_ >= sizeof(T) ? reinterpret_cast<const T*>(words_.data()) : nullptr;
  }
  [[nodiscard]] NetlinkAttributes Attributes(size_t header_size) const;

 private:
  uint16_t type_;
  size_t size_;
  std::vector<uint64_t> words_;  // aligned for any header
};

// What the kernel said in refusing.
struct NetlinkRefusal {
  int error = 0;         // errno
  std::string words;     // extack; may be empty
  uint32_t offset = 0;   // of the offending attribute in the request; 0: not told
  uint32_t missing = 0;  // the type of an attribute that should have been there; 0: not told
};

// Where an exchange stands, and what one datagram adds to it. Apart from the socket, so that any bytes can be tried on it.
struct NetlinkProgress {
  std::vector<NetlinkAnswer> answers;
  bool done = false;         // acknowledged, or the dump's end
  bool interrupted = false;  // the kernel's table changed during the dump: what came is not consistent
  NetlinkRefusal refusal;    // of a `done` exchange, if error is set
};
// Adds a datagram's messages that answer `sequence`; others, left over from a request that timed out, are passed over. False if
// the datagram is not made of whole messages.
[[nodiscard]] bool ConsumeDatagram(std::span<const std::byte> datagram, uint32_t sequence, NetlinkProgress& progress);

// How a refusal is told: on what, and what could not be done ("cannot bind device memory to queue 3").
struct NetlinkSubject {
  std::string object;
  std::string what;
};
// errno and words of the kernel, from netlink or an ioctl, as a Status with what to do about it. `detail` is told and is no
// part of the cause.
[[nodiscard]] absl::Status KernelRefusal(const NetlinkSubject& subject, int error, std::string_view words = {},
                                         std::string_view detail = {});

class NetlinkSocket {
 public:
  [[nodiscard]] static absl::StatusOr<NetlinkSocket> Open(int protocol);

  // Sends the request and waits, at most five seconds each, for the answers and the acknowledgement. Dumps that the kernel
  // marks as interrupted are made again, a few times.
  [[nodiscard]] absl::StatusOr<std::vector<NetlinkAnswer>> Exchange(NetlinkRequest& request, const NetlinkSubject& subject);

  // What this socket keeps alive in the kernel goes on living with the descriptor.
  [[nodiscard]] UniqueFd Release() && { return std::move(fd_); }

 private:
  explicit NetlinkSocket(UniqueFd fd);
  [[nodiscard]] absl::Status Send(NetlinkRequest& request, const NetlinkSubject& subject);
  [[nodiscard]] absl::StatusOr<NetlinkProgress> Receive(const NetlinkRequest& request, const NetlinkSubject& subject);
  [[nodiscard]] absl::StatusOr<std::span<const std::byte>> ReceiveDatagram(std::chrono::steady_clock::time_point deadline,
                                                                           const NetlinkSubject& subject);

  UniqueFd fd_;
  uint32_t sequence_ = 0;
  std::vector<uint64_t> buffer_;
};

}  // namespace devmem
