// SPDX-License-Identifier: Apache-2.0
// A connection's life, each step with a deadline of its own:
//   1. reading: until the head is whole, or garbage (400)
//   2. answering: the handler has it; its answer comes by `answers` and a wake-up
//   3. writing
//   4. closing: our side is shut, the other's bytes are read and dropped until it closes: a close with unread bytes would be a
//      reset, and could overtake the answer
// One thread polls them all. When there are too many, the one that reads for longest gives way.
//
// Two processes on one TCP address: SO_REUSEPORT, set on the first one only after it is bound, so that it is refused an address
// that somebody has, and shares it from then on. On a unix socket: the file is made under another name and renamed on
// listening.
#include "service/http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "service/http_request.h"

namespace devmem {
namespace {

constexpr Duration kRead = std::chrono::seconds(5);
constexpr Duration kAnswer = std::chrono::seconds(30);
constexpr Duration kWrite = std::chrono::seconds(10);
constexpr Duration kClose = std::chrono::seconds(1);
constexpr Duration kStarvedPause = std::chrono::milliseconds(200);  // when no descriptor was left to accept with
constexpr int kBacklog = 64;
constexpr char kUnix[] = "unix:";

std::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

std::string Serialize(const HttpServer::Answer& answer) {
  return absl::StrCat("HTTP/1.1 ", answer.status, " ", std::string(Reason(answer.status)), "\r\nContent-Type: ", answer.type,
                      "\r\nContent-Length: ", answer.body.size(), "\r\n", answer.status == 405 ? "Allow: GET\r\n" : "",
                      "Cache-Control: no-store\r\nConnection: close\r\n\r\n", answer.body);
}

absl::Status Taken(const HttpAddress& address) {
  return MakeError(absl::StatusCode::kAlreadyExists, "another process listens there",
                   {.object = address.ToString(), .cause = "address in use", .action = "end it, or choose another address"});
}

// What handlers reply to: outlives the server where a reply is late.
struct Answers {
  std::mutex mutex;
  std::vector<std::pair<uint64_t, HttpServer::Answer>> come;  // by connection; guarded by mutex
  UniqueFd wake;                                              // eventfd

  void Wake() const {
    const uint64_t one = 1;
    (void)!::write(wake.get(), &one, sizeof one);
  }
};

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(HttpAddress address, UniqueFd socket) : address_(std::move(address)), socket_(std::move(socket)) {}

  ~HttpServerImpl() override {
    if (thread_.joinable()) {
      {
        std::lock_guard lock(answers_->mutex);
        stopping_ = true;
      }
      answers_->Wake();
      thread_.join();
    }
    if (address_.path.empty()) return;
    struct stat now {};
    const std::string& file = served_ ? address_.path : temporary_;
    if (::lstat(file.c_str(), &now) == 0 && now.st_ino == inode_ && now.st_dev == device_) ::unlink(file.c_str());
  }

  absl::Status Init(const Options& options) {
    answers_->wake = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!answers_->wake.valid()) return ErrnoError(errno, "eventfd", {.object = address_.ToString()});
    return address_.path.empty() ? BindTcp(options) : BindUnix(options);
  }

  absl::Status Listen() override {
    if (::listen(socket_.get(), kBacklog) == 0) return absl::OkStatus();
    if (errno == EADDRINUSE) return Taken(address_);
    return ErrnoError(errno, "listen", {.object = address_.ToString()});
  }

  absl::Status Serve(Handler handler) override {
    handler_ = std::move(handler);
    DEVMEM_RETURN_IF_ERROR(Listen());
    if (!temporary_.empty() && ::rename(temporary_.c_str(), address_.path.c_str()) != 0) {
      return ErrnoError(errno, "renaming the socket to its name", {.object = address_.path});
    }
    served_ = true;
    thread_ = std::thread([this] { Run(); });
    pthread_setname_np(thread_.native_handle(), "http");
    return absl::OkStatus();
  }

  [[nodiscard]] const HttpAddress& address() const override { return address_; }

 private:
  enum class State : uint8_t { kReading, kAnswering, kWriting, kClosing };
  struct Connection {
    UniqueFd fd;
    State state = State::kReading;
    Time deadline{};
    std::string in;
    std::string out;
    size_t written = 0;
  };

