// SPDX-License-Identifier: Apache-2.0
#include "net/object_name.h"

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(ObjectName, TakesWhatIsRelative) {
  for (const char* name :
       {"a", "a/b", "a//b", "..a", "a..", "...", ".hidden", "a/.b", "sp ace", "per%20cent", "\xc3\xa9", "a\nb"}) {
    EXPECT_TRUE(CheckObjectName(name, "x").ok()) << name;
  }
}

TEST(ObjectName, RefusesWhatCouldLeaveTheBucket) {
  for (const std::string& name : {std::string(""), std::string("/etc/passwd"), std::string(".."), std::string("../x"),
                                  std::string("a/../b"), std::string("a/.."), std::string("."), std::string("./a"),
                                  std::string("a/"), std::string("a\0b", 3), std::string(kMaxObjectName + 1, 'a')}) {
    const absl::Status status = CheckObjectName(name, "http://h/");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(Text(status), testing::StartsWith("http://h/: "));
  }
}

TEST(ObjectName, ErrorsPrint) {
  EXPECT_THAT(Text(CheckObjectName(std::string("a\0b\x1b/", 5), "x")), testing::HasSubstr("\"a\\x00b\\x1b/\""));
}

}  // namespace
}  // namespace devmem
