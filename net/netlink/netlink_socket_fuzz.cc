// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <span>

#include "net/netlink/genl.h"
#include "net/netlink/netlink_socket.h"

namespace {

void Read(devmem::NetlinkAttributes attributes, int depth) {
  attributes.ForEach([&](uint16_t type, std::span<const std::byte> value) {
    (void)attributes.Uint(type);
    (void)attributes.String(type);
    if (depth > 0) Read(devmem::NetlinkAttributes(value), depth - 1);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint32_t kSequence = 7;
  constexpr int kDepth = 3;
  devmem::NetlinkProgress progress;
  if (!devmem::ConsumeDatagram(std::as_bytes(std::span(data, size)), kSequence, progress)) return 0;
  for (const devmem::NetlinkAnswer& answer : progress.answers) Read(devmem::GenlAttributes(answer), kDepth);
  return 0;
}
