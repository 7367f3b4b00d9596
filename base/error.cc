// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace devmem {
namespace {

// One payload per field: a Status survives being copied, wrapped and compared with these in it.
constexpr char kObject[] = "devmem-loader/object";
constexpr char kOffset[] = "devmem-loader/offset";
constexpr char kLength[] = "devmem-loader/length";
constexpr char kCause[] = "devmem-loader/cause";
constexpr char kAction[] = "devmem-loader/action";
constexpr char kFault[] = "devmem-loader/fault";
constexpr char kScope[] = "devmem-loader/scope";
constexpr char kHttpStatus[] = "devmem-loader/http-status";
constexpr char kErrorNumber[] = "devmem-loader/errno";

struct FaultRow {
  std::string_view name;
  Scope scope;
  bool may_pass = false;
};
constexpr std::array<FaultRow, kFaults> kFaultTable = {{
    {"", Scope::kUnspecified},
    {"object_gone", Scope::kObject},
    {"object_changed", Scope::kObject},
    {"object_malformed", Scope::kObject},
    {"forbidden", Scope::kStore},
    {"truncated", Scope::kStore, true},
    {"encoded", Scope::kStore},
    {"credentials", Scope::kStore},
    {"throttled", Scope::kStore, true},
    {"server_error", Scope::kStore, true},
    {"bad_answer", Scope::kStore},
    {"malformed_answer", Scope::kStore, true},
    {"redirect", Scope::kStore},
    {"connection", Scope::kStore, true},
    {"connection_refused", Scope::kStore, true},
    {"connection_ended", Scope::kStore, true},
    {"no_such_host", Scope::kStore},
    {"timeout", Scope::kStore, true},
    {"bad_request", Scope::kPolicy},
    {"access", Scope::kPolicy},
    {"quota", Scope::kPolicy},
    {"memory_limit", Scope::kPolicy},
    {"no_zero_copy", Scope::kPolicy},
    {"too_many_skipped", Scope::kPolicy},
    {"listing_changed", Scope::kPolicy},
    {"draining", Scope::kPolicy},
    {"token", Scope::kPolicy},
    {"out_of_descriptors", Scope::kUnspecified, true},
    {"landing_pool_full", Scope::kUnspecified},
    {"steering", Scope::kUnspecified},
    {"no_module", Scope::kUnspecified},
    {"device", Scope::kUnspecified},
    {"rule_table_full", Scope::kUnspecified},
    {"no_route", Scope::kUnspecified},
    {"other_nic", Scope::kUnspecified},
    {"host_bytes", Scope::kUnspecified},
    {"foreign_memory", Scope::kUnspecified, true},
    {"no_name_server", Scope::kStore, true},
}};
static_assert(kFaultTable.back().name == "no_name_server", "a row for each fault, in its order");
constexpr std::array<std::string_view, 4> kScopes = {"", "object", "store", "policy"};

void Set(absl::Status& status, const char* key, std::string_view value) {
  if (!value.empty()) status.SetPayload(key, absl::Cord(absl::string_view(value.data(), value.size())));
}

std::string Get(const absl::Status& status, const char* key) {
  auto payload = status.GetPayload(key);
  return payload.has_value() ? std::string(*payload) : std::string();
}

void SetNumber(absl::Status& status, const char* key, uint64_t value) {
  if (value != 0) Set(status, key, std::to_string(value));
}

uint64_t GetNumber(const absl::Status& status, const char* key) {
  const std::string text = Get(status, key);
  return text.empty() ? 0 : std::stoull(text);
}

// For this file alone: a cause is stored as text, and told once.
std::string TextOf(const Cause& cause) {
  std::string text;
  cause.AppendTo(text);
  return text;
}

void SetAll(absl::Status& status, const ErrorInfo& info) {
  Set(status, kObject, info.object);
  SetNumber(status, kOffset, info.offset);
  SetNumber(status, kLength, info.length);
  SetNumber(status, kFault, static_cast<uint64_t>(info.fault));
  SetNumber(status, kScope, static_cast<uint64_t>(info.scope == Scope::kUnspecified ? ScopeOf(info.fault) : info.scope));
  SetNumber(status, kHttpStatus, static_cast<uint64_t>(info.http_status));
  SetNumber(status, kErrorNumber, static_cast<uint64_t>(info.error_number));
  Set(status, kCause, TextOf(info.cause));
  Set(status, kAction, info.action);
}

Fault FaultOfErrno(int error_number) {
  switch (error_number) {
    case EMFILE:
    case ENFILE:
      return Fault::kOutOfDescriptors;
    case ECONNREFUSED:
      return Fault::kConnectionRefused;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case ENETUNREACH:
    case EHOSTUNREACH:
      return Fault::kConnection;
    case ETIMEDOUT:
      return Fault::kTimeout;
    default:
      return Fault::kUnspecified;
  }
}

}  // namespace

