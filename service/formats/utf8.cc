// SPDX-License-Identifier: Apache-2.0
#include "service/formats/utf8.h"

#include <cstddef>
#include <cstdint>

namespace devmem {

bool IsUtf8(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<unsigned char>(bytes[i++]);
    if (lead < 0x80) continue;
    const int tail = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || bytes.size() - i < static_cast<size_t>(tail)) return false;
    uint32_t point = lead & (0x3F >> tail);
    for (int k = 0; k < tail; ++k) {
      const auto next = static_cast<unsigned char>(bytes[i++]);
      if ((next & 0xC0) != 0x80) return false;
      point = point << 6 | (next & 0x3F);
    }
    if (tail == 2 && (point < 0x800 || (point >= 0xD800 && point <= 0xDFFF))) return false;
    if (tail == 3 && (point < 0x10000 || point > 0x10FFFF)) return false;
  }
  return true;
}

}  // namespace devmem
