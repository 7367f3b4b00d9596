// SPDX-License-Identifier: Apache-2.0
#include "service/cli/process_usage.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace devmem::cli {
namespace {

TEST(ProcessUsage, OwnAgreesWithProc) {
  std::vector<char> memory(32 << 20);
  std::memset(memory.data(), 1, memory.size());
  const ProcessUsage own = OwnUsage();
  auto read = ReadProcessUsage(::getpid());
  ASSERT_TRUE(read.has_value());
  EXPECT_NEAR(read->cpu_seconds, own.cpu_seconds, 0.5);
  EXPECT_GE(own.peak_rss_mib, 32);
  EXPECT_GT(read->start_ticks, 0u);
}

TEST(ProcessUsage, NamesWithBlanksAndParentheses) {
  ASSERT_EQ(::prctl(PR_SET_NAME, "a) (b c", 0, 0, 0), 0);
  auto read = ReadProcessUsage(::getpid());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->command, "a) (b c");
}

TEST(ProcessUsage, NoSuchProcess) { EXPECT_FALSE(ReadProcessUsage(0).has_value()); }

}  // namespace
}  // namespace devmem::cli
