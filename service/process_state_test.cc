// SPDX-License-Identifier: Apache-2.0
#include "service/process_state.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "base/unique_fd.h"

namespace devmem {
namespace {

TEST(ProcessState, IsOfThisProcess) {
  const ProcessState before = ReadProcessState();
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_GT(before.resident_bytes, 1u << 20);
  EXPECT_GT(before.virtual_bytes, before.resident_bytes);
  EXPECT_GT(before.max_fds, before.open_fds);
  EXPECT_LE(before.start_time, now + 1);
  EXPECT_GT(before.start_time, now - 24 * 3600);
  std::vector<UniqueFd> files;
  for (int i = 0; i < 5; ++i) files.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(ReadProcessState().open_fds, before.open_fds + 5);
  EXPECT_GE(ReadProcessState().cpu_seconds, before.cpu_seconds);
}

}  // namespace
}  // namespace devmem
