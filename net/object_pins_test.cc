// SPDX-License-Identifier: Apache-2.0
#include "net/object_pins.h"

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(ObjectPins, TheFirstVersionStays) {
  ObjectPins pins(10'000);
  EXPECT_EQ(pins.Pinned(9'999), "");
  EXPECT_EQ(pins.Pin(9'999, "\"a\""), "\"a\"");
  EXPECT_EQ(pins.Pin(9'999, "\"b\""), "\"a\"");
  EXPECT_EQ(pins.Pinned(9'999), "\"a\"");
  EXPECT_EQ(pins.Pinned(9'998), "");
  EXPECT_EQ(pins.Pinned(0), "");
}

TEST(ObjectPins, NothingIsNoVersion) {
  ObjectPins pins(1);
  EXPECT_EQ(pins.Pin(0, ""), "");
  EXPECT_EQ(pins.Pin(0, "x"), "x");
}

TEST(ObjectPins, VersionsAreAsLongAsTheyMayBe) {
  ObjectPins pins(2);
  const std::string longest(ObjectPins::kLongest, 'x');
  EXPECT_EQ(pins.Pin(0, longest + "y"), longest);
  EXPECT_EQ(pins.Pin(1, "z"), "z");
  EXPECT_EQ(pins.Pinned(0), longest);
}

TEST(ObjectPins, WorkersAgree) {
  ObjectPins pins(1000);
  std::atomic<size_t> pinned = 0;
  std::vector<std::thread> workers;
  for (int worker = 0; worker < 4; ++worker) {
    workers.emplace_back([&, own = std::to_string(worker)] {
      for (size_t object = 0; object < 1000; ++object) pinned += pins.Pin(object, own) == own ? 1 : 0;
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(pinned, 1000u) << "one worker's version an object";
}

}  // namespace
}  // namespace devmem
