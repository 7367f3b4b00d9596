// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/attributes.h"

#include <cstring>

namespace devmem {
namespace {

template <typename T>
std::optional<T> Number(std::span<const std::byte> value) {
  if (value.size() != sizeof(T)) return std::nullopt;
  T number;
  std::memcpy(&number, value.data(), sizeof(number));  // attributes are aligned to 4, numbers may want 8
  return number;
}

}  // namespace

const nlattr* NetlinkAttributes::At(size_t offset) const {
  if (offset >= payload_.size() || payload_.size() - offset > INT32_MAX) return nullptr;
  const auto* attribute = reinterpret_cast<const nlattr*>(payload_.data() + offset);
  return mnl_attr_ok(attribute, static_cast<int>(payload_.size() - offset)) ? attribute : nullptr;
}

const nlattr* NetlinkAttributes::Find(uint16_t type) const {
  size_t at = 0;
  while (const nlattr* attribute = At(at)) {
    if (mnl_attr_get_type(attribute) == type) return attribute;
    at += MNL_ALIGN(attribute->nla_len);
  }
  return nullptr;
}

std::span<const std::byte> NetlinkAttributes::Value(const nlattr* attribute) {
  return {static_cast<const std::byte*>(mnl_attr_get_payload(attribute)), mnl_attr_get_payload_len(attribute)};
}

std::span<const std::byte> NetlinkAttributes::Bytes(uint16_t type) const {
  const nlattr* attribute = Find(type);
  return attribute == nullptr ? std::span<const std::byte>() : Value(attribute);
}

std::optional<uint8_t> NetlinkAttributes::U8(uint16_t type) const { return Number<uint8_t>(Bytes(type)); }

std::optional<uint32_t> NetlinkAttributes::U32(uint16_t type) const { return Number<uint32_t>(Bytes(type)); }

std::optional<uint64_t> NetlinkAttributes::Uint(uint16_t type) const {
  const std::span<const std::byte> value = Bytes(type);
  if (value.size() == sizeof(uint32_t)) return Number<uint32_t>(value);
  return Number<uint64_t>(value);
}

std::optional<std::string_view> NetlinkAttributes::String(uint16_t type) const {
  const nlattr* attribute = Find(type);
  if (attribute == nullptr) return std::nullopt;
  const std::span<const std::byte> value = Value(attribute);
  std::string_view text(reinterpret_cast<const char*>(value.data()), value.size());
  return text.substr(0, text.find('\0'));
}

}  // namespace devmem
