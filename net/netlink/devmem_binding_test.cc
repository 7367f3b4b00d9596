// SPDX-License-Identifier: Apache-2.0
// Answers of the family, written out by the numbers of its specification; the family itself answers in the guest
// (tests/guest/e2e/bindings_test.py).
#include "net/netlink/devmem_binding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

enum : uint16_t { kId = 1, kIfindex, kDmabuf, kPageSize, kQueue, kState, kReset, kRules, kCreator };

// A u32 attribute each.
std::vector<std::byte> Message(std::initializer_list<std::pair<uint16_t, uint32_t>> attributes) {
  std::vector<std::byte> bytes;
  for (const auto& [type, value] : attributes) {
    const nlattr header{.nla_len = sizeof(nlattr) + sizeof(uint32_t), .nla_type = type};
    const size_t at = bytes.size();
    bytes.resize(at + header.nla_len);
    std::memcpy(&bytes[at], &header, sizeof header);
    std::memcpy(&bytes[at + sizeof header], &value, sizeof value);
  }
  return bytes;
}

TEST(ParseHeldHandle, ReadsAllThatIsTold) {
  const auto bytes = Message({{kId, 9},
                              {kIfindex, 4},
                              {kDmabuf, 3},
                              {kState, 0},
                              {kPageSize, 65536},
                              {kReset, 3},
                              {kRules, 12},
                              {kCreator, 77},
                              {kQueue, 7},
                              {kQueue, 6}});
  const auto handle = ParseHeldHandle(NetlinkAttributes(bytes));
  ASSERT_TRUE(handle.has_value());
  EXPECT_EQ(handle->id, 9);
  EXPECT_EQ(handle->ifindex, 4);
  EXPECT_EQ(handle->dmabuf, 3);
  EXPECT_EQ(handle->page_size, 65536);
  EXPECT_THAT(handle->queues, ElementsAre(6, 7));
  EXPECT_FALSE(handle->gone);
  EXPECT_TRUE(handle->resets_rss && handle->resets_split);
  EXPECT_EQ(handle->rules, 12);
  EXPECT_EQ(handle->creator_pid, 77);
}

TEST(ParseHeldHandle, TellsWhatIsResetApart) {
  for (const auto& [reset, rss, split] : {std::tuple{0U, false, false}, {1U, true, false}, {2U, false, true}}) {
    const auto handle = ParseHeldHandle(NetlinkAttributes(Message({{kId, 1}, {kReset, reset}})));
    ASSERT_TRUE(handle.has_value());
    EXPECT_EQ(handle->resets_rss, rss) << reset;
    EXPECT_EQ(handle->resets_split, split) << reset;
  }
}

TEST(ParseHeldHandle, WithoutDeviceAndCreator) {
  const auto bytes = Message({{kId, 9}, {kIfindex, 4}, {kState, 1}});
  const auto handle = ParseHeldHandle(NetlinkAttributes(bytes));
  ASSERT_TRUE(handle.has_value());
  EXPECT_TRUE(handle->gone);
  EXPECT_EQ(handle->creator_pid, 0);
  EXPECT_THAT(handle->queues, IsEmpty());
}

TEST(ParseHeldHandle, WhatNamesNoBindingIsNone) {
  EXPECT_FALSE(ParseHeldHandle(NetlinkAttributes()).has_value());
  EXPECT_FALSE(ParseHeldHandle(NetlinkAttributes(Message({{kIfindex, 4}, {kId, 0}}))).has_value());
}

TEST(ParseHeldHandle, PassesOverWhatIsCutShort) {
  auto bytes = Message({{kId, 9}, {kQueue, 6}, {kQueue, 7}});
  bytes.resize(bytes.size() - 2);
  const auto handle = ParseHeldHandle(NetlinkAttributes(bytes));
  ASSERT_TRUE(handle.has_value());
  EXPECT_THAT(handle->queues, ElementsAre(6));
}

TEST(ListHeldHandles, WithoutTheModuleSaysWhatItTakes) {
  const auto handles = ListHeldHandles();
  if (handles.ok()) GTEST_SKIP() << "devmem_binding is loaded here";
  if (!absl::IsUnimplemented(handles.status())) GTEST_SKIP() << "no generic netlink: " << Text(handles.status());
  EXPECT_THAT(Text(handles.status()), ::testing::HasSubstr("it takes the kernel module devmem_binding"));
}

}  // namespace
}  // namespace devmem
