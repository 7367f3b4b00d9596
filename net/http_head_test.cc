// SPDX-License-Identifier: Apache-2.0
#include "net/http_head.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

constexpr std::string_view kNginx206 =
    "HTTP/1.1 206 Partial Content\r\nServer: nginx/1.22.1\r\nContent-Length: 100\r\nLast-Modified: Sun, 22 Nov 2026 10:00:00 "
    "GMT\r\n"
    "Connection: keep-alive\r\nETag: \"6920-64\"\r\nContent-Range: bytes 0-99/1234\r\n\r\n";

TEST(ParseResponseHead, ReadsWhatNginxSends) {
  const std::string bytes = std::string(kNginx206) + "payload";
  const auto head = ParseResponseHead(bytes);
  ASSERT_TRUE(head.ok()) << head.status();
  ASSERT_TRUE(head->has_value());
  EXPECT_EQ((*head)->status, 206);
  EXPECT_EQ((*head)->content_length, 100u);
  EXPECT_EQ((*head)->content_range, (ContentRange{.satisfied = true, .first = 0, .last = 99, .total = 1234}));
  EXPECT_EQ((*head)->etag, "\"6920-64\"");
  EXPECT_EQ((*head)->last_modified, "Sun, 22 Nov 2026 10:00:00 GMT");
  EXPECT_TRUE((*head)->keep_alive);
  EXPECT_FALSE((*head)->chunked);
  EXPECT_EQ((*head)->bytes, kNginx206.size());
}

TEST(ParseResponseHead, WaitsForEveryPrefixOfAHead) {
  for (size_t length = 0; length < kNginx206.size(); ++length) {
    const auto head = ParseResponseHead(kNginx206.substr(0, length));
    ASSERT_TRUE(head.ok()) << length << ": " << head.status();
    EXPECT_FALSE(head->has_value()) << length;
  }
}

struct BadCase {
  const char* description;
  std::string bytes;
  const char* says;
};

TEST(ParseResponseHead, RefusesWhatIsNoHead) {
  const BadCase cases[] = {
      {"garbage at once", "\x16\x03\x01", "does not start with"},
      {"another protocol", "SSH-2.0-OpenSSH\r\n\r\n", "does not start with"},
      {"HTTP/2 preface", "HTTP/2 200\r\n\r\n", "does not start with"},
      {"status line without number", "HTTP/1.1 OK\r\n\r\n", "cannot be read"},
      {"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "cannot be read"},
      {"length and chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n", "cannot be read"},
      {"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "cannot be read"},
      {"length of 2^64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", "cannot be read"},
      {"two ranges", "HTTP/1.1 206 P\r\nContent-Range: bytes 1-5/10\r\nContent-Range: bytes 1-5/10\r\n\r\n", "Content-Range"},
      {"head without end", "HTTP/1.1 200 OK\r\n" + std::string(kMaxHeadBytes, 'x'), "longer than"},
  };
  for (const BadCase& c : cases) {
    SCOPED_TRACE(c.description);
    const auto head = ParseResponseHead(c.bytes);
    ASSERT_FALSE(head.ok());
    EXPECT_THAT(std::string(head.status().message()), testing::HasSubstr(c.says));
  }
}

TEST(ParseResponseHead, TellsWhetherTheConnectionLives) {
  EXPECT_TRUE((*ParseResponseHead("HTTP/1.1 204 No Content\r\n\r\n"))->keep_alive);
  EXPECT_FALSE((*ParseResponseHead("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))->keep_alive);
  EXPECT_FALSE((*ParseResponseHead("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"))->keep_alive);
  EXPECT_TRUE((*ParseResponseHead("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))->chunked);
}

}  // namespace
}  // namespace devmem
