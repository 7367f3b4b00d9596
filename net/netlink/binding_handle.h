// SPDX-License-Identifier: Apache-2.0
// BindingHandle: a dma-buf bound to Rx queues through our kernel module, with the rules that lead there, as one file descriptor
// (kernel/devmem_binding, devmem_binding(4)). When its last holder is gone, whichever way, the kernel takes the rules out,
// unbinds, and resets what it was asked to.
// Thread-safe, but for moving.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "net/netlink/ethtool.h"
#include "net/netlink/flow_rules.h"

namespace devmem {

// What the kernel resets at a binding's end: for a creator to ask for what he changed himself.
struct ResetAtEnd {
  bool rss = false;
  bool header_split = false;
  HeaderSplit split_before =
      HeaderSplit::kUnknown;  // as read before it was turned on; written where a reset does not lead there
  uint32_t threshold_before = 0;
};

class BindingHandle {
 public:
  // The cause of Create()'s error where the module is not loaded, or is not the one we know; nothing was done then.
  static constexpr char kNoModule[] = "no devmem_binding";

  // In the caller's network namespace. Errors as DmabufBinding::Bind, and kFailedPrecondition or the kernel's own code, in its
  // words, for queues that others' traffic is led to.
  [[nodiscard]] static absl::StatusOr<BindingHandle> Create(const std::string& interface, uint32_t ifindex, int dmabuf_fd,
                                                            std::span<const uint32_t> queues, uint32_t page_size,
                                                            const ResetAtEnd& reset);
  // One that another process gave. kInvalidArgument if it is none, kFailedPrecondition if its NIC is gone.
  [[nodiscard]] static absl::StatusOr<BindingHandle> Adopt(UniqueFd fd);
  BindingHandle(BindingHandle&&) = default;
  BindingHandle& operator=(BindingHandle&&) = default;

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] uint32_t id() const { return id_; }
  [[nodiscard]] uint32_t dmabuf_id() const { return dmabuf_id_; }  // as in cmsgs, queues and page pools

  // As FlowRules::Insert and ::Delete; `interface` is only told in errors.
  [[nodiscard]] absl::StatusOr<uint32_t> AddRule(const std::string& interface, const FlowMatch& match, uint32_t queue) const;
  // kNotFound also for a rule that is not of this handle.
  [[nodiscard]] absl::Status DeleteRule(const std::string& interface, uint32_t location) const;

 private:
  BindingHandle(UniqueFd fd, uint32_t id, uint32_t dmabuf_id) : fd_(std::move(fd)), id_(id), dmabuf_id_(dmabuf_id) {}
  UniqueFd fd_;
  uint32_t id_ = 0;
  uint32_t dmabuf_id_ = 0;
};

}  // namespace devmem
