// SPDX-License-Identifier: Apache-2.0
#include "net/transfer_counters.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "net/stream_socket.h"

namespace devmem {
namespace {

TEST(TransferCounters, NamesAreDistinct) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < kRetryCodes; ++i) names.insert(Name(static_cast<RetryCode>(i)));
  EXPECT_EQ(names.size(), kRetryCodes);
  EXPECT_FALSE(names.contains(""));
}

TEST(TransferCounters, KnowsAStoreByItsUri) {
  EXPECT_EQ(Name(KindOfStore("http://127.0.0.1:80/a/")), "http");
  EXPECT_EQ(Name(KindOfStore("s3://bucket/prefix")), "s3");
  EXPECT_EQ(Name(KindOfStore("FILE:///data")), "file");
}

TEST(TransferCounters, KnowsWhyARangeIsAskedForAgain) {
  const auto with = [](const ErrorInfo& info) {
    return Name(RetryCodeOf(MakeError(absl::StatusCode::kUnavailable, "it failed", info)));
  };
  EXPECT_EQ(with({.fault = Fault::kServerError, .http_status = 503}), "http_503");
  EXPECT_EQ(with({.fault = Fault::kTimeout, .http_status = 408}), "http_408");
  EXPECT_EQ(with({.fault = Fault::kTimeout}), "timeout");
  EXPECT_EQ(with({.fault = Fault::kTruncated}), "truncated");
  EXPECT_EQ(with({.fault = Fault::kMalformedAnswer}), "malformed");
  EXPECT_EQ(with({.fault = Fault::kServerError, .http_status = 520}), "http_5xx");
  EXPECT_EQ(with({.fault = Fault::kNoNameServer}), "no_host");
  EXPECT_EQ(with({.fault = Fault::kForeignMemory}), "steering");
  EXPECT_EQ(with({.cause = "HTTP 503"}), "connection") << "words decide nothing";
  EXPECT_EQ(Name(RetryCodeOf(ConnectionEnded())), "connection");
  EXPECT_EQ(Name(RetryCodeOf(ConnectionError(ECONNREFUSED, "connect"))), "connection");
}

TEST(TransferTotals, SumOverWorkers) {
  TransferCounters one, other;
  one.retries[Index(StoreKind::kS3)][Index(RetryCode::kHttp503)].Add(2);
  other.retries[Index(StoreKind::kS3)][Index(RetryCode::kHttp503)].Add(3);
  other.gather.Observe(std::chrono::microseconds(1));
  TransferTotals totals;
  totals += one;
  totals += other;
  EXPECT_EQ(totals.retries[Index(StoreKind::kS3)][Index(RetryCode::kHttp503)], 5);
  EXPECT_EQ(totals.gather.counts[0], 1);
}

}  // namespace
}  // namespace devmem
