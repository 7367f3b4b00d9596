// SPDX-License-Identifier: Apache-2.0
// RxKernel: all that RxBinding, Recover and ChoosePlacement ask of the kernel, behind one interface, so that tests script it
// (testing/fake_nic.h).
//
// Threads: one at a time, but for rules(). Everything happens in the network namespace of the thread that called Open();
// Bind() in that of its caller, which must be the same.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "net/netlink/binding_handle.h"
#include "net/netlink/ethtool.h"
#include "net/netlink/flow_rules.h"
#include "net/netlink/netdev.h"

namespace devmem {

struct Link {
  std::string interface;
  uint32_t ifindex = 0;
  bool up = false;       // by the administrator's word
  bool carrier = false;  // and it works
};

class RxKernel {
 public:
  // A dma-buf bound to queues; destroying it unbinds, unless another process holds the binding too.
  class Bound {
   public:
    virtual ~Bound() = default;
    [[nodiscard]] virtual uint32_t id() const = 0;
    // Whether it is a handle of devmem_binding: the kernel takes its rules out at its end, and resets what it was asked to.
    [[nodiscard]] virtual bool by_handle() const = 0;
    // Rules to its queues: where it is a handle, of that handle. Borrowed. Thread-safe.
    [[nodiscard]] virtual FlowRules& rules() = 0;
    // A descriptor that holds it as well.
    [[nodiscard]] virtual absl::StatusOr<UniqueFd> Share() = 0;
  };

  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxKernel>> Open();
  virtual ~RxKernel() = default;

  [[nodiscard]] virtual Netdev& netdev() = 0;
  [[nodiscard]] virtual Ethtool& ethtool() = 0;
  [[nodiscard]] virtual FlowRules& rules() = 0;  // of anybody

  // kNotFound if there is none.
  [[nodiscard]] virtual absl::StatusOr<Link> FindLink(const std::string& interface) = 0;
  [[nodiscard]] virtual absl::StatusOr<Link> FindLink(uint32_t ifindex) = 0;
  [[nodiscard]] virtual std::vector<std::string> Interfaces() = 0;  // all there are
  // By a handle where the module is loaded, which is then asked for `reset`; else by netdev-genl alone.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Bound>> Bind(const Link& link, int dmabuf_fd,
                                                                    std::span<const uint32_t> queues, uint32_t page_size,
                                                                    const ResetAtEnd& reset) = 0;
  // What Share() gave in another process.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Bound>> Adopt(UniqueFd fd, bool by_handle, uint32_t id) = 0;
  // Has the kernel free what it put aside for later, and with it buffers of page pools (deferred_skbs.h).
  virtual void FreeDeferred() = 0;
  // Between two looks at something that is awaited under a deadline and that nothing announces.
  virtual void Pause(Duration duration) = 0;
};

}  // namespace devmem
