// SPDX-License-Identifier: Apache-2.0
#include "net/object_table.h"

#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/testing/counted_memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using Row = std::tuple<std::string, uint64_t, std::string>;

std::vector<Row> Rows(const ObjectTable& table) {
  std::vector<Row> rows;
  for (size_t i = 0; i < table.size(); ++i) {
    const auto object = table[i];
    rows.emplace_back(object.name, object.size, object.validator);
  }
  return rows;
}

TEST(ObjectTable, EmptyTableHasNothing) {
  ObjectTable table;
  EXPECT_TRUE(table.empty());
  ASSERT_TRUE(table.SortByName().ok());
  EXPECT_EQ(table.size(), 0u);
}

TEST(ObjectTable, KeepsWhatWasAddedAndSortsByBytes) {
  ObjectTable table;
  table.Add("b/2", 7, "\"x\"");
  table.Add("a", 0, "");
  table.Add("B", uint64_t{1} << 63, "Sun, 22 Nov 2026 16:11:40 GMT");
  table.Add("\xc3\xa9", 1, "");
  ASSERT_TRUE(table.SortByName().ok());
  EXPECT_THAT(Rows(table), testing::ElementsAre(Row("B", uint64_t{1} << 63, "Sun, 22 Nov 2026 16:11:40 GMT"), Row("a", 0, ""),
                                                Row("b/2", 7, "\"x\""), Row("\xc3\xa9", 1, "")));
}

TEST(ObjectTable, AnObjectListedTwiceIsOneObject) {
  ObjectTable table;
  for (const char* name : {"b", "a", "b", "c", "b"}) table.Add(name, 7, "\"x\"");
  ASSERT_TRUE(table.SortByName().ok());
  ASSERT_TRUE(table.DropRepeats("http://host/").ok());
  EXPECT_THAT(Rows(table), testing::ElementsAre(Row("a", 7, "\"x\""), Row("b", 7, "\"x\""), Row("c", 7, "\"x\"")));
  ASSERT_TRUE(table.DropRepeats("http://host/").ok());
  EXPECT_EQ(table.size(), 3u);
}

TEST(ObjectTable, OneNameForTwoObjectsIsAnError) {
  for (const auto& [size, validator] : {std::pair<uint64_t, const char*>{8, "\"x\""}, {7, "\"y\""}, {7, ""}}) {
    ObjectTable table;
    table.Add("a", 7, "\"x\"");
    table.Add("a", size, validator);
    ASSERT_TRUE(table.SortByName().ok());
    const absl::Status status = table.DropRepeats("http://host/");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_EQ(ScopeOf(status), Scope::kStore);
    EXPECT_THAT(Text(status), testing::AllOf(testing::HasSubstr("http://host/"), testing::HasSubstr("'a' twice")));
  }
}

TEST(ObjectTable, SetValidatorMovesTheOthersNowhere) {
  ObjectTable table;
  for (const char* name : {"a", "b", "c"}) table.Add(name, 1, std::string("\"") + name + "\"");
  table.SetValidator(1, "\"longer than before\"");
  table.SetValidator(0, "");
  table.SetValidator(2, "\"z\"");
  EXPECT_THAT(Rows(table), testing::ElementsAre(Row("a", 1, ""), Row("b", 1, "\"longer than before\""), Row("c", 1, "\"z\"")));
}

TEST(ObjectTable, IsCountedBeforeItGrows) {
  CountedMemory memory(1 << 20);
  {
    ObjectTable table(memory.Account());
    absl::Status status;
    while (status.ok() && table.size() < 1 << 20) {
      status = table.MakeRoom(100, 30);
      if (status.ok()) table.Add(std::string(100, 'n'), 1, std::string(30, 'v'));
      EXPECT_GE(memory.used(), table.bytes());
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    // Of a MiB, a third at least is used: what grows is there twice meanwhile.
    EXPECT_GE(table.size(), (1 << 20) / 3 / 154u);
    EXPECT_EQ(memory.used(), table.bytes());
    EXPECT_LE(memory.most(), 1u << 20);
    EXPECT_TRUE(table.SortByName().ok()) << "one that is sorted needs no second one";
  }
  EXPECT_EQ(memory.used(), 0u);
  ObjectTable table(memory.Account());
  for (int i = 4000; i > 0; --i) {
    ASSERT_TRUE(table.MakeRoom(100, 0).ok());
    table.Add(std::string(96, 'n') + std::to_string(1000 + i), 1, "");
  }
  EXPECT_EQ(table.SortByName().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(table.size(), 4000u);
  EXPECT_EQ(memory.used(), table.bytes());
}

TEST(ObjectTable, AgreesWithAMapUnderRandomUse) {
  std::mt19937 random(7);
  std::map<std::string, std::pair<uint64_t, std::string>> expected;
  ObjectTable table;
  for (int i = 0; i < 2000; ++i) {
    const std::string name = std::to_string(random()) + "/" + std::to_string(i);
    const std::string validator(random() % 5, 'v');
    expected[name] = {i, validator};
    table.Add(name, i, validator);
  }
  ASSERT_TRUE(table.SortByName().ok());
  for (int i = 0; i < 200; ++i) {
    const size_t index = random() % table.size();
    const std::string validator(random() % 9, 'w');
    expected[std::string(table[index].name)].second = validator;
    table.SetValidator(index, validator);
  }
  std::vector<Row> rows;
  rows.reserve(expected.size());
  for (const auto& [name, value] : expected) rows.emplace_back(name, value.first, value.second);
  EXPECT_EQ(Rows(table), rows);
}

}  // namespace
}  // namespace devmem
