// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/rpc_error.h"

#include <grpcpp/support/status.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/cord.h"
#include "base/error.h"
#include "base/text.h"
#include "devmem_loader/v1/loader.pb.h"
#include "devmem_loader/v1/rpc_status.pb.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;
using devmem_loader::v1::ErrorDetail;
using devmem_loader::v1::RpcStatus;
using devmem_loader::v1::StreamStatistics;

constexpr char kStatistics[] = "devmem-loader/statistics";  // the payload of a Status

// gRPC's limit on all metadata of a call is 8 KiB, and the details travel as base64.
constexpr size_t kMaxMessage = 3072;
constexpr size_t kMaxObject = 1536;
constexpr size_t kMaxPhrase = 512;

// The causes that clients act on, as daemons up to 0.1.0 word them on the wire.
Fault FaultOfOldDaemon(std::string_view cause) {
  if (cause == "draining") return Fault::kDraining;
  if (cause == "not authenticated") return Fault::kToken;
  if (cause == "no zero copy") return Fault::kNoZeroCopy;
  return Fault::kUnspecified;
}

// One list of numbers, in two places: what a client branches on must be what the daemon said.
static_assert(v1::Fault_ARRAYSIZE == kFaults);
static_assert(static_cast<int>(v1::FAULT_FORBIDDEN) == static_cast<int>(Fault::kForbidden));
static_assert(static_cast<int>(v1::FAULT_NO_ZERO_COPY) == static_cast<int>(Fault::kNoZeroCopy));
static_assert(static_cast<int>(v1::FAULT_DRAINING) == static_cast<int>(Fault::kDraining));
static_assert(static_cast<int>(v1::FAULT_NO_NAME_SERVER) == static_cast<int>(Fault::kNoNameServer));
static_assert(static_cast<int>(v1::FAULT_TOKEN) == static_cast<int>(Fault::kToken));
static_assert(static_cast<int>(v1::SCOPE_POLICY) == static_cast<int>(Scope::kPolicy));

}  // namespace

std::string ToUtf8(std::string_view text) { return AsUtf8(text, kMaxObject); }

ErrorDetail DetailOf(const absl::Status& status) {
  const ErrorInfo info = GetErrorInfo(status);
  ErrorDetail detail;
  detail.set_code(absl::StatusCodeToString(status.code()));
  detail.set_object(AsUtf8(info.object, kMaxObject));
  detail.set_offset(info.offset);
  detail.set_length(info.length);
  std::string cause;
  info.cause.AppendTo(cause);
  detail.set_cause(AsUtf8(cause, kMaxPhrase));
  detail.set_action(AsUtf8(info.action, kMaxPhrase));
  detail.set_fault(static_cast<v1::Fault>(info.fault));
  detail.set_scope(static_cast<v1::Scope>(info.scope));
  detail.set_http_status(static_cast<uint32_t>(info.http_status));
  return detail;
}

ErrorInfo InfoOf(const ErrorDetail& detail) {
  ErrorInfo info{.object = detail.object(),
                 .offset = detail.offset(),
                 .length = detail.length(),
                 .scope = v1::Scope_IsValid(detail.scope()) ? static_cast<Scope>(detail.scope()) : Scope::kUnspecified,
                 .http_status = static_cast<int>(detail.http_status()),
                 .cause = detail.cause(),
                 .action = detail.action()};
  // A newer daemon's fault that this client does not know is acted on as if there were none.
  if (v1::Fault_IsValid(detail.fault())) info.fault = static_cast<Fault>(detail.fault());
  if (detail.fault() == v1::FAULT_UNSPECIFIED) info.fault = FaultOfOldDaemon(detail.cause());
  return info;
}

absl::Status WithStatistics(absl::Status status, const StreamStatistics& statistics) {
  status.SetPayload(kStatistics, absl::Cord(statistics.SerializeAsString()));
  return status;
}

std::optional<StreamStatistics> StatisticsOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kStatistics);
  StreamStatistics statistics;
  if (!payload.has_value() || !statistics.ParseFromString(std::string(*payload))) return std::nullopt;
  return statistics;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  RpcStatus rpc;
  rpc.set_code(static_cast<int32_t>(status.code()));
  rpc.add_details()->PackFrom(DetailOf(status));
  if (const auto statistics = StatisticsOf(status)) rpc.add_details()->PackFrom(*statistics);
  return {static_cast<grpc::StatusCode>(status.code()), AsUtf8(Text(status), kMaxMessage), rpc.SerializeAsString()};
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  ErrorInfo info;
  std::optional<StreamStatistics> statistics;
  RpcStatus rpc;
  if (!status.error_details().empty() && rpc.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : rpc.details()) {
      if (any.Is<StreamStatistics>() && !any.UnpackTo(&statistics.emplace())) statistics.reset();
      ErrorDetail detail;
      if (!any.Is<ErrorDetail>() || !any.UnpackTo(&detail)) continue;
      info = InfoOf(detail);
    }
  }
  absl::Status made = MakeErrorVerbatim(static_cast<absl::StatusCode>(status.error_code()), status.error_message(), info);
  return statistics.has_value() ? WithStatistics(std::move(made), *statistics) : made;
}

}  // namespace devmem
