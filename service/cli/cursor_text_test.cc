// SPDX-License-Identifier: Apache-2.0
#include "service/cli/cursor_text.h"

#include <gtest/gtest.h>

#include <fstream>

namespace devmem::cli {
namespace {

devmem_loader::v1::Cursor Example() {
  devmem_loader::v1::Cursor cursor;
  cursor.set_plan_version(1);
  cursor.set_spec_hash(0xfedcba9876543210);
  cursor.set_listing_fingerprint(0x0123456789abcdef);
  cursor.set_epoch(3);
  cursor.set_position(1234567890123);
  return cursor;
}

TEST(CursorText, RoundTrips) {
  const std::string text = CursorText(Example());
  EXPECT_EQ(text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), std::string::npos)
      << "safe in shells, URLs and file names: " << text;
  auto cursor = ReadCursor(text);
  ASSERT_TRUE(cursor.ok()) << cursor.status();
  EXPECT_EQ(cursor->SerializeAsString(), Example().SerializeAsString());
  EXPECT_TRUE(ReadCursor(" " + text + "\n").ok());
}

TEST(CursorText, FromAFile) {
  const std::string path = ::testing::TempDir() + "/cursor_text_test";
  std::ofstream(path) << CursorText(Example()) << "\n";
  auto cursor = ReadCursor("@" + path);
  ASSERT_TRUE(cursor.ok()) << cursor.status();
  EXPECT_EQ(cursor->position(), 1234567890123u);
  EXPECT_EQ(ReadCursor("@/no/such/file").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadCursor("@/dev/zero").ok()) << "an endless file is no cursor";
}

TEST(CursorText, RefusesWhatIsNone) {
  const std::string text = CursorText(Example());
  for (const std::string& bad :
       {std::string("x"), std::string("hello world"), std::string("@"), text.substr(0, text.size() - 1), text.substr(1),
        text + "AA", std::string("AA"), std::string(" ")}) {
    EXPECT_FALSE(ReadCursor(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace devmem::cli
