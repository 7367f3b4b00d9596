// SPDX-License-Identifier: Apache-2.0
// absl::Status across gRPC, with its ErrorInfo: the daemon sends ToGrpcStatus(status), the client gets FromGrpcStatus.
// Values only; thread-safe.
//
// A message that is not UTF-8 (an object's name may hold anything) is sent with '?' for what is not.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/error.h"
#include "devmem_loader/v1/loader.pb.h"

namespace grpc {
class Status;
}

namespace devmem {

// The typed detail on its own, for errors that travel inside messages.
[[nodiscard]] devmem_loader::v1::ErrorDetail DetailOf(const absl::Status& status);

// `text` with '?' for what is not UTF-8, as string fields need it.
[[nodiscard]] std::string ToUtf8(std::string_view text);

// What a detail says. A daemon older than the field `fault` sends none: it is told from the words such daemons use.
[[nodiscard]] ErrorInfo InfoOf(const devmem_loader::v1::ErrorDetail& detail);

// A stream that fails tells what it came to all the same: `status` with its statistics, which go over gRPC beside the detail.
[[nodiscard]] absl::Status WithStatistics(absl::Status status, const devmem_loader::v1::StreamStatistics& statistics);
// Of such a status; nullopt where there are none, as from a daemon that does not send them.
[[nodiscard]] std::optional<devmem_loader::v1::StreamStatistics> StatisticsOf(const absl::Status& status);

[[nodiscard]] grpc::Status ToGrpcStatus(const absl::Status& status);
[[nodiscard]] absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace devmem
