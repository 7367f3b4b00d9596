// SPDX-License-Identifier: Apache-2.0
// What ./dev bench guest measures the product against, run inside the guest: a silent loop that receives device memory and
// gives it straight back. It binds nothing: queue, rule and dma-buf are the caller's.
//
//   guest_bench_floor receive ADDRESS PORT    prints "listening", takes one connection, receives to its end: recvmsg with an
//                                             iov of 1 MiB, SO_DEVMEM_DONTNEED with up to 128 tokens a call, one entry each
//   guest_bench_floor least ADDRESS PORT      the same with all that makes a receiver cheap: SO_RCVLOWAT of 1 MiB, an iov of
//                                             8 MiB, tokens merged into runs
//   guest_bench_floor gather MIB PIECE        copies pieces of device memory (a udmabuf's pages, mapped) into a memfd: what a
//                                             GPU does for the product, and the CPU device on the CPU
//
// `receive` prints one JSON object: what came, by how many calls. What it cost is counted from outside
// (guest_bench_counter.cc).
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "net/netlink/uapi.h"

namespace {

constexpr size_t kIov = 1 << 20;
constexpr size_t kLargeIov = 8 << 20;
constexpr int kLowWater = 1 << 20;
constexpr size_t kControl = 256 << 10;  // room for 6,500 fragments: more than a window holds
constexpr size_t kTokensPerCall = devmem::uapi::kMaxDontneedEntries;
constexpr size_t kSlab = 64 << 20;

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "guest_bench_floor: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

struct Counts {
  uint64_t device = 0, linear = 0, plain = 0, fragments = 0, receive_calls = 0, return_calls = 0;
};

int Accept(const char* address, const char* port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_port = htons(static_cast<uint16_t>(std::atoi(port)));
  if (::inet_pton(AF_INET, address, &here.sin_addr) != 1) Fail("the address");
  if (::bind(listener, reinterpret_cast<sockaddr*>(&here), sizeof here) != 0) Fail("bind");
  if (::listen(listener, 1) != 0) Fail("listen");
  std::puts("listening");
  std::fflush(stdout);
  const int connection = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) Fail("accept");
  return connection;
}

void GiveBack(int connection, const std::vector<devmem::uapi::DmabufToken>& tokens, Counts* counts) {
  for (size_t at = 0; at < tokens.size(); at += kTokensPerCall) {
    const size_t count = std::min(kTokensPerCall, tokens.size() - at);
    if (::setsockopt(connection, SOL_SOCKET, devmem::uapi::kSoDevmemDontneed, &tokens[at],
                     static_cast<socklen_t>(count * sizeof tokens[0])) < 0) {
      Fail("SO_DEVMEM_DONTNEED");
    }
    ++counts->return_calls;
  }
}

// As a receiver does that has nothing to do with the tokens but give them back: the kernel numbers them in a row.
void Merge(std::vector<devmem::uapi::DmabufToken>* tokens) {
  size_t runs = 0;
  for (const devmem::uapi::DmabufToken& token : *tokens) {
    if (runs > 0 && (*tokens)[runs - 1].token_start + (*tokens)[runs - 1].token_count == token.token_start) {
      ++(*tokens)[runs - 1].token_count;
    } else {
      (*tokens)[runs++] = token;
    }
  }
  tokens->resize(runs);
}

int Receive(const char* address, const char* port, bool least) {
  std::vector<char> data(least ? kLargeIov : kIov), control(kControl);
  std::vector<devmem::uapi::DmabufToken> tokens;
  tokens.reserve(kControl / CMSG_SPACE(sizeof(devmem::uapi::DmabufCmsg)));
  Counts counts;
  const int connection = Accept(address, port);
  if (least && ::setsockopt(connection, SOL_SOCKET, SO_RCVLOWAT, &kLowWater, sizeof kLowWater) != 0) Fail("SO_RCVLOWAT");
  while (true) {
    iovec iov{data.data(), data.size()};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(connection, &message, devmem::uapi::kMsgSockDevmem);
    if (got < 0) Fail("recvmsg");
    if (got == 0) break;
    ++counts.receive_calls;
    tokens.clear();
    bool announced = false;
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
      if (each->cmsg_level != SOL_SOCKET) continue;
      devmem::uapi::DmabufCmsg fragment{};
      std::memcpy(&fragment, CMSG_DATA(each), sizeof fragment);
      announced = true;
      if (each->cmsg_type == devmem::uapi::kSoDevmemLinear) {
        counts.linear += fragment.frag_size;
      } else if (each->cmsg_type == devmem::uapi::kSoDevmemDmabuf) {
        counts.device += fragment.frag_size;
        ++counts.fragments;
        tokens.push_back({fragment.frag_token, 1});
      }
    }
    if (!announced) counts.plain += static_cast<uint64_t>(got);
    if (least) Merge(&tokens);
    GiveBack(connection, tokens, &counts);
  }
  std::printf("{\"device\": %" PRIu64 ", \"linear\": %" PRIu64 ", \"plain\": %" PRIu64 ", \"fragments\": %" PRIu64
              ", \"receive_calls\": %" PRIu64 ", \"calls\": %" PRIu64 "}\n",
              counts.device, counts.linear, counts.plain, counts.fragments, counts.receive_calls,
              counts.receive_calls + counts.return_calls);
  return 0;
}

char* Slab(const char* name) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, kSlab) != 0) Fail("memfd");
  void* at = ::mmap(nullptr, kSlab, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (at == MAP_FAILED) Fail("mmap");
  return static_cast<char*>(at);
}

int Gather(uint64_t mib, uint64_t piece) {
  const char* from = Slab("pool");
  char* to = Slab("slab");
  for (uint64_t done = 0; done < mib << 20; done += piece) {
    const uint64_t at = done % kSlab;
    std::memcpy(to + at, from + (kSlab - piece - at), piece);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc == 4 ? argv[1] : "";
  if (verb == "receive" || verb == "least") return Receive(argv[2], argv[3], verb == "least");
  if (verb == "gather") return Gather(std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
  std::fprintf(stderr, "usage: guest_bench_floor receive|least ADDRESS PORT | gather MIB PIECE\n");
  return 2;
}
