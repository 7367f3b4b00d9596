// SPDX-License-Identifier: Apache-2.0
#include "service/log_event.h"

#include <gtest/gtest.h>

namespace devmem {
namespace {

using std::chrono::seconds;

TEST(LogLimit, KeepsBackWhatIsTooMuchAndCountsIt) {
  LogLimit limit(2, seconds(10));
  const Time start = Clock::now();
  EXPECT_EQ(limit.Admit(start), 0u);
  EXPECT_EQ(limit.Admit(start + seconds(1)), 0u);
  EXPECT_EQ(limit.Admit(start + seconds(2)), std::nullopt);
  EXPECT_EQ(limit.Admit(start + seconds(9)), std::nullopt);
  EXPECT_EQ(limit.Admit(start + seconds(10)), 2u) << "a new window";
  EXPECT_EQ(limit.Admit(start + seconds(11)), 0u);
  EXPECT_EQ(limit.Admit(start + seconds(12)), std::nullopt);
}

TEST(LogEvent, IsOverWhenItsLineIsWritten) {
  EXPECT_EQ(CurrentLogEvent(), nullptr);
  LogEvent(spdlog::level::debug, "test", {{"a", uint64_t{1}}}, "a line");
  EXPECT_EQ(CurrentLogEvent(), nullptr);
}

}  // namespace
}  // namespace devmem
