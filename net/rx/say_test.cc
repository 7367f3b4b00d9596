// SPDX-License-Identifier: Apache-2.0
#include "net/rx/say.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/error.h"

namespace devmem {
namespace {

absl::Status NoRule(const char* nic, const char* flow, int error_number) {
  return ErrnoError(error_number, flow, {.object = nic});
}

TEST(OnceKey, IsTheSameForEveryConnection) {
  const std::string kind = OnceKey(NoRule("eth0", "no rule for port 40000", EIO));
  EXPECT_EQ(kind, "eth0: EIO");
  EXPECT_EQ(kind, OnceKey(NoRule("eth0", "no rule for port 40001", EIO)));
  EXPECT_NE(kind, OnceKey(NoRule("eth1", "no rule for port 40000", EIO)));
  EXPECT_NE(kind, OnceKey(NoRule("eth0", "no rule for port 40000", ENOSPC)));
}

TEST(OnceKey, IsTheFaultWhereOneIsGiven) {
  EXPECT_EQ(OnceKey(MakeError(absl::StatusCode::kInternal, "full", {.object = "eth0", .fault = Fault::kRuleTableFull})),
            "eth0: rule_table_full");
  EXPECT_EQ(OnceKey(absl::InternalError("so it is")), ": internal");
}

}  // namespace
}  // namespace devmem
