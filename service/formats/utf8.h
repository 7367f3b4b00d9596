// SPDX-License-Identifier: Apache-2.0
// Whether bytes are well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF).
// No library in Debian that we already link offers this apart from a JSON parser's inside.
#pragma once

#include <string_view>

namespace devmem {

[[nodiscard]] bool IsUtf8(std::string_view bytes);

}  // namespace devmem
