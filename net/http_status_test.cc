// SPDX-License-Identifier: Apache-2.0
#include "net/http_status.h"

#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(HttpStatus, Table) {
  struct Row {
    int http_status;
    absl::StatusCode code;
    bool retry;
  };
  for (const Row& row :
       {Row{200, absl::StatusCode::kFailedPrecondition, false}, Row{301, absl::StatusCode::kFailedPrecondition, false},
        Row{400, absl::StatusCode::kInvalidArgument, false}, Row{401, absl::StatusCode::kPermissionDenied, false},
        Row{403, absl::StatusCode::kPermissionDenied, false}, Row{404, absl::StatusCode::kNotFound, false},
        Row{410, absl::StatusCode::kNotFound, false}, Row{408, absl::StatusCode::kUnavailable, true},
        Row{412, absl::StatusCode::kAborted, false}, Row{416, absl::StatusCode::kOutOfRange, false},
        Row{429, absl::StatusCode::kUnavailable, true}, Row{500, absl::StatusCode::kUnavailable, true},
        Row{501, absl::StatusCode::kFailedPrecondition, false}, Row{502, absl::StatusCode::kUnavailable, true},
        Row{503, absl::StatusCode::kUnavailable, true}, Row{504, absl::StatusCode::kUnavailable, true},
        Row{0, absl::StatusCode::kUnknown, false}, Row{999, absl::StatusCode::kUnknown, false}}) {
    const absl::Status status = HttpStatusError(row.http_status, {.object = "o", .offset = 3, .length = 4});
    EXPECT_EQ(status.code(), row.code) << row.http_status;
    EXPECT_EQ(MayPass(FaultOfHttpStatus(row.http_status)), row.retry) << row.http_status;
    EXPECT_THAT(Text(status), testing::HasSubstr("o [3, 7): the server answered " + std::to_string(row.http_status)));
    EXPECT_FALSE(GetErrorInfo(status).cause.empty()) << row.http_status;
    EXPECT_FALSE(GetErrorInfo(status).action.empty()) << row.http_status;
  }
}

TEST(HttpStatus, KeepsTheCallersCauseAndAction) {
  const ErrorInfo info = GetErrorInfo(HttpStatusError(503, {.cause = "SlowDown", .action = "wait"}));
  EXPECT_EQ(CauseText(HttpStatusError(503, {.cause = "SlowDown", .action = "wait"})), "SlowDown");
  EXPECT_EQ(info.action, "wait");
}

}  // namespace
}  // namespace devmem
