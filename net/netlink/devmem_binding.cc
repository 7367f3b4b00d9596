// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/devmem_binding.h"

#include <linux/netlink.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "linux/devmem_binding.h"
#include "net/netlink/genl.h"

namespace devmem {

std::optional<HeldHandle> ParseHeldHandle(const NetlinkAttributes& told) {
  const uint32_t id = told.U32(DEVMEM_BINDING_A_ID).value_or(0);
  if (id == 0) return std::nullopt;
  const uint32_t reset = told.U32(DEVMEM_BINDING_A_RESET).value_or(0);
  HeldHandle handle{.id = id,
                    .ifindex = told.U32(DEVMEM_BINDING_A_IFINDEX).value_or(0),
                    .dmabuf = told.U32(DEVMEM_BINDING_A_DMABUF_ID).value_or(0),
                    .page_size = told.U32(DEVMEM_BINDING_A_RX_PAGE_SIZE).value_or(0),
                    .queues = {},
                    .gone = told.U32(DEVMEM_BINDING_A_STATE) == DEVMEM_BINDING_STATE_GONE,
                    .resets_rss = (reset & DEVMEM_BINDING_RESET_RSS) != 0,
                    .resets_split = (reset & DEVMEM_BINDING_RESET_SPLIT) != 0,
                    .rules = told.U32(DEVMEM_BINDING_A_RULES).value_or(0),
                    .creator_pid = told.U32(DEVMEM_BINDING_A_CREATOR_PID).value_or(0)};
  told.ForEach([&](uint16_t type, std::span<const std::byte> value) {  // one attribute a queue
    uint32_t queue = 0;
    if (type != DEVMEM_BINDING_A_QUEUE || value.size() != sizeof queue) return;
    std::memcpy(&queue, value.data(), sizeof queue);
    handle.queues.push_back(queue);
  });
  std::sort(handle.queues.begin(), handle.queues.end());
  return handle;
}

absl::StatusOr<std::vector<HeldHandle>> ListHeldHandles() {
  DEVMEM_ASSIGN_OR_RETURN(GenlFamily family,
                          GenlFamily::Open(DEVMEM_BINDING_FAMILY_NAME, "the kernel module devmem_binding (kernel/README.md)"));
  NetlinkRequest request = family.Request(DEVMEM_BINDING_CMD_GET, NLM_F_DUMP);
  DEVMEM_ASSIGN_OR_RETURN(const auto answers,
                          family.Exchange(request, {DEVMEM_BINDING_FAMILY_NAME, "cannot list what is held by handle"}));
  std::vector<HeldHandle> handles;
  for (const NetlinkAnswer& answer : answers) {
    if (std::optional<HeldHandle> handle = ParseHeldHandle(GenlAttributes(answer))) handles.push_back(*std::move(handle));
  }
  return handles;
}

}  // namespace devmem
