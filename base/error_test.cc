// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string_view>

#include "base/testing/error_text.h"

namespace devmem {
namespace {

TEST(Error, KeepsEveryPartAndReadsWhole) {
  const ErrorInfo info{.object = "a.npy",
                       .offset = 10,
                       .length = 5,
                       .fault = Fault::kTruncated,
                       .http_status = 206,
                       .cause = "truncated",
                       .action = "look at the store"};
  const absl::Status status = MakeError(absl::StatusCode::kDataLoss, "body ended early", info);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Text(status), "a.npy [10, 15): body ended early (truncated); look at the store");
  EXPECT_EQ(InfoText(GetErrorInfo(status)), "a.npy [10, +5) truncated/store HTTP 206 errno 0: truncated; look at the store");
}

TEST(Error, NamesAnObjectOnlyOnce) {
  const absl::Status bare = MakeError(absl::StatusCode::kInvalidArgument, "bad magic", {.cause = "not an npy file"});
  const absl::Status named = WithObject(bare, "x.npy");
  EXPECT_EQ(GetErrorInfo(named).object, "x.npy");
  EXPECT_EQ(CauseText(named), "not an npy file");
  EXPECT_EQ(WithObject(named, "y.npy"), named);
  EXPECT_TRUE(WithObject(absl::OkStatus(), "y.npy").ok());
}

TEST(Error, ErrnoKeepsItsCodeAndText) {
  const absl::Status status = ErrnoError(ENOENT, "open", {.object = "/x"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CauseText(status), "No such file or directory");
}

TEST(Error, ScopeFollowsFromTheFaultUnlessSomebodyKnowsBetter) {
  const auto scope = [](const ErrorInfo& info) { return ScopeOf(MakeError(absl::StatusCode::kUnknown, "it", info)); };
  EXPECT_EQ(scope({.fault = Fault::kObjectGone}), Scope::kObject);
  EXPECT_EQ(scope({.fault = Fault::kForbidden}), Scope::kStore);
  EXPECT_EQ(scope({.fault = Fault::kNoZeroCopy}), Scope::kPolicy);
  EXPECT_EQ(scope({.fault = Fault::kObjectGone, .scope = Scope::kStore}), Scope::kStore);
  EXPECT_EQ(scope({.cause = "whatever it says"}), Scope::kUnspecified);
  EXPECT_EQ(ScopeOf(absl::NotFoundError("no detail at all")), Scope::kUnspecified);
  const absl::Status refused = MakeError(absl::StatusCode::kPermissionDenied, "403", {.fault = Fault::kForbidden});
  EXPECT_EQ(ScopeOf(WithScope(refused, Scope::kObject)), Scope::kObject);
  EXPECT_EQ(WithScope(refused, Scope::kObject).message(), refused.message());
}

TEST(Error, OnlyWhatMayBeEithersIsJudgedByEvidence) {
  for (uint8_t i = 0; i < kFaults; ++i) {
    const auto fault = static_cast<Fault>(i);
    if (MayBeTheObjects(fault)) {
      EXPECT_EQ(ScopeOf(fault), Scope::kStore) << Name(fault);
    }
  }
}

// What is refused for a reason stays refused; what a network or a loaded server does may pass.
TEST(Error, OnlyPassingFaultsAreWorthAnotherTry) {
  for (const Fault fault : {Fault::kTimeout, Fault::kConnection, Fault::kThrottled, Fault::kServerError, Fault::kTruncated,
                            Fault::kNoNameServer, Fault::kOutOfDescriptors}) {
    EXPECT_TRUE(MayPass(fault)) << Name(fault);
  }
  for (uint8_t i = 0; i < kFaults; ++i) {
    const auto fault = static_cast<Fault>(i);
    if (ScopeOf(fault) == Scope::kObject || ScopeOf(fault) == Scope::kPolicy || fault == Fault::kUnspecified) {
      EXPECT_FALSE(MayPass(fault)) << Name(fault);
    }
  }
  EXPECT_FALSE(MayPass(Fault::kNoSuchHost));
  EXPECT_FALSE(MayPass(Fault::kForbidden));
  EXPECT_FALSE(MayPass(static_cast<Fault>(kFaults)));
}

TEST(Error, FaultsHaveNamesOfTheirOwn) {
  std::set<std::string_view> names;
  for (uint8_t i = 0; i < kFaults; ++i) EXPECT_TRUE(names.insert(Name(static_cast<Fault>(i))).second) << int{i};
  EXPECT_EQ(Name(static_cast<Fault>(kFaults)), "");
}

TEST(Error, LabelsComeFromABoundedList) {
  EXPECT_EQ(LabelOf(MakeError(absl::StatusCode::kUnavailable, "x", {.fault = Fault::kTimeout})), "timeout");
  EXPECT_EQ(LabelOf(ErrnoError(EIO, "read")), "EIO");
  EXPECT_EQ(LabelOf(absl::InternalError("port 40000")), "internal");
}

TEST(ErrnoError, TellsTheFault) {
  EXPECT_EQ(FaultOf(ErrnoError(EMFILE, "open")), Fault::kOutOfDescriptors);
  EXPECT_EQ(FaultOf(ErrnoError(ECONNREFUSED, "connect")), Fault::kConnectionRefused);
  EXPECT_EQ(FaultOf(ErrnoError(EINVAL, "bind")), Fault::kUnspecified);
  EXPECT_EQ(GetErrorInfo(ErrnoError(EBADF, "bind")).error_number, EBADF);
}

TEST(ErrnoError, RunningOutOfDescriptorsSaysWhatToDo) {
  EXPECT_THAT(GetErrorInfo(ErrnoError(EMFILE, "cannot open", {})).action, ::testing::HasSubstr("open files"));
  EXPECT_EQ(GetErrorInfo(ErrnoError(EMFILE, "cannot open", {.action = "wait"})).action, "wait");
}

}  // namespace
}  // namespace devmem
