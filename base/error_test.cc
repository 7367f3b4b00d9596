// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace devmem {
namespace {

TEST(Error, KeepsEveryPartAndReadsWhole) {
  const ErrorInfo info{.object = "a.npy", .offset = 10, .length = 5, .cause = "truncated", .action = "look at the store"};
  const absl::Status status = MakeError(absl::StatusCode::kDataLoss, "body ended early", info);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Text(status), "a.npy [10, 15): body ended early (truncated); look at the store");
  EXPECT_EQ(GetErrorInfo(status), info);
}

TEST(Error, NamesAnObjectOnlyOnce) {
  const absl::Status bare = MakeError(absl::StatusCode::kInvalidArgument, "bad magic", {.cause = "not an npy file"});
  const absl::Status named = WithObject(bare, "x.npy");
  EXPECT_EQ(GetErrorInfo(named).object, "x.npy");
  EXPECT_EQ(GetErrorInfo(named).cause, "not an npy file");
  EXPECT_EQ(WithObject(named, "y.npy"), named);
  EXPECT_TRUE(WithObject(absl::OkStatus(), "y.npy").ok());
}

TEST(Error, ErrnoKeepsItsCodeAndText) {
  const absl::Status status = ErrnoError(ENOENT, "open", {.object = "/x"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GetErrorInfo(status).cause, "No such file or directory");
}

TEST(ErrnoError, RunningOutOfDescriptorsSaysWhatToDo) {
  EXPECT_THAT(GetErrorInfo(ErrnoError(EMFILE, "cannot open", {})).action, ::testing::HasSubstr("open files"));
  EXPECT_EQ(GetErrorInfo(ErrnoError(EMFILE, "cannot open", {.action = "wait"})).action, "wait");
}

}  // namespace
}  // namespace devmem
