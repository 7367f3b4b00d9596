// SPDX-License-Identifier: Apache-2.0
#include "service/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

UniqueFd Dial(const HttpAddress& address) {
  if (!address.path.empty()) {
    sockaddr_un to{.sun_family = AF_UNIX, .sun_path = {}};
    address.path.copy(to.sun_path, sizeof to.sun_path - 1);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) fd.Reset();
    return fd;
  }
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(address.port)};
  ::inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{.tv_sec = 60};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) fd.Reset();
  return fd;
}

std::string ReadAll(const UniqueFd& fd) {
  std::string all;
  char bytes[4096];
  for (ssize_t got; (got = ::recv(fd.get(), bytes, sizeof bytes, 0)) > 0;) all.append(bytes, static_cast<size_t>(got));
  return all;
}

std::string Ask(const HttpAddress& address, const std::string& request) {
  const UniqueFd fd = Dial(address);
  if (!fd.valid()) return "nobody listens";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "not sent";
  return ReadAll(fd);
}

std::string Get(const HttpAddress& address, const std::string& path) {
  return Ask(address, "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n");
}

HttpServer::Handler Says(const std::string& who) {
  return [who](const std::string& path, const HttpServer::Reply& reply) {
    if (path != "/who") return reply({.status = 404, .body = "no such page\n"});
    reply({.body = who});
  };
}

std::unique_ptr<HttpServer> Start(const HttpAddress& address, const HttpServer::Handler& handler,
                                  const HttpServer::Options& options = {}) {
  auto server = HttpServer::Bind(address, options);
  EXPECT_TRUE(server.ok()) << server.status();
  if (!server.ok()) return nullptr;
  const absl::Status serves = (*server)->Serve(handler);
  EXPECT_TRUE(serves.ok()) << serves;
  return *std::move(server);
}

const HttpAddress kAny{.host = "127.0.0.1"};

TEST(HttpAddress, Parses) {
  struct {
    const char* text;
    const char* host;
    uint16_t port;
    const char* path;
  } const cases[] = {
      {"127.0.0.1:9464", "127.0.0.1", 9464, ""},
      {"[::1]:80", "::1", 80, ""},
      {":9464", "", 9464, ""},
      {"0.0.0.0:0", "0.0.0.0", 0, ""},
      {"unix:/run/x.sock", "", 0, "/run/x.sock"},
  };
  for (const auto& each : cases) {
    const auto address = HttpAddress::Parse(each.text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->host, each.host);
    EXPECT_EQ(address->port, each.port);
    EXPECT_EQ(address->path, each.path);
    EXPECT_EQ(address->ToString(), each.text);
  }
  const auto bracketed = HttpAddress::Parse("[127.0.0.1]:9464");  // as whoever writes brackets for any family
  ASSERT_TRUE(bracketed.ok()) << bracketed.status();
  EXPECT_EQ(bracketed->ToString(), "127.0.0.1:9464");
  for (const char* text : {"", "9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "::1:80", "[]:80",
                           "[127.0.0]:80", "[:]:80", "[127.0.0.1:80", "localhost:80", "unix:", "127.0.0.1:-1"}) {
    EXPECT_FALSE(HttpAddress::Parse(text).ok()) << text;
  }
}

