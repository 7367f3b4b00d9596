// SPDX-License-Identifier: Apache-2.0
#include "net/rx/say.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace devmem {
namespace {

absl::Status NoRule(const char* nic, const char* flow, const char* cause) {
  return MakeError(absl::StatusCode::kInternal, flow, {.object = nic, .cause = cause});
}

TEST(CauseOf, IsTheSameForEveryConnection) {
  const std::string cause = CauseOf(NoRule("eth0", "no rule for port 40000", "Input/output error"));
  EXPECT_EQ(cause, CauseOf(NoRule("eth0", "no rule for port 40001", "Input/output error")));
  EXPECT_NE(cause, CauseOf(NoRule("eth1", "no rule for port 40000", "Input/output error")));
  EXPECT_NE(cause, CauseOf(NoRule("eth0", "no rule for port 40000", "rule table full")));
}

TEST(CauseOf, IsTheMessageWhereThatIsAll) { EXPECT_EQ(CauseOf(absl::InternalError("so it is")), "so it is"); }

}  // namespace
}  // namespace devmem
