// SPDX-License-Identifier: Apache-2.0
// absl::Status across gRPC, with its ErrorInfo: the daemon sends ToGrpcStatus(status), the client gets FromGrpcStatus.
// Values only; thread-safe.
//
// A message that is not UTF-8 (an object's name may hold anything) is sent with '?' for what is not.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "devmem_loader/v1/loader.pb.h"

namespace grpc {
class Status;
}

namespace devmem {

// The typed detail on its own, for errors that travel inside messages.
[[nodiscard]] devmem_loader::v1::ErrorDetail DetailOf(const absl::Status& status);

// `text` with '?' for what is not UTF-8, as string fields need it.
[[nodiscard]] std::string ToUtf8(std::string_view text);

[[nodiscard]] grpc::Status ToGrpcStatus(const absl::Status& status);
[[nodiscard]] absl::Status FromGrpcStatus(const grpc::Status& status);

// The cause in the ErrorInfo of an UNAVAILABLE that a daemon sends because it is about to end: a client with
// `reconnect` resumes as soon as there is a daemon again. UNAVAILABLE with another cause speaks of something else (the
// store, say) and is final.
inline constexpr char kDrainingCause[] = "draining";

// The cause in the ErrorInfo of an UNAUTHENTICATED that is about the token: between a daemon and its successor, the token may
// be of the one and the call go to the other.
inline constexpr char kTokenCause[] = "not authenticated";

}  // namespace devmem
