// SPDX-License-Identifier: Apache-2.0
#include "service/cli/capabilities.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace devmem::cli {
namespace {

using Sets = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

Sets Now() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  Sets sets{};
  EXPECT_EQ(::syscall(SYS_capget, &header, sets.data()), 0);
  return sets;
}

TEST(Capabilities, PermittedBecomesEffective) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const Sets before = Now();
  Sets none = before;
  for (__user_cap_data_struct& set : none) set.effective = 0;
  ASSERT_EQ(::syscall(SYS_capset, &header, none.data()), 0);
  EXPECT_TRUE(UsePermittedCapabilities().ok());
  const Sets after = Now();
  for (size_t i = 0; i < after.size(); ++i) {
    EXPECT_EQ(after[i].effective, before[i].permitted);
    EXPECT_EQ(after[i].permitted, before[i].permitted);
    EXPECT_EQ(after[i].inheritable, before[i].inheritable);
  }
}

}  // namespace
}  // namespace devmem::cli
