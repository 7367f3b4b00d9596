// SPDX-License-Identifier: Apache-2.0
// absl::Status across gRPC, with its ErrorInfo: the daemon sends ToGrpcStatus(status), the client gets FromGrpcStatus.
// Values only; thread-safe.
//
// A message that is not UTF-8 (an object's name may hold anything) is sent with '?' for what is not.
#pragma once

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace devmem {

[[nodiscard]] grpc::Status ToGrpcStatus(const absl::Status& status);
[[nodiscard]] absl::Status FromGrpcStatus(const grpc::Status& status);

// The cause in the ErrorInfo of an UNAVAILABLE that a daemon sends because it is about to end: a client with
// `reconnect` resumes as soon as there is a daemon again. UNAVAILABLE with another cause speaks of something else (the
// store, say) and is final.
inline constexpr char kDrainingCause[] = "draining";

}  // namespace devmem
