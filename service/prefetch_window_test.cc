// SPDX-License-Identifier: Apache-2.0
#include "service/prefetch_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace devmem {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMi = 1 << 20;

TEST(PrefetchWindow, NothingIsSaidWhereAGroupFits) {
  const PrefetchWindow window{
      .slots = 8, .wave_slots = 4, .most_slots = 1 << 16, .slot_bytes = kMi, .batch_size = 32, .prefetch = 8 * kMi};
  EXPECT_EQ(SplitGroupWarning(window, 128, 1), "");
  EXPECT_EQ(SplitGroupWarning(window, 129, 2), "");
  EXPECT_NE(SplitGroupWarning(window, 129, 1), "");
}

TEST(PrefetchWindow, SaysHowMuchMoreWouldDo) {
  const PrefetchWindow window{
      .slots = 8, .wave_slots = 4, .most_slots = 1 << 16, .slot_bytes = kMi + 1, .batch_size = 32, .prefetch = 9 * kMi};
  // 130 samples take 5 batches, twice: 10 MiB and 10 bytes.
  EXPECT_EQ(SplitGroupWarning(window, 130, 1),
            "a shuffle group has 130 samples, and the prefetch window of 8.00 MiB reads 128 at a time: groups are read in "
            "parts, with "
            "more requests and discarded bytes; raise --prefetch from 9.00 MiB to 11MiB");
  EXPECT_THAT(SplitGroupWarning(window, 1040, 8), AllOf(HasSubstr("130 samples for this rank"), HasSubstr("to 11MiB")));
  PrefetchWindow small = window;
  small.slot_bytes = 100;
  EXPECT_THAT(SplitGroupWarning(small, 130, 1), HasSubstr("to 1KiB"));
}

// Samples of 4 bytes at the default of 1 GiB: not the memory is short, but what a window may hold.
TEST(PrefetchWindow, NeverAsksForLessThanThereIs) {
  const PrefetchWindow window{.slots = 1 << 16,
                              .wave_slots = 1 << 15,
                              .most_slots = 1 << 16,
                              .slot_bytes = 64,
                              .batch_size = 16,
                              .prefetch = 1024 * kMi};
  const std::string warning = SplitGroupWarning(window, 8 * kMi, 1);
  EXPECT_THAT(warning, AllOf(HasSubstr("no --prefetch would do"), HasSubstr("at most 65536 batches of this size"),
                             HasSubstr("--group-blocks"), Not(HasSubstr("raise"))));
}

}  // namespace
}  // namespace devmem
