// SPDX-License-Identifier: Apache-2.0
// The head of an HTTP/1.x response: status line and the header fields the payload client acts on. Parsed by
// http_parser from the bytes a ByteStream holds. Pure functions; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "net/http_fields.h"

namespace devmem {

struct ResponseHead {
  int status = 0;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool keep_alive = false;
  std::optional<ContentRange> content_range;  // unset also where it is malformed
  std::string content_encoding;               // empty or "identity": as stored
  std::string etag;
  std::string last_modified;
  std::string location;
  std::string retry_after;
  size_t bytes = 0;  // of the head: where the body begins
};

inline constexpr size_t kMaxHeadBytes = 16 << 10;

// nullopt: the head is not complete yet. kInvalidArgument: this is no HTTP response head, or one with repeated or
// contradicting lengths, or longer than kMaxHeadBytes.
[[nodiscard]] absl::StatusOr<std::optional<ResponseHead>> ParseResponseHead(std::string_view bytes);

}  // namespace devmem