TEST(HttpServer, Answers) {
  const auto server = Start(kAny, Says("it"));
  EXPECT_NE(server->address().port, 0);
  const std::string answer = Get(server->address(), "/who");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Length: 2\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nit"));
  EXPECT_THAT(Get(server->address(), "/"), StartsWith("HTTP/1.1 404 "));
  const std::string refused = Ask(server->address(), "POST /who HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(refused, HasSubstr("\r\nAllow: GET\r\n"));
  EXPECT_THAT(Ask(server->address(), "\x16\x03\x01\x02"), StartsWith("HTTP/1.1 400 "));
}

TEST(HttpServer, AnswersInPieces) {
  const auto server = Start(kAny, Says("it"));
  const UniqueFd fd = Dial(server->address());
  for (const char byte : std::string("GET /who HTTP/1.0\r\n\r\n")) ASSERT_EQ(::send(fd.get(), &byte, 1, MSG_NOSIGNAL), 1);
  EXPECT_THAT(ReadAll(fd), HasSubstr("\r\n\r\nit"));
}

TEST(HttpServer, ALongAnswerFromAnotherThread) {
  const std::string body(8 << 20, 'x');
  std::thread renderer;
  const auto server = Start(kAny, [&](const std::string&, const HttpServer::Reply& reply) {
    renderer = std::thread([reply, &body] { reply({.body = body}); });
  });
  const std::string answer = Get(server->address(), "/");
  renderer.join();
  EXPECT_EQ(answer.substr(answer.find("\r\n\r\n") + 4), body);
}

TEST(HttpServer, WhoOnlyHoldsConnectionsGivesWay) {
  const auto server = Start(kAny, Says("it"));
  std::vector<UniqueFd> idle;
  for (size_t i = 0; i < 2 * HttpServer::kMostConnections; ++i) idle.push_back(Dial(server->address()));
  EXPECT_THAT(Get(server->address(), "/who"), HasSubstr("\r\n\r\nit"));
  char byte = 0;
  EXPECT_EQ(::recv(idle.front().get(), &byte, 1, 0), 0) << "the first one was closed";
}

TEST(HttpServer, ALateReplyIsLost) {
  HttpServer::Reply late;
  std::promise<void> asked;
  auto server = Start(kAny, [&](const std::string&, HttpServer::Reply reply) {
    late = std::move(reply);
    asked.set_value();
  });
  const HttpAddress address = server->address();
  std::string answer = "none yet";
  std::thread client([&] { answer = Get(address, "/"); });
  asked.get_future().wait();
  server.reset();
  late({.body = "too late"});
  client.join();
  EXPECT_EQ(answer, "");
}

TEST(HttpServer, AnAddressIsSharedOnlyWhereThatIsAskedFor) {
  auto old = Start(kAny, Says("old"));
  const HttpAddress address = old->address();
  const auto refused = HttpServer::Bind(address, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kAlreadyExists) << refused.status();
  EXPECT_EQ(GetErrorInfo(refused.status()).object, address.ToString());
  auto next = HttpServer::Bind(address, {.share = true});
  ASSERT_TRUE(next.ok()) << next.status();
  for (int i = 0; i < 50; ++i)
    EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nold")) << "the next one does not listen yet";
  ASSERT_TRUE((*next)->Listen().ok());
  old.reset();
  const UniqueFd waits = Dial(address);
  EXPECT_TRUE(waits.valid());
  ASSERT_TRUE((*next)->Serve(Says("new")).ok());
  for (int i = 0; i < 50; ++i) EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nnew"));
}

TEST(HttpServer, UnixSocketPassesOn) {
  const std::filesystem::path folder = testing::TempDir() + "/http-" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  const HttpAddress address{.path = folder / "metrics.sock"};
  auto old = Start(address, Says("old"), {.socket_mode = 0600});
  EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nold"));
  struct stat file {};
  ASSERT_EQ(::stat(address.path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  EXPECT_EQ(HttpServer::Bind(address, {}).status().code(), absl::StatusCode::kAlreadyExists);
  {  // this process is its own successor here, with another temporary name than a process of another pid would have
    auto next = HttpServer::Bind(address, {.share = true});
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nold"));
    ASSERT_TRUE((*next)->Serve(Says("new")).ok());
    EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nnew"));
    old.reset();
    EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nnew")) << "the old one left the file alone";
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  // What a dead process left is in nobody's way.
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un at{.sun_family = AF_UNIX, .sun_path = {}};
    address.path.copy(at.sun_path, sizeof at.sun_path - 1);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
  }
  const auto again = Start(address, Says("again"));
  EXPECT_THAT(Get(address, "/who"), HasSubstr("\r\n\r\nagain"));
}

TEST(HttpServer, SaysWhatCannotBeBound) {
  const auto elsewhere = HttpServer::Bind({.host = "192.0.2.1", .port = 1}, {});  // an address of documents (RFC 5737)
  EXPECT_THAT(Text(elsewhere.status()), HasSubstr("192.0.2.1:1"));
  const auto nowhere = HttpServer::Bind({.path = "/no/such/folder/sock"}, {});
  EXPECT_THAT(Text(nowhere.status()), HasSubstr("/no/such/folder/sock"));
  EXPECT_FALSE(HttpServer::Bind({.path = "/tmp/" + std::string(120, 'a')}, {}).ok());
}

}  // namespace
}  // namespace devmem
