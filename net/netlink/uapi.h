// SPDX-License-Identifier: Apache-2.0
// Kernel interfaces newer than Debian 12's headers: numbers of the ABI, from include/uapi of Linux 7.3.
#pragma once

#include <cstdint>

namespace devmem::uapi {

// linux/socket.h, asm-generic/socket.h: device-memory TCP (6.12)
inline constexpr int kMsgSockDevmem = 0x2000000;
inline constexpr int kSoDevmemLinear = 78;    // cmsg type SCM_DEVMEM_LINEAR
inline constexpr int kSoDevmemDmabuf = 79;    // cmsg type SCM_DEVMEM_DMABUF
inline constexpr int kSoDevmemDontneed = 80;  // setsockopt: struct dmabuf_token[]
inline constexpr int kMaxDontneedEntries = 128;
inline constexpr int kMaxDontneedFragments = 1024;

// linux/uio.h
struct DmabufCmsg {      // struct dmabuf_cmsg
  uint64_t frag_offset;  // into the dma-buf
  uint32_t frag_size;
  uint32_t frag_token;
  uint32_t dmabuf_id;
  uint32_t flags;
};
static_assert(sizeof(DmabufCmsg) == 24);
struct DmabufToken {  // struct dmabuf_token
  uint32_t token_start;
  uint32_t token_count;
};
static_assert(sizeof(DmabufToken) == 8);

}  // namespace devmem::uapi
