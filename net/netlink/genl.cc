// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/genl.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

NetlinkRequest Make(uint16_t family, uint8_t command, uint16_t flags) {
  NetlinkRequest request(family, flags, sizeof(genlmsghdr));
  auto* header = request.Header<genlmsghdr>();
  header->cmd = command;
  header->version = 1;
  return request;
}

// CTRL_ATTR_FAMILY_ID is 16 bits.
uint16_t FamilyId(const NetlinkAnswer& answer) {
  const std::span<const std::byte> value = GenlAttributes(answer).Bytes(CTRL_ATTR_FAMILY_ID);
  uint16_t id = 0;
  if (value.size() == sizeof(id)) std::memcpy(&id, value.data(), sizeof(id));
  return id;
}

}  // namespace

absl::StatusOr<GenlFamily> GenlFamily::Open(const std::string& name, const std::string& needs) {
  DEVMEM_ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_GENERIC));
  NetlinkRequest request = Make(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0);
  request.PutString(CTRL_ATTR_FAMILY_NAME, name);
  const std::string object = absl::StrCat("netlink family '", name, "'");
  auto answers = socket.Exchange(request, {.object = object, .what = "cannot look it up"});
  if (absl::IsNotFound(answers.status())) {
    return MakeError(absl::StatusCode::kUnimplemented, "this kernel has none",
                     {.object = object, .cause = "no such netlink family", .action = absl::StrCat("it takes ", needs)});
  }
  if (!answers.ok()) return answers.status();
  const uint16_t id = answers->empty() ? 0 : FamilyId(answers->front());
  if (id == 0) {
    return MakeError(absl::StatusCode::kInternal, "the kernel told no number for it",
                     {.object = object, .action = "report this"});
  }
  return GenlFamily(std::move(socket), id);
}

NetlinkRequest GenlFamily::Request(uint8_t command, uint16_t flags) const { return Make(id_, command, flags); }

NetlinkAttributes GenlAttributes(const NetlinkAnswer& answer) { return answer.Attributes(sizeof(genlmsghdr)); }

}  // namespace devmem
