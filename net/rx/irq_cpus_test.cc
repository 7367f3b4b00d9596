// SPDX-License-Identifier: Apache-2.0
#include "net/rx/irq_cpus.h"

#include <filesystem>

#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(IrqCpus, ListsAreReadAsTheKernelWritesThem) {
  EXPECT_EQ(ParseCpuList("3\n"), std::vector<int>{3});
  EXPECT_EQ(ParseCpuList("0-2,7"), (std::vector<int>{0, 1, 2, 7}));
  for (const char* bad : {"", "x", "3-1", "-1", "0-99999999", "1;2"}) {
    EXPECT_TRUE(ParseCpuList(bad).empty()) << bad;
  }
}

TEST(IrqCpus, OfAnInterruptThatIsThere) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/irq", error)) {
    if (!entry.is_directory() || !std::filesystem::exists(entry.path() / "smp_affinity_list")) continue;
    EXPECT_FALSE(IrqCpus(static_cast<uint32_t>(std::stoul(entry.path().filename()))).empty()) << entry;
    return;
  }
  GTEST_SKIP() << "no interrupts to be seen in /proc/irq";
}

TEST(IrqCpus, NoneOfOneThatIsNot) { EXPECT_TRUE(IrqCpus(4'000'000'000).empty()); }

}  // namespace
}  // namespace devmem
