// SPDX-License-Identifier: Apache-2.0
#include "service/cli/descriptor_limit.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace devmem::cli {
namespace {

TEST(DescriptorLimit, SoftBecomesHard) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_GT(limit.rlim_max, 64u);
  limit.rlim_cur = 64;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  for (int again = 0; again < 2; ++again) {
    EXPECT_TRUE(RaiseDescriptorLimit().ok());
    rlimit now{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &now), 0);
    EXPECT_EQ(now.rlim_cur, limit.rlim_max);
  }
}

}  // namespace
}  // namespace devmem::cli
