// SPDX-License-Identifier: Apache-2.0
#include "net/curl_client.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/testing/counted_memory.h"
#include "base/testing/error_text.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "net/testing/http_script.h"
#include "net/testing/nginx.h"

namespace devmem {
namespace {

// The name server is silent about "dead.test" until it is revived.
struct NameServer {
  std::mutex mutex;
  std::condition_variable changed;
  bool revived = false;
} name_server;

}  // namespace
}  // namespace devmem

// In the place of libc's, also for libcurl.
extern "C" int getaddrinfo(const char* host, const char* service, const addrinfo* hints, addrinfo** found) {
  static const auto real = reinterpret_cast<decltype(&getaddrinfo)>(dlsym(RTLD_NEXT, "getaddrinfo"));
  if (host != nullptr && std::string_view(host) == "dead.test") {
    std::unique_lock lock(devmem::name_server.mutex);
    devmem::name_server.changed.wait(lock, [] { return devmem::name_server.revived; });
    return EAI_NONAME;
  }
  return real(host, service, hints, found);
}

namespace devmem {
namespace {

namespace fs = std::filesystem;

constexpr CurlOptions kQuick = {.max_retries = 2, .first_backoff = std::chrono::milliseconds(1)};

Time Soon() { return Clock::now() + std::chrono::seconds(30); }

HttpOrigin Loopback(uint16_t port) { return {"127.0.0.1", port, "127.0.0.1:" + std::to_string(port), "/"}; }

class CurlClientTest : public testing::Test {
 protected:
  CurlClientTest() {
    std::string pattern = (fs::temp_directory_path() / "curl_client_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    std::ofstream(root_ / "o") << "0123456789";
  }
  ~CurlClientTest() override { fs::remove_all(root_); }
  void Serve(std::string config) {
    auto server = NginxServer::Start({.root = root_, .server_config = std::move(config)});
    ASSERT_TRUE(server.ok()) << server.status();
    nginx_ = *std::move(server);
  }
  CurlRequest Request(std::string target) {
    return {.origin = Loopback(nginx_->port()), .target = std::move(target), .max_body = 1 << 20};
  }
  fs::path root_;
  std::unique_ptr<NginxServer> nginx_;
};

TEST_F(CurlClientTest, GetsBodyAndFields) {
  Serve("");
  const CurlClient client(kQuick, AnonymousSigner());
  CurlRequest request = Request("/o");
  request.headers = {{"Range", "bytes=2-4"}};
  request.tag = 42;
  const CurlResponse response = client.Get(request, Soon());
  ASSERT_TRUE(response.status.ok()) << response.status;
  EXPECT_EQ(response.http_status, 206);
  EXPECT_EQ(response.body, "234");
  EXPECT_EQ(response.content_range, "bytes 2-4/10");
  EXPECT_THAT(response.etag, testing::StartsWith("\""));
  EXPECT_THAT(response.last_modified, testing::EndsWith(" GMT"));
  EXPECT_EQ(response.attempts, 1);
  EXPECT_EQ(response.tag, 42u);
  CurlRequest v6 = Request("/o");
  v6.origin = {"::1", nginx_->port(), "[::1]:" + std::to_string(nginx_->port()), "/"};
  EXPECT_EQ(client.Get(v6, Soon()).body, "0123456789");
}

TEST_F(CurlClientTest, BodyAtTheCapIsFineAndBeyondItIsCutOrAnError) {
  Serve("");
  const CurlClient client(kQuick, AnonymousSigner());
  CurlRequest request = Request("/o");
  request.max_body = 10;
  EXPECT_EQ(client.Get(request, Soon()).body, "0123456789");
  request.max_body = 4;
  EXPECT_EQ(client.Get(request, Soon()).status.code(), absl::StatusCode::kResourceExhausted);
  request.cut_at_max = true;
  const CurlResponse cut = client.Get(request, Soon());
  EXPECT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_TRUE(cut.cut);
  EXPECT_EQ(cut.body, "0123");
}

TEST_F(CurlClientTest, ABodyIsCountedAsItGrows) {
  std::ofstream(root_ / "mib") << std::string(1 << 20, 'm');
  Serve("");
  CountedMemory memory(3 << 20);
  const CurlClient client(kQuick, AnonymousSigner(), memory.Account());
  CurlRequest request = Request("/mib");
  {
    const CurlResponse response = client.Get(request, Soon());
    ASSERT_TRUE(response.status.ok()) << response.status;
    EXPECT_EQ(response.body.size(), 1u << 20);
    EXPECT_GE(memory.used(), response.body.capacity());
  }
  EXPECT_EQ(memory.used(), 0u) << "it goes with its response";
  // More than there is room for: an error of its own, without a second try, and no byte of it stays.
  std::ofstream(root_ / "more") << std::string(4 << 20, 'm');
  request = Request("/more");
  request.max_body = 64 << 20;
  const CurlResponse refused = client.Get(request, Soon());
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted) << refused.status;
  EXPECT_EQ(FaultOf(refused.status), Fault::kMemoryLimit);
  EXPECT_THAT(GetErrorInfo(refused.status).object, testing::HasSubstr("/more"));
  EXPECT_EQ(refused.attempts, 1);
  EXPECT_TRUE(refused.body.empty());
  EXPECT_EQ(memory.used(), 0u);
  EXPECT_LE(memory.most(), 3u << 20);
}

TEST_F(CurlClientTest, RetriesWhatMayPassAndNothingElse) {
  Serve(
      "location = /busy { return 503; } location = /slow { return 429; } location = /no { return 403; } location = /err { "
      "return 501; }");
  const CurlClient client(kQuick, AnonymousSigner());
  struct Row {
    const char* target;
    int http_status, attempts;
  };
  for (const Row& row :
       {Row{"/busy", 503, 3}, Row{"/slow", 429, 3}, Row{"/no", 403, 1}, Row{"/err", 501, 1}, Row{"/gone", 404, 1}}) {
    const CurlResponse response = client.Get(Request(row.target), Soon());
    EXPECT_TRUE(response.status.ok());
    EXPECT_EQ(response.http_status, row.http_status);
    EXPECT_EQ(response.attempts, row.attempts) << row.target;
  }
}

TEST_F(CurlClientTest, RetryAfterBeyondTheDeadlineGivesUpAtOnce) {
  Serve("location = /busy { add_header Retry-After 3600 always; return 503; }");
  const CurlResponse response = CurlClient(kQuick, AnonymousSigner()).Get(Request("/busy"), Soon());
  EXPECT_EQ(response.http_status, 503);
  EXPECT_EQ(response.attempts, 1);
}

TEST_F(CurlClientTest, RedirectsAreFollowedToALimit) {
  Serve(
      "location = /r { return 302 /o; } location = /loop { return 301 /loop; } location = /s { return 301 https://127.0.0.1/; "
      "}");
  const CurlClient client(kQuick, AnonymousSigner());
  CurlRequest request = Request("/r");
  EXPECT_EQ(client.Get(request, Soon()).http_status, 302);
  const Redirects redirects(request.origin, nullptr);
  request.redirects = &redirects;
  const CurlResponse followed = client.Get(request, Soon());
  EXPECT_EQ(followed.http_status, 200);
  EXPECT_EQ(followed.body, "0123456789");
  request.target = "/loop";
  const absl::Status loop = client.Get(request, Soon()).status;
  EXPECT_EQ(loop.code(), absl::StatusCode::kFailedPrecondition) << loop;
  EXPECT_EQ(CauseText(loop), "endless redirect");
  request.target = "/s";
  const absl::Status https = client.Get(request, Soon()).status;
  EXPECT_EQ(FaultOf(https), Fault::kRedirect);
  EXPECT_THAT(Text(https), testing::HasSubstr("only http is supported"));
}

TEST_F(CurlClientTest, ARetryBeginsAtTheStoreAgain) {
  std::atomic<int> asked = 0;
  HttpScript mirror([](const HttpScript::Request& request) {
    if (request.target == "/1") return HttpScript::Status(503);
    if (request.target == "/2") return HttpScript::Status(403);  // what was signed for it is over
    return HttpScript::Part(request, "0123456789");
  });
  HttpScript server([&](const HttpScript::Request&) { return HttpScript::Found(mirror.url() + std::to_string(++asked)); });
  CurlRequest request{.origin = Loopback(server.port()), .target = "/o", .max_body = 1 << 20};
  const Redirects redirects(request.origin, nullptr);
  request.redirects = &redirects;
  const CurlResponse response = CurlClient(kQuick, AnonymousSigner()).Get(request, Soon());
  EXPECT_TRUE(response.status.ok()) << response.status;
  EXPECT_EQ(response.body, "0123456789");
  EXPECT_TRUE(response.elsewhere);
  EXPECT_EQ(asked, 3);
}

TEST_F(CurlClientTest, CredentialsGoToTheStoreAlone) {
  HttpScript mirror([](const HttpScript::Request& request) { return HttpScript::Part(request, "0123456789"); });
  HttpScript server(
      [&](const HttpScript::Request& request) { return HttpScript::Found(request.target == "/o" ? "/p" : mirror.url()); });
  CurlRequest request{.origin = Loopback(server.port()), .target = "/o", .max_body = 1 << 20};
  const Redirects redirects(request.origin, nullptr);
  request.redirects = &redirects;
  const CurlClient client(kQuick, [](const HttpOrigin&, std::string_view target, HeaderList& headers) {
    headers.emplace_back("Authorization", target);
    return absl::OkStatus();
  });
  EXPECT_EQ(client.Get(request, Soon()).body, "0123456789");
  ASSERT_EQ(server.requests().size(), 2u);
  EXPECT_EQ(server.requests()[0].Field("Authorization"), "/o");
  EXPECT_EQ(server.requests()[1].Field("Authorization"), "/p");
  EXPECT_EQ(mirror.requests()[0].Field("Authorization"), "");
}

TEST_F(CurlClientTest, ARedirectThatIsRefused) {
  class NoRule final : public RedirectPolicy {
    absl::StatusOr<Verdict> Judge(std::string_view) const override { return absl::PermissionDeniedError("no rule"); }
  };
  std::string to;
  HttpScript server([&](const HttpScript::Request&) { return HttpScript::Found(to); });
  CurlRequest request{.origin = Loopback(server.port()), .target = "/o", .name = "o", .max_body = 1 << 20};
  const CurlClient client(kQuick, AnonymousSigner());
  struct Row {
    const char* to;
    bool rules;
  };
  for (const Row& row :
       {Row{"http://169.254.169.254/latest?secret", false}, Row{"http://[::ffff:169.254.169.254]/x?secret", false},
        Row{"http://[fe80::1]/x?secret", false}, Row{"http://127.0.0.1:1/x?secret", true}, Row{"/p?secret", true}}) {
    to = row.to;
    HttpOrigin bucket = request.origin;
    bucket.path = "/bucket/";
    const Redirects redirects(bucket, row.rules ? std::make_shared<NoRule>() : nullptr);
    request.redirects = &redirects;
    const size_t before = server.requests().size();
    const CurlResponse response = client.Get(request, Soon());
    EXPECT_EQ(response.status.code(), absl::StatusCode::kPermissionDenied) << row.to << ": " << response.status;
    EXPECT_EQ(ScopeOf(response.status), Scope::kPolicy) << row.to;
    EXPECT_EQ(GetErrorInfo(response.status).object, "o");
    EXPECT_THAT(Text(response.status), testing::Not(testing::HasSubstr("secret")));
    EXPECT_EQ(server.requests().size(), before + 1) << "it is not tried again";
  }
}

TEST_F(CurlClientTest, ANameThatIsNotAnsweredHasADeadline) {
  CurlRequest request{.origin = {"dead.test", 80, "dead.test", "/"}, .target = "/o", .max_body = 1 << 20};
  std::future<CurlResponse> response = std::async(std::launch::async, [&request] {
    return CurlClient(kQuick, AnonymousSigner()).Get(request, Clock::now() + std::chrono::milliseconds(100));
  });
  EXPECT_EQ(response.wait_for(std::chrono::seconds(30)), std::future_status::ready) << "the look-up is waited for";
  {
    std::lock_guard lock(name_server.mutex);
    name_server.revived = true;
    name_server.changed.notify_all();
  }
  EXPECT_EQ(response.get().status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(CurlClientTest, TransportFaults) {
  Serve("location = /cut { return 444; }");
  const CurlClient client(kQuick, AnonymousSigner());
  const CurlResponse cut = client.Get(Request("/cut"), Soon());  // 444: nginx closes without an answer
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kUnavailable) << cut.status;
  EXPECT_EQ(cut.attempts, 3);
  nginx_->Stop();
  const absl::Status refused = client.Get(Request("/o"), Soon()).status;
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CauseText(refused), "connection refused");
  EXPECT_EQ(GetErrorInfo(refused).object, OriginText(Request("/o").origin)) << "the server's fault, not the object's";
  EXPECT_THAT(Text(refused), testing::HasSubstr("connecting to 127.0.0.1:" + std::to_string(nginx_->port())));
  CurlRequest nowhere = Request("/");
  nowhere.origin = {"no-such-host.invalid", 80, "no-such-host.invalid", "/"};
  const absl::Status unresolved = client.Get(nowhere, Soon()).status;
  EXPECT_EQ(unresolved.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CauseText(unresolved), "no such host");
  EXPECT_EQ(GetErrorInfo(unresolved).object, "http://no-such-host.invalid");
}

// Answers every connection with the same bytes, until it is destroyed.
class Answering {
 public:
  explicit Answering(std::string answer)
      : answer_(std::move(answer)), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in in = {.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(in);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&in), length), 0);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&in), &length), 0);
    port_ = ntohs(in.sin_port);
    thread_ = std::thread([this] {
      for (;;) {
        UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!fd.valid()) return;
        char buffer[4096];
        (void)::recv(fd.get(), buffer, sizeof(buffer), 0);
        for (size_t sent = 0; sent < answer_.size();) {
          const ssize_t n = ::send(fd.get(), answer_.data() + sent, answer_.size() - sent, MSG_NOSIGNAL);
          if (n <= 0) break;
          sent += static_cast<size_t>(n);
        }
        if (!answer_.empty()) ::shutdown(fd.get(), SHUT_WR);
        if (answer_.empty()) (void)::recv(fd.get(), buffer, sizeof(buffer), 0);  // says nothing until the client leaves
      }
    });
  }
  ~Answering() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  CurlRequest Request() const { return {.origin = Loopback(port_), .target = "/", .max_body = 1 << 20}; }

 private:
  std::string answer_;
  UniqueFd listener_;
  uint16_t port_ = 0;
  std::thread thread_;
};

