// SPDX-License-Identifier: Apache-2.0
// The head of an HTTP/1.x request, as far as a server of a few fixed pages needs it. Parsed by http_parser. Pure function;
// thread-safe.
//
//   const auto head = ParseRequestHead("GET /metrics?x=1 HTTP/1.1\r\nHost: node\r\n\r\n");
//   (*head)->method == "GET" && (*head)->path == "/metrics"
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace devmem {

struct RequestHead {
  std::string method;  // "GET"
  std::string path;    // as sent, without query; empty where the target has none
};

inline constexpr size_t kMaxRequestHead = 8 << 10;  // bytes

// nullopt: the head is not complete yet. kInvalidArgument: this is no HTTP/1.x request, or one whose head is longer than
// kMaxRequestHead.
[[nodiscard]] absl::StatusOr<std::optional<RequestHead>> ParseRequestHead(std::string_view bytes);

}  // namespace devmem
