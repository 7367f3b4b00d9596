// SPDX-License-Identifier: Apache-2.0
// The error currency: absl::Status, with an ErrorInfo that says on what it happened and what to do next.
// errno, CURLcode and the rest become a Status in exactly one adapter each; this is errno's.
//
//   return MakeError(absl::StatusCode::kDataLoss, "body ended 12 bytes early",
//                    {.object = "train/0001.npy", .offset = 4096, .length = 1024,
//                     .cause = "truncated body", .action = "check the store; the range was retried 5 times"});
//
// The detail travels inside the Status as a payload, and the gRPC server turns it into the typed
// devmem_loader.v1.ErrorDetail that trainers see. Thread-safe: these are values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace devmem {

struct ErrorInfo {
  std::string object;   // object name or URI, socket path, queue: what it happened on
  uint64_t offset = 0;  // byte range within the object, where that means something
  uint64_t length = 0;
  std::string cause;   // the fault in a few words, stable enough to group by
  std::string action;  // what a person should do next

  bool operator==(const ErrorInfo&) const = default;
};

// A Status whose message holds `message` and every part of `info`, so that it reads whole in a log; the
// parts can be had again with GetErrorInfo.
[[nodiscard]] absl::Status MakeError(absl::StatusCode code, std::string_view message, const ErrorInfo& info);

// The same for a text that holds every part already, because it comes from another process of ours.
[[nodiscard]] absl::Status MakeErrorVerbatim(absl::StatusCode code, std::string_view text, const ErrorInfo& info);

// The detail of `status`; empty fields where none was attached.
[[nodiscard]] ErrorInfo GetErrorInfo(const absl::Status& status);

// `status` with its object filled in (where it has none) — for a layer that knows the name when the one
// below did not.
[[nodiscard]] absl::Status WithObject(const absl::Status& status, std::string_view object);

// errno as a Status: code from absl::ErrnoToStatusCode, text "<what>: <strerror>".
[[nodiscard]] absl::Status ErrnoError(int error_number, std::string_view what, ErrorInfo info = {});

// absl 20220623 prints its own string_view; ours is std's everywhere.
[[nodiscard]] inline std::string Text(const absl::Status& status) { return std::string(status.message()); }

}  // namespace devmem

// Returns from the enclosing function if `expr` is a Status that is not OK.
#define DEVMEM_RETURN_IF_ERROR(expr)                                                       \
  do {                                                                                     \
    if (absl::Status devmem_status_ = (expr); !devmem_status_.ok()) return devmem_status_; \
  } while (false)

// DEVMEM_ASSIGN_OR_RETURN(auto x, MakeX());
#define DEVMEM_ASSIGN_OR_RETURN(lhs, expr) DEVMEM_ASSIGN_OR_RETURN_IMPL_(DEVMEM_CONCAT_(devmem_or_, __LINE__), lhs, expr)
#define DEVMEM_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return std::move(tmp).status();      \
  lhs = std::move(*tmp)
#define DEVMEM_CONCAT_(a, b) DEVMEM_CONCAT_IMPL_(a, b)
#define DEVMEM_CONCAT_IMPL_(a, b) a##b
