// SPDX-License-Identifier: Apache-2.0
// A read-only view of netlink attributes in a message that came from elsewhere: every length is checked against what is
// there, and a value of the wrong size counts as absent.
//
//   NetlinkAttributes queue(answer.Payload(sizeof(genlmsghdr)));
//   uint32_t id = queue.U32(NETDEV_A_QUEUE_ID).value_or(0);
//
// Views bytes that somebody else keeps. Thread-compatible.
#pragma once

#include <libmnl/libmnl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace devmem {

class NetlinkAttributes {
 public:
  NetlinkAttributes() = default;
  explicit NetlinkAttributes(std::span<const std::byte> payload) : payload_(payload) {}

  [[nodiscard]] bool Has(uint16_t type) const { return Find(type) != nullptr; }
  [[nodiscard]] std::optional<uint8_t> U8(uint16_t type) const;
  [[nodiscard]] std::optional<uint32_t> U32(uint16_t type) const;
  // The kernel's `uint`: 4 or 8 bytes, as the value needs.
  [[nodiscard]] std::optional<uint64_t> Uint(uint16_t type) const;
  // Up to its NUL, if there is one.
  [[nodiscard]] std::optional<std::string_view> String(uint16_t type) const;
  [[nodiscard]] std::span<const std::byte> Bytes(uint16_t type) const;  // empty if absent
  [[nodiscard]] NetlinkAttributes Nest(uint16_t type) const { return NetlinkAttributes(Bytes(type)); }

  // f(type, value) for each, in order; stops at the first that does not fit into what is there.
  template <typename F>
  void ForEach(F f) const {
    size_t at = 0;
    while (const nlattr* attribute = At(at)) {
      f(mnl_attr_get_type(attribute), Value(attribute));
      at += MNL_ALIGN(attribute->nla_len);
    }
  }

 private:
  [[nodiscard]] const nlattr* At(size_t offset) const;
  [[nodiscard]] const nlattr* Find(uint16_t type) const;
  [[nodiscard]] static std::span<const std::byte> Value(const nlattr* attribute);

  std::span<const std::byte> payload_;
};

}  // namespace devmem
