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
  const auto with = [](const std::string& cause) {
    return Name(RetryCodeOf(MakeError(absl::StatusCode::kUnavailable, "it failed", {.cause = cause})));
  };
  EXPECT_EQ(with("HTTP 503"), "http_503");
  EXPECT_EQ(with("timeout"), "timeout");
  EXPECT_EQ(with("truncated body"), "truncated");
  EXPECT_EQ(with("no such host"), "no_host");
  EXPECT_EQ(with("foreign dma-buf"), "steering");
  EXPECT_EQ(with("what no list holds"), "connection");
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
