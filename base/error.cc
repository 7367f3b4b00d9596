// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <array>
#include <cerrno>
#include <cstring>

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

void Set(absl::Status& status, const char* key, std::string_view value) {
  if (!value.empty()) status.SetPayload(key, absl::Cord(absl::string_view(value.data(), value.size())));
}

std::string Get(const absl::Status& status, const char* key) {
  auto payload = status.GetPayload(key);
  return payload.has_value() ? std::string(*payload) : std::string();
}

uint64_t GetNumber(const absl::Status& status, const char* key) {
  const std::string text = Get(status, key);
  return text.empty() ? 0 : std::stoull(text);
}

void SetAll(absl::Status& status, const ErrorInfo& info) {
  Set(status, kObject, info.object);
  if (info.offset != 0) Set(status, kOffset, std::to_string(info.offset));
  if (info.length != 0) Set(status, kLength, std::to_string(info.length));
  Set(status, kCause, info.cause);
  Set(status, kAction, info.action);
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, std::string_view message, const ErrorInfo& info) {
  std::string text;
  if (!info.object.empty()) {
    absl::StrAppend(&text, info.object);
    if (info.length != 0) absl::StrAppend(&text, " [", info.offset, ", ", info.offset + info.length, ")");
    absl::StrAppend(&text, ": ");
  }
  text.append(message);
  if (!info.cause.empty() && message.find(info.cause) == std::string_view::npos) absl::StrAppend(&text, " (", info.cause, ")");
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
          .cause = Get(status, kCause),
          .action = Get(status, kAction)};
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
  // Whoever hits it, it is the same limit.
  if (info.action.empty() && error_number == EMFILE) info.action = "raise the limit of open files (ulimit -n, LimitNOFILE)";
  return MakeError(absl::ErrnoToStatusCode(error_number), absl::StrCat(std::string(what), ": ", reason), info);
}

}  // namespace devmem