TEST(CurlClientFaults, BrokenAnswers) {
  struct Row {
    const char* description;
    std::string answer;
    const char* cause;
    absl::StatusCode code;
    int attempts;
  };
  const Row rows[] = {
      {"garbage", "\x16\x03\x01 garbage\r\n\r\n", "not an HTTP/1.1 answer", absl::StatusCode::kFailedPrecondition, 3},
      {"truncated", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", "truncated body", absl::StatusCode::kDataLoss, 3},
      {"head of 1 MB",
       "HTTP/1.1 200 OK\r\n" +
           [] {
             std::string fields;
             for (int i = 0; i < 1000; ++i) fields.append("X-" + std::to_string(i) + ": " + std::string(1000, 'x') + "\r\n");
             return fields;
           }() +
           "\r\n",
       "header too long", absl::StatusCode::kFailedPrecondition, 1},
      {"longer than the cap", "HTTP/1.1 200 OK\r\n\r\n" + std::string(2 << 20, 'x'), "answer too long",
       absl::StatusCode::kResourceExhausted, 1},
  };
  for (const Row& row : rows) {
    const Answering server(row.answer);
    const CurlResponse response = CurlClient(kQuick, AnonymousSigner()).Get(server.Request(), Soon());
    EXPECT_EQ(response.status.code(), row.code) << row.description << ": " << response.status;
    EXPECT_EQ(CauseText(response.status), row.cause) << row.description;
    EXPECT_EQ(response.attempts, row.attempts) << row.description;
  }
}

TEST_F(CurlClientTest, ManyInParallelAndNewOnesFromAnswers) {
  Serve("");
  for (int i = 0; i < 100; ++i) std::ofstream(root_ / std::to_string(i)) << "value " << i;
  const CurlClient client(kQuick, AnonymousSigner());
  std::vector<CurlRequest> queue = {Request("/0")};
  std::set<std::string> bodies;
  const absl::Status status = client.Run(
      [&]() -> std::optional<CurlRequest> {
        if (queue.empty()) return std::nullopt;
        CurlRequest request = std::move(queue.back());
        queue.pop_back();
        return request;
      },
      [&](const CurlResponse& response) {
        ASSERT_TRUE(response.status.ok()) << response.status;
        bodies.insert(response.body);
        // A tree: answer i asks for 2i + 1 and 2i + 2.
        for (uint64_t child : {2 * response.tag + 1, 2 * response.tag + 2}) {
          if (child >= 100) continue;
          queue.push_back(Request("/" + std::to_string(child)));
          queue.back().tag = child;
        }
      },
      8, Soon(), nullptr);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(bodies.size(), 100u);
}

TEST_F(CurlClientTest, CancelDeadlineAndSigner) {
  Serve("");
  const Answering silent("");
  bool asked = false;
  std::optional<CurlRequest> pending = silent.Request();
  const CurlClient client(kQuick, [](const HttpOrigin&, std::string_view target, HeaderList& headers) {
    if (target == "/refuse") return absl::PermissionDeniedError("no credentials");
    headers.emplace_back("Range", "bytes=0-0");
    return absl::OkStatus();
  });
  EXPECT_EQ(client
                .Run([&] { return std::exchange(pending, std::nullopt); }, [](const CurlResponse&) { ADD_FAILURE(); }, 1,
                     Soon(), [&] { return !std::exchange(asked, true); })
                .code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(client.Get(silent.Request(), Clock::now() + std::chrono::milliseconds(50)).status.code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client.Get(silent.Request(), Clock::now()).status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client.Get(Request("/o"), Soon()).body, "0");
  EXPECT_EQ(client.Get(Request("/refuse"), Soon()).status.code(), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace devmem
