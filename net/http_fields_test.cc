// SPDX-License-Identifier: Apache-2.0
#include "net/http_fields.h"

#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(HttpFields, ContentRange) {
  EXPECT_EQ(ParseContentRange("bytes 0-99/1234"), (ContentRange{true, 0, 99, 1234}));
  EXPECT_EQ(ParseContentRange("bytes 0-0/1"), (ContentRange{true, 0, 0, 1}));
  EXPECT_EQ(ParseContentRange("bytes */0"), (ContentRange{false, 0, 0, 0}));
  EXPECT_EQ(ParseContentRange("bytes 5-9223372036854775806/9223372036854775807"),
            (ContentRange{true, 5, 9223372036854775806u, 9223372036854775807u}));
  for (const char* bad :
       {"", "bytes", "bytes ", "bytes 0-99/*", "bytes 9-1/20", "bytes 0-20/20", "bytes -1/2", "bytes 0-1/-2", "bytes +0-1/2",
        "bytes 0-1/2 ", "bytes 0-1/2x", "bytes 0-1", "bytes 0- 1/2", "BYTES 0-1/2", "items 0-1/2",
        "bytes 0-1/9223372036854775808", "bytes 0-1/99999999999999999999999", "bytes *-1/2", "bytes **/2"}) {
    EXPECT_EQ(ParseContentRange(bad), std::nullopt) << bad;
  }
}

TEST(HttpFields, Validators) {
  constexpr char kDate[] = "Sun, 06 Nov 1994 08:49:37 GMT";
  EXPECT_TRUE(IsHttpDate(kDate));
  for (const char* bad : {"", "Sun, 06 Nov 1994 08:49:37 UTC", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
                          "Sun, 06 Nov 1994 08:49:37 GM\n", "sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:3x GMT"}) {
    EXPECT_FALSE(IsHttpDate(bad)) << bad;
  }
  for (const char* good : {"\"\"", "\"6b03143d-0\"", "\"\xc3\xa9\""}) EXPECT_TRUE(IsStrongETag(good)) << good;
  for (const char* bad : {"", "\"", "W/\"a\"", "a", "\"a", "a\"", "\"a\"b\"", "\"a\r\nX: y\"", "\"a b\""})
    EXPECT_FALSE(IsStrongETag(bad)) << bad;
  EXPECT_EQ(ChooseValidator("\"a\"", kDate), "\"a\"");
  EXPECT_EQ(ChooseValidator("W/\"a\"", kDate), kDate);
  EXPECT_EQ(ChooseValidator("", kDate), kDate);
  EXPECT_EQ(ChooseValidator("W/\"a\"", "yesterday"), "");
}

TEST(HttpFields, Dates) {
  EXPECT_EQ(HttpDate(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");  // RFC 9110, 5.6.7
  EXPECT_EQ(HttpDate(0), "Thu, 01 Jan 1970 00:00:00 GMT");
  EXPECT_EQ(HttpDate(-1), "Wed, 31 Dec 1969 23:59:59 GMT");
  EXPECT_EQ(HttpDate(4'107'542'399), "Sun, 28 Feb 2100 23:59:59 GMT");
  EXPECT_EQ(HttpDate(4'107'542'400), "Mon, 01 Mar 2100 00:00:00 GMT");  // 2100 is no leap year
  EXPECT_TRUE(IsHttpDate(HttpDate(1'709'164'800)));
}

}  // namespace
}  // namespace devmem