std::string_view Name(Fault fault) {
  const auto index = static_cast<size_t>(fault);
  return index < kFaultTable.size() ? kFaultTable[index].name : "";
}

std::string_view Name(Scope scope) {
  const auto index = static_cast<size_t>(scope);
  return index < kScopes.size() ? kScopes[index] : "";
}

Scope ScopeOf(Fault fault) {
  const auto index = static_cast<size_t>(fault);
  return index < kFaultTable.size() ? kFaultTable[index].scope : Scope::kUnspecified;
}

bool MayBeTheObjects(Fault fault) {
  return fault == Fault::kForbidden || fault == Fault::kTruncated || fault == Fault::kEncoded;
}

bool MayPass(Fault fault) {
  const auto index = static_cast<size_t>(fault);
  return index < kFaultTable.size() && kFaultTable[index].may_pass;
}

absl::Status MakeError(absl::StatusCode code, std::string_view message, const ErrorInfo& info) {
  std::string text;
  if (!info.object.empty()) {
    absl::StrAppend(&text, info.object);
    if (info.length != 0) absl::StrAppend(&text, " [", info.offset, ", ", info.offset + info.length, ")");
    absl::StrAppend(&text, ": ");
  }
  text.append(message);
  if (const std::string cause = TextOf(info.cause); !cause.empty() && message.find(cause) == std::string_view::npos) {
    absl::StrAppend(&text, " (", cause, ")");
  }
  if (!info.action.empty()) absl::StrAppend(&text, "; ", info.action);
  absl::Status status(code, text);
  SetAll(status, info);
  return status;
}

absl::Status MakeErrorVerbatim(absl::StatusCode code, std::string_view text, const ErrorInfo& info) {
  absl::Status status(code, absl::string_view(text.data(), text.size()));
  SetAll(status, info);
  return status;
}

ErrorInfo GetErrorInfo(const absl::Status& status) {
  return {.object = Get(status, kObject),
          .offset = GetNumber(status, kOffset),
          .length = GetNumber(status, kLength),
          .fault = FaultOf(status),
          .scope = ScopeOf(status),
          .http_status = static_cast<int>(GetNumber(status, kHttpStatus)),
          .error_number = static_cast<int>(GetNumber(status, kErrorNumber)),
          .cause = Get(status, kCause),
          .action = Get(status, kAction)};
}

Fault FaultOf(const absl::Status& status) { return static_cast<Fault>(GetNumber(status, kFault)); }

Scope ScopeOf(const absl::Status& status) { return static_cast<Scope>(GetNumber(status, kScope)); }

std::string LabelOf(const absl::Status& status) {
  if (const std::string_view fault = Name(FaultOf(status)); !fault.empty()) return std::string(fault);
  if (const uint64_t error_number = GetNumber(status, kErrorNumber); error_number != 0) {
    const char* const name = ::strerrorname_np(static_cast<int>(error_number));
    return name == nullptr ? absl::StrCat("errno ", error_number) : name;
  }
  return absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
}

absl::Status WithScope(const absl::Status& status, Scope scope) {
  absl::Status scoped = status;
  SetNumber(scoped, kScope, static_cast<uint64_t>(scope));
  return scoped;
}

absl::Status WithObject(const absl::Status& status, std::string_view object) {
  if (status.ok() || status.GetPayload(kObject).has_value()) return status;
  ErrorInfo info = GetErrorInfo(status);
  info.object = object;
  absl::Status named(status.code(), absl::StrCat(std::string(object), ": ", status.message()));
  SetAll(named, info);
  return named;
}

absl::Status ErrnoError(int error_number, std::string_view what, ErrorInfo info) {
  std::array<char, 128> buffer;
  const char* reason = ::strerror_r(error_number, buffer.data(), buffer.size());
  if (info.cause.empty()) info.cause = reason;
  info.error_number = error_number;
  if (info.fault == Fault::kUnspecified) info.fault = FaultOfErrno(error_number);
  // Whoever hits it, it is the same limit.
  if (info.action.empty() && error_number == EMFILE) info.action = "raise the limit of open files (ulimit -n, LimitNOFILE)";
  return MakeError(absl::ErrnoToStatusCode(error_number), absl::StrCat(std::string(what), ": ", reason), info);
}

}  // namespace devmem
