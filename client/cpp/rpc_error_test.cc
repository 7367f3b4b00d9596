// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/rpc_error.h"

#include <gmock/gmock.h>
#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "devmem_loader/v1/loader.pb.h"
#include "devmem_loader/v1/rpc_status.pb.h"

namespace devmem {
namespace {

TEST(RpcErrorTest, ComesBackAsItWent) {
  for (int code = 1; code <= 16; ++code) {
    const ErrorInfo info{.object = "a/b.npy",
                         .offset = uint64_t{1} << 40,
                         .length = 7,
                         .fault = Fault::kForbidden,
                         .scope = Scope::kObject,
                         .http_status = 403,
                         .cause = "cause",
                         .action = "do this"};
    const absl::Status status = MakeError(static_cast<absl::StatusCode>(code), "what failed", info);
    const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
    EXPECT_EQ(back, status);
    EXPECT_EQ(InfoText(GetErrorInfo(back)), InfoText(info));
  }
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
}

TEST(RpcErrorTest, TheDetailIsAnErrorDetailInAGoogleRpcStatus) {
  const grpc::Status status = ToGrpcStatus(MakeError(absl::StatusCode::kNotFound, "gone", {.object = "x"}));
  devmem_loader::v1::RpcStatus rpc;
  ASSERT_TRUE(rpc.ParseFromString(status.error_details()));
  EXPECT_EQ(rpc.code(), 5);
  ASSERT_EQ(rpc.details_size(), 1);
  EXPECT_EQ(rpc.details(0).type_url(), "type.googleapis.com/devmem_loader.v1.ErrorDetail");
  devmem_loader::v1::ErrorDetail detail;
  ASSERT_TRUE(rpc.details(0).UnpackTo(&detail));
  EXPECT_EQ(detail.code(), "NOT_FOUND");
  EXPECT_EQ(detail.object(), "x");
}

TEST(RpcErrorTest, StatisticsComeBackWithTheError) {
  devmem_loader::v1::StreamStatistics statistics;
  statistics.set_requests(7);
  statistics.mutable_stall()->set_network(3);
  const absl::Status failed = WithStatistics(MakeError(absl::StatusCode::kDataLoss, "bad", {.object = "x"}), statistics);
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(failed));
  EXPECT_EQ(back, failed);
  EXPECT_EQ(GetErrorInfo(back).object, "x");
  ASSERT_TRUE(StatisticsOf(back).has_value());
  EXPECT_EQ(StatisticsOf(back)->SerializeAsString(), statistics.SerializeAsString());
  EXPECT_FALSE(StatisticsOf(FromGrpcStatus(ToGrpcStatus(absl::NotFoundError("gone")))).has_value());
  EXPECT_FALSE(StatisticsOf(absl::OkStatus()).has_value());
}

TEST(RpcErrorTest, StatusesOfOthersHaveNoDetail) {
  for (const char* details : {"", "not a message", "\x0a"}) {
    const absl::Status status = FromGrpcStatus({grpc::StatusCode::UNAVAILABLE, "Socket closed", details});
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(status.message(), "Socket closed");
    EXPECT_EQ(InfoText(GetErrorInfo(status)), InfoText(ErrorInfo()));
  }
}

// What a daemon sends that knows no faults: the detail as of 0.1.0, whose words were acted on.
TEST(RpcErrorTest, AnOldDaemonsFaultIsToldFromItsWords) {
  const auto fault = [](const char* cause) {
    devmem_loader::v1::ErrorDetail detail;
    detail.set_code("UNAVAILABLE");
    detail.set_cause(cause);
    devmem_loader::v1::RpcStatus rpc;
    rpc.set_code(14);
    rpc.add_details()->PackFrom(detail);
    return FaultOf(FromGrpcStatus({grpc::StatusCode::UNAVAILABLE, "it", rpc.SerializeAsString()}));
  };
  EXPECT_EQ(fault("draining"), Fault::kDraining);
  EXPECT_EQ(fault("not authenticated"), Fault::kToken);
  EXPECT_EQ(fault("no zero copy"), Fault::kNoZeroCopy);
  EXPECT_EQ(fault("anything else"), Fault::kUnspecified);
}

TEST(RpcErrorTest, ANewerDaemonsFaultIsNone) {
  devmem_loader::v1::ErrorDetail detail;
  detail.set_fault(static_cast<devmem_loader::v1::Fault>(200));
  detail.set_scope(static_cast<devmem_loader::v1::Scope>(200));
  EXPECT_EQ(InfoOf(detail).fault, Fault::kUnspecified);
  EXPECT_EQ(InfoOf(detail).scope, Scope::kUnspecified);
}

TEST(RpcErrorTest, TextIsMadeUtf8) {
  struct Row {
    std::string text, expected;
  };
  for (const Row& row : std::vector<Row>{{"plain", "plain"},
                                         {"\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9"},
                                         {"a\xff\xfe", "a??"},
                                         {"\xc0\xaf", "??"},       // overlong
                                         {"\xed\xa0\x80", "???"},  // surrogate
                                         {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
                                         {"\xf4\x90\x80\x80", "????"},  // beyond U+10FFFF
                                         {"cut\xe2\x82", "cut??"}}) {
    const grpc::Status status = ToGrpcStatus(MakeError(absl::StatusCode::kDataLoss, "bad", {.object = row.text}));
    EXPECT_EQ(GetErrorInfo(FromGrpcStatus(status)).object, row.expected);
  }
}

// All metadata of a call together may have 8 KiB; more and gRPC replaces the status by its own.
TEST(RpcErrorTest, LongTextsAreCut) {
  const std::string text(100'000, 'x');
  devmem_loader::v1::StreamStatistics all;
  for (int i = 0; i < all.GetDescriptor()->field_count(); ++i) {
    const auto* const field = all.GetDescriptor()->field(i);
    if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_UINT64)
      all.GetReflection()->SetUInt64(&all, field, ~uint64_t{0});
  }
  const grpc::Status status = ToGrpcStatus(
      WithStatistics(MakeError(absl::StatusCode::kDataLoss, text, {.object = text, .cause = text, .action = text}), all));
  EXPECT_LT(status.error_message().size() + status.error_details().size() * 4 / 3, 8000u);
}

}  // namespace
}  // namespace devmem
