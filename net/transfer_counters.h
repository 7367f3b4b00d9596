// SPDX-License-Identifier: Apache-2.0
// What a worker's transfers took and how often they were tried again, by kind of store. Kinds and codes are closed lists, so
// that what is made of them (a metric's labels) is bounded whatever stores answer.
//
//   counters.retries[Index(KindOfStore(uri))][Index(RetryCodeOf(status))].Add(1);   // the worker's thread
//   TransferTotals totals; totals += counters;                                     // any thread
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "base/counters.h"

namespace devmem {

enum class StoreKind : uint8_t { kHttp, kS3, kFile };
inline constexpr size_t kStoreKinds = 3;
[[nodiscard]] std::string_view Name(StoreKind kind);  // "http", "s3", "file"
// Of the URI a store was opened with.
[[nodiscard]] StoreKind KindOfStore(std::string_view uri);

// Why a range was asked for again.
enum class RetryCode : uint8_t {
  kHttp408,
  kHttp429,
  kHttp500,
  kHttp502,
  kHttp503,
  kHttp504,
  kHttp5xx,     // another
  kTimeout,     // no connection, answer or byte within its time
  kTruncated,   // the body ended early
  kMalformed,   // the answer was no HTTP
  kNoHost,      // no name server answered
  kConnection,  // refused, reset, closed, or no descriptor for one
  kSteering,    // device memory held what was not ours
};
inline constexpr size_t kRetryCodes = 13;
[[nodiscard]] std::string_view Name(RetryCode code);  // "http_503", "timeout", ...
// Of what an attempt failed with.
[[nodiscard]] RetryCode RetryCodeOf(const absl::Status& status);

template <typename E>
[[nodiscard]] constexpr size_t Index(E value) {
  return static_cast<size_t>(value);
}

// Of one worker, written by its thread.
struct TransferCounters {
  std::array<LatencyHistogram, kStoreKinds> first_byte;  // from a request to its answer's head
  std::array<std::array<Count, kRetryCodes>, kStoreKinds> retries;
  LatencyHistogram gather;  // from a receive into the landing pool until the device had moved it on
};

// Of any number of them.
struct TransferTotals {
  std::array<LatencyHistogram::Totals, kStoreKinds> first_byte;
  std::array<std::array<uint64_t, kRetryCodes>, kStoreKinds> retries{};
  LatencyHistogram::Totals gather;

  TransferTotals& operator+=(const TransferCounters& counters);
};

}  // namespace devmem
