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
//   501, 505 kFailedPrecondition: what the server cannot do it will not do later
[[nodiscard]] absl::Status HttpStatusError(int http_status, ErrorInfo where);

// The fault of that error, whether asking again may help among it: MayPass(FaultOfHttpStatus(503)).
[[nodiscard]] Fault FaultOfHttpStatus(int http_status);

}  // namespace devmem