  absl::Status BindTcp(const Options& options) {
    addrinfo hints{};
    hints.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = address_.host.empty() ? AF_INET6 : AF_UNSPEC;
    addrinfo* found = nullptr;
    const std::string port = absl::StrCat(address_.port);
    if (const int error = ::getaddrinfo(address_.host.empty() ? nullptr : address_.host.c_str(), port.c_str(), &hints, &found);
        error != 0) {
      return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("no address to listen on: ", ::gai_strerror(error)),
                       {.object = address_.ToString(),
                        .cause = "bad address",
                        .action = "give the literal of an address of this machine, and a port"});
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(found, ::freeaddrinfo);
    int family = found->ai_family;
    sockaddr_storage storage{};
    std::memcpy(&storage, found->ai_addr, found->ai_addrlen);
    socklen_t length = found->ai_addrlen;
    socket_ = UniqueFd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket_.valid() && errno == EAFNOSUPPORT && address_.host.empty()) {  // a machine without IPv6
      family = AF_INET;
      sockaddr_in any{.sin_family = AF_INET, .sin_port = htons(address_.port)};
      std::memcpy(&storage, &any, sizeof any);
      length = sizeof any;
      socket_ = UniqueFd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    }
    if (!socket_.valid()) return ErrnoError(errno, "socket", {.object = address_.ToString()});
    const int on = 1, off = 0;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // what is in TIME_WAIT is in nobody's way
    if (family == AF_INET6 && address_.host.empty()) ::setsockopt(socket_.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (options.share) ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&storage), length) != 0) {
      if (errno == EADDRINUSE) return Taken(address_);
      return ErrnoError(errno, "cannot listen",
                        {.object = address_.ToString(), .action = "choose an address of this machine that may be listened on"});
    }
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    length = sizeof storage;
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&storage), &length);
    address_.port = ntohs(family == AF_INET ? reinterpret_cast<const sockaddr_in&>(storage).sin_port
                                            : reinterpret_cast<const sockaddr_in6&>(storage).sin6_port);
    return absl::OkStatus();
  }

  absl::Status BindUnix(const Options& options) {
    const auto name = [](const std::string& path) {
      sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
      path.copy(address.sun_path, sizeof address.sun_path - 1);
      return address;
    };
    temporary_ = absl::StrCat(address_.path, ".", ::getpid());
    if (temporary_.size() >= sizeof sockaddr_un{}.sun_path) {
      return MakeError(absl::StatusCode::kInvalidArgument, "the socket's path is too long",
                       {.object = address_.path, .cause = "path too long", .action = "use one of at most 96 bytes"});
    }
    const auto make = [] { return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); };
    if (!options.share) {
      const sockaddr_un there = name(address_.path);
      const UniqueFd probe = make();
      if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&there), sizeof there) == 0 || errno == EAGAIN) {
        return Taken(address_);
      }
    }
    socket_ = make();
    if (!socket_.valid()) return ErrnoError(errno, "socket", {.object = address_.path});
    ::unlink(temporary_.c_str());  // of a dead process that had our pid
    const sockaddr_un here = name(temporary_);
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0) {
      return ErrnoError(errno, "cannot listen",
                        {.object = address_.path, .action = "choose a path whose folder can be written"});
    }
    struct stat made {};
    if (::chmod(temporary_.c_str(), options.socket_mode) != 0 || ::lstat(temporary_.c_str(), &made) != 0) {
      return ErrnoError(errno, "setting the socket's mode", {.object = address_.path});
    }
    device_ = made.st_dev;
    inode_ = made.st_ino;
    return absl::OkStatus();
  }

  void Run() {
    std::vector<pollfd> polled;
    std::vector<uint64_t> ids;
    while (true) {
      {
        std::vector<std::pair<uint64_t, Answer>> come;
        {
          std::lock_guard lock(answers_->mutex);
          if (stopping_) return connections_.clear();
          come.swap(answers_->come);
        }
        for (auto& [id, answer] : come) {
          if (const auto at = connections_.find(id); at != connections_.end()) Write(at->second, answer);
        }
      }
      polled = {{.fd = answers_->wake.get(), .events = POLLIN, .revents = 0}};
      ids.clear();
      Time next = Time::max();
      for (auto& [id, connection] : connections_) {
        next = std::min(next, connection.deadline);
        const short events = connection.state == State::kWriting ? POLLOUT : connection.state == State::kAnswering ? 0 : POLLIN;
        polled.push_back({.fd = connection.fd.get(), .events = events, .revents = 0});
        ids.push_back(id);
      }
      const Time now = Clock::now();
      const bool accepts = now >= accept_again_;
      if (accepts) {
        polled.push_back({.fd = socket_.get(), .events = POLLIN, .revents = 0});
      } else {
        next = std::min(next, accept_again_);
      }
      int timeout = -1;
      if (next != Time::max()) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
        timeout = static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
      }
      if (::poll(polled.data(), polled.size(), timeout) < 0 && errno != EINTR) return connections_.clear();
      uint64_t woken = 0;
      (void)!::read(answers_->wake.get(), &woken, sizeof woken);
      const Time after = Clock::now();
      for (size_t i = 0; i < ids.size(); ++i) {
        const auto at = connections_.find(ids[i]);
        const bool goes_on = polled[i + 1].revents == 0 || Step(at->first, at->second, polled[i + 1].revents);
        if (!goes_on || after >= at->second.deadline) connections_.erase(at);
      }
      if (accepts && (polled.back().revents & POLLIN) != 0) Accept();
    }
  }

  void Accept() {
    UniqueFd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        accept_again_ = Clock::now() + kStarvedPause;
      return;
    }
    if (connections_.size() >= kMostConnections) {
      // The oldest (ids ascend) of those who have their answer and stay, else of those who ask nothing, else of those who do
      // not take what they asked for. While all are being answered this one must come again.
      auto leaves = connections_.end();
      for (const State state : {State::kClosing, State::kReading, State::kWriting}) {
        leaves =
            std::find_if(connections_.begin(), connections_.end(), [state](const auto& c) { return c.second.state == state; });
        if (leaves != connections_.end()) break;
      }
      if (leaves == connections_.end()) return;
      connections_.erase(leaves);
    }
    Connection& connection = connections_[next_id_++];
    connection.fd = std::move(fd);
    connection.deadline = Clock::now() + kRead;
  }

  // False: it is over.
  bool Step(uint64_t id, Connection& connection, short events) {
    switch (connection.state) {
      case State::kReading:
        return Read(id, connection);
      case State::kAnswering:
        return (events & (POLLERR | POLLHUP)) == 0;  // it left
      case State::kWriting:
        return Flush(connection);
      case State::kClosing: {
        std::array<char, 4096> dropped;
        const ssize_t got = ::recv(connection.fd.get(), dropped.data(), dropped.size(), 0);
        return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
      }
    }
    return false;
  }

  bool Read(uint64_t id, Connection& connection) {
    std::array<char, 4096> bytes;
    const ssize_t got = ::recv(connection.fd.get(), bytes.data(), bytes.size(), 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    connection.in.append(bytes.data(), static_cast<size_t>(got));
    const auto head = ParseRequestHead(connection.in);
    if (head.ok() && !head->has_value()) return true;
    if (!head.ok()) {
      Write(connection, {.status = 400, .body = absl::StrCat(Text(head.status()), "\n")});
    } else if ((*head)->method != "GET") {
      Write(connection, {.status = 405, .body = "only GET\n"});
    } else {
      connection.state = State::kAnswering;
      connection.deadline = Clock::now() + kAnswer;
      handler_((*head)->path, [answers = answers_, id](Answer answer) {
        std::lock_guard lock(answers->mutex);
        answers->come.emplace_back(id, std::move(answer));
        answers->Wake();
      });
    }
    return true;
  }

  void Write(Connection& connection, const Answer& answer) {
    connection.in.clear();
    connection.out = Serialize(answer);
    connection.state = State::kWriting;
    connection.deadline = Clock::now() + kWrite;
  }

  bool Flush(Connection& connection) {
    const ssize_t sent = ::send(connection.fd.get(), connection.out.data() + connection.written,
                                connection.out.size() - connection.written, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    connection.written += static_cast<size_t>(sent);
    if (connection.written < connection.out.size()) return true;
    ::shutdown(connection.fd.get(), SHUT_WR);
    connection.state = State::kClosing;
    connection.deadline = Clock::now() + kClose;
    return true;
  }

  HttpAddress address_;
  UniqueFd socket_;
  std::string temporary_;  // a unix socket's name until it listens
  dev_t device_ = 0;       // of its file
  ino_t inode_ = 0;
  bool served_ = false;
  Handler handler_;
  const std::shared_ptr<Answers> answers_ = std::make_shared<Answers>();
  bool stopping_ = false;  // guarded by answers_->mutex
  // The thread's.
  std::map<uint64_t, Connection> connections_;
  uint64_t next_id_ = 0;
  Time accept_again_{};
  std::thread thread_;
};

}  // namespace

