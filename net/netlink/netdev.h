// SPDX-License-Identifier: Apache-2.0
// The kernel's `netdev` generic-netlink family (Documentation/netlink/specs/netdev.yaml): Rx queues, page pools,
// per-queue statistics, and binding a dma-buf to Rx queues.
//
// Errors carry the kernel's own words (extack), the interface and queue; kUnimplemented where this kernel lacks the
// family or the operation, kPermissionDenied without CAP_NET_ADMIN, kDeadlineExceeded when no answer came.
// Everything happens in the network namespace of the thread that called Open() or Bind(). An object belongs to one
// thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace devmem {

struct RxQueueState {
  uint32_t queue = 0;
  uint32_t napi_id = 0;   // 0: unknown
  uint32_t dmabuf = 0;    // id of the dma-buf bound to it; 0: host memory
  bool io_uring = false;  // io_uring zero-copy receive owns its memory
  bool xsk = false;       // AF_XDP owns it
};

struct PagePoolState {
  uint32_t id = 0;
  uint32_t ifindex = 0;
  uint32_t napi_id = 0;
  uint64_t inflight = 0;  // buffers out: posted to the NIC, or in skbs and tokens
  uint64_t inflight_bytes = 0;
  uint32_t dmabuf = 0;  // 0: host memory
  bool io_uring = false;
  bool detached = false;  // its queue is gone; it waits for what is out
};

struct RxQueueStats {
  uint32_t queue = 0;
  uint64_t packets = 0;
  uint64_t bytes = 0;
  uint64_t alloc_fail = 0;  // packets lost because no buffer could be had
};

class Netdev {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Netdev>> Open();
  virtual ~Netdev() = default;
  [[nodiscard]] virtual absl::StatusOr<std::vector<RxQueueState>> RxQueues(uint32_t ifindex) = 0;
  // The interrupt of a NAPI; 0: it has none, or the driver does not say.
  [[nodiscard]] virtual absl::StatusOr<uint32_t> NapiIrq(uint32_t napi_id) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::vector<PagePoolState>> PagePools(uint32_t ifindex) = 0;  // 0: of all
  [[nodiscard]] virtual absl::StatusOr<std::vector<RxQueueStats>> RxStats(uint32_t ifindex) = 0;     // queues that report any
};

// A dma-buf bound to Rx queues of one NIC (netdev-genl bind-rx). The kernel undoes it when this object's socket closes, also
// when the process dies.
class DmabufBinding {
 public:
  // `page_size`: rx-page-size in bytes, a power of two; 0 leaves it to the driver (the system's page).
  [[nodiscard]] static absl::StatusOr<DmabufBinding> Bind(const std::string& interface, uint32_t ifindex, int dmabuf_fd,
                                                          std::span<const uint32_t> queues, uint32_t page_size);
  DmabufBinding(DmabufBinding&&) = default;
  DmabufBinding& operator=(DmabufBinding&&) = default;
  // A socket that another process bound with, and gave: binding `id` lives until all have closed it.
  [[nodiscard]] static DmabufBinding Adopt(UniqueFd socket, uint32_t id) { return {std::move(socket), id}; }
  [[nodiscard]] uint32_t id() const { return id_; }  // as in cmsgs, queues and page pools
  [[nodiscard]] int socket() const { return socket_.get(); }

 private:
  DmabufBinding(UniqueFd socket, uint32_t id) : socket_(std::move(socket)), id_(id) {}
  UniqueFd socket_;
  uint32_t id_ = 0;
};

}  // namespace devmem
