// SPDX-License-Identifier: Apache-2.0
#include "service/cli/print.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace devmem::cli {
namespace {

constexpr char kEvil[] = "a\x1b[2J\x7f\xc2\x9b\xe2\x80\xae.npy";

TEST(Print, LinesStayAndNothingInThemMovesTheTerminal) {
  testing::internal::CaptureStderr();
  PrintError(std::string("one ") + kEvil + "\n\ntwo caf\xe9");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "one a\\x1b[2J\\u007f\\u009b\\u202e.npy\n\ntwo caf\\xe9");
}

TEST(Print, JsonStaysWhatItIs) {
  const nlohmann::json json = {{"object", kEvil}, {"count", 1}};
  testing::internal::CaptureStdout();
  ASSERT_TRUE(PrintOut(json.dump() + "\n").ok());
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_EQ(nlohmann::json::parse(text), json);
  for (const char* control : {"\x1b", "\x7f", "\xc2\x9b", "\xe2\x80\xae"}) EXPECT_EQ(text.find(control), std::string::npos);
}

}  // namespace
}  // namespace devmem::cli