absl::StatusOr<HttpAddress> HttpAddress::Parse(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("'", std::string(text), "': ", std::string(why)),
                     {.cause = "bad address", .action = "write HOST:PORT with a literal address, :PORT, or unix:PATH"});
  };
  HttpAddress address;
  if (text.substr(0, sizeof kUnix - 1) == kUnix) {
    address.path = text.substr(sizeof kUnix - 1);
    if (address.path.empty()) return bad("no path");
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size()) return bad("the port is no number up to 65535");
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  address.host = host;
  in6_addr scratch;
  const bool v6 = host.find(':') != std::string_view::npos;  // which takes brackets, or no one could tell the port
  const bool literal = ::inet_pton(v6 ? AF_INET6 : AF_INET, address.host.c_str(), &scratch) == 1 && (bracketed || !v6);
  if (!literal && (bracketed || !address.host.empty())) {
    return bad("the host is no literal address");
  }
  return address;
}

std::string HttpAddress::ToString() const {
  if (!path.empty()) return absl::StrCat(kUnix, path);
  if (host.find(':') != std::string::npos) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Bind(const HttpAddress& address, const Options& options) {
  auto server = std::make_unique<HttpServerImpl>(address, UniqueFd());
  DEVMEM_RETURN_IF_ERROR(server->Init(options));
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace devmem
