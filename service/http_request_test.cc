// SPDX-License-Identifier: Apache-2.0
#include "service/http_request.h"

#include <gtest/gtest.h>

namespace devmem {
namespace {

TEST(ParseRequestHead, Whole) {
  struct {
    const char* description;
    std::string bytes;
    const char* method;
    const char* path;
  } const cases[] = {
      {"a scrape", "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n", "GET", "/metrics"},
      {"a query is not the path", "GET /healthz?verbose=1 HTTP/1.1\r\n\r\n", "GET", "/healthz"},
      {"absolute form, as to a proxy", "GET http://node:9464/metrics HTTP/1.1\r\n\r\n", "GET", "/metrics"},
      {"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "GET", "/"},
      {"bare line feeds", "GET / HTTP/1.1\nHost: a\n\n", "GET", "/"},
      {"a body may follow", "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "POST", "/metrics"},
      {"asterisk form", "OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS", "*"},
      {"no path at all", "CONNECT node:443 HTTP/1.1\r\n\r\n", "CONNECT", ""},
  };
  for (const auto& each : cases) {
    const auto head = ParseRequestHead(each.bytes);
    ASSERT_TRUE(head.ok() && head->has_value()) << each.description << ": " << head.status();
    EXPECT_EQ((*head)->method, each.method) << each.description;
    EXPECT_EQ((*head)->path, each.path) << each.description;
    const auto half = ParseRequestHead(each.bytes.substr(0, each.bytes.find(" HTTP")));
    EXPECT_TRUE(half.ok() && !half->has_value()) << each.description << ", cut off";
  }
}

TEST(ParseRequestHead, RefusesWhatIsNoRequest) {
  struct {
    const char* description;
    std::string bytes;
  } const cases[] = {
      {"TLS", std::string("\x16\x03\x01\x02\x00\x01\x00", 7)},
      {"an answer", "HTTP/1.1 200 OK\r\n\r\n"},
      {"no such method", "FETCH / HTTP/1.1\r\n\r\n"},
      {"a version that is none", "GET / HTTP/x\r\n\r\n"},
      {"endless", "GET /" + std::string(kMaxRequestHead, 'a')},
      {"endless fields", "GET / HTTP/1.1\r\nX: " + std::string(kMaxRequestHead, 'a')},
  };
  for (const auto& each : cases) EXPECT_FALSE(ParseRequestHead(each.bytes).ok()) << each.description;
}

}  // namespace
}  // namespace devmem
