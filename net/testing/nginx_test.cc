// SPDX-License-Identifier: Apache-2.0
#include "net/testing/nginx.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

// The whole answer to a request, or "" if nobody listens.
std::string Ask(uint16_t port, bool v6, const std::string& request) {
  UniqueFd fd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_loopback};
  sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  const auto* const address = v6 ? reinterpret_cast<const sockaddr*>(&in6) : reinterpret_cast<const sockaddr*>(&in);
  if (::connect(fd.get(), address, v6 ? sizeof(in6) : sizeof(in)) != 0) return "";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = ::recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, static_cast<size_t>(got));
  return answer;
}

constexpr char kGet[] = "GET /o HTTP/1.0\r\n\r\n";

TEST(NginxServer, ServesBothFamiliesStopsAndComesBackOnItsPort) {
  std::string root = (std::filesystem::temp_directory_path() / "root_XXXXXX").string();
  ASSERT_NE(::mkdtemp(root.data()), nullptr);
  std::ofstream(root + "/o") << "content";
  auto server = NginxServer::Start({.root = root, .server_config = "location = /busy { return 503; }"});
  ASSERT_TRUE(server.ok()) << server.status();
  const uint16_t port = (*server)->port();
  for (const bool v6 : {false, true}) EXPECT_THAT(Ask(port, v6, kGet), testing::EndsWith("\r\n\r\ncontent"));
  EXPECT_THAT(Ask(port, false, "GET / HTTP/1.0\r\n\r\n"), testing::HasSubstr(R"("name":"o", "type":"file")"));
  EXPECT_THAT(Ask(port, false, "GET /busy HTTP/1.0\r\n\r\n"), testing::HasSubstr(" 503 "));
  (*server)->Stop();
  for (const bool v6 : {false, true}) EXPECT_EQ(Ask(port, v6, kGet), "");
  (*server)->SetServerConfig("location = /busy { return 200 fine; }");
  ASSERT_TRUE((*server)->Restart().ok());
  EXPECT_EQ((*server)->port(), port);
  EXPECT_THAT(Ask(port, true, "GET /busy HTTP/1.0\r\n\r\n"), testing::EndsWith("fine"));
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace devmem
