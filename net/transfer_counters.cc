// SPDX-License-Identifier: Apache-2.0
#include "net/transfer_counters.h"

#include "base/error.h"

namespace devmem {
namespace {

constexpr std::array<std::string_view, kStoreKinds> kStores = {"http", "s3", "file"};
constexpr std::array<std::string_view, kRetryCodes> kCodes = {"http_408", "http_429",   "http_500", "http_502",  "http_503",
                                                              "http_504", "http_5xx",   "timeout",  "truncated", "malformed",
                                                              "no_host",  "connection", "steering"};

}  // namespace

std::string_view Name(StoreKind kind) { return kStores[Index(kind)]; }

std::string_view Name(RetryCode code) { return kCodes[Index(code)]; }

StoreKind KindOfStore(std::string_view uri) {
  switch (uri.empty() ? 0 : uri.front() | 0x20) {  // schemes in any case; OpenStore() knows no others
    case 's':
      return StoreKind::kS3;
    case 'f':
      return StoreKind::kFile;
    default:
      return StoreKind::kHttp;
  }
}

RetryCode RetryCodeOf(const absl::Status& status) {
  const ErrorInfo info = GetErrorInfo(status);
  constexpr std::array<std::pair<int, RetryCode>, 6> kStatuses = {{
      {408, RetryCode::kHttp408},
      {429, RetryCode::kHttp429},
      {500, RetryCode::kHttp500},
      {502, RetryCode::kHttp502},
      {503, RetryCode::kHttp503},
      {504, RetryCode::kHttp504},
  }};
  for (const auto& [http_status, code] : kStatuses) {
    if (info.http_status == http_status) return code;
  }
  switch (info.fault) {
    case Fault::kServerError:
      return RetryCode::kHttp5xx;
    case Fault::kTimeout:
      return RetryCode::kTimeout;
    case Fault::kTruncated:
      return RetryCode::kTruncated;
    case Fault::kMalformedAnswer:
      return RetryCode::kMalformed;
    case Fault::kNoNameServer:
      return RetryCode::kNoHost;
    case Fault::kForeignMemory:
      return RetryCode::kSteering;
    default:
      return RetryCode::kConnection;
  }
}

TransferTotals& TransferTotals::operator+=(const TransferCounters& counters) {
  for (size_t store = 0; store < kStoreKinds; ++store) {
    first_byte[store] += counters.first_byte[store];
    for (size_t code = 0; code < kRetryCodes; ++code) retries[store][code] += counters.retries[store][code].get();
  }
  gather += counters.gather;
  return *this;
}

}  // namespace devmem
