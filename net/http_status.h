// SPDX-License-Identifier: Apache-2.0
// The one adapter from HTTP status codes to absl::Status, for small requests and payload alike. Thread-safe: functions.
//
//   if (status != 206) return HttpStatusError(status, {.object = name, .offset = first, .length = n});
#pragma once

#include "absl/status/status.h"
#include "base/error.h"

namespace devmem {

// What a status other than the one hoped for means. `where` says on what; its cause and action are filled in where
// they are empty. Never OK: a 2xx that arrives here was not expected either.
//   401, 403 kPermissionDenied   404, 410 kNotFound   412 kAborted   416 kOutOfRange   408, 429, 5xx kUnavailable
[[nodiscard]] absl::Status HttpStatusError(int http_status, ErrorInfo where);

// Whether asking again may help: 408, 429, 500, 502, 503, 504.
[[nodiscard]] bool RetryableHttpStatus(int http_status);

}  // namespace devmem
