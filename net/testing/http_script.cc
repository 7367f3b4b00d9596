// SPDX-License-Identifier: Apache-2.0
#include "net/testing/http_script.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace devmem {
namespace {

bool SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

[[noreturn]] void Give(const char* up) {
  std::perror(up);
  std::abort();
}

}  // namespace

std::string HttpScript::Request::Field(std::string_view name) const {
  for (size_t begin = head.find("\r\n"); begin != std::string::npos && begin + 2 < head.size();) {
    begin += 2;
    const size_t end = head.find("\r\n", begin);
    const std::string line = head.substr(begin, end - begin);
    if (line.size() > name.size() && line[name.size()] == ':' && ::strncasecmp(line.data(), name.data(), name.size()) == 0) {
      return line.substr(std::min(line.size(), name.size() + 2));
    }
    begin = end;
  }
  return "";
}

HttpScript::HttpScript(Handler handler, const std::string& address, uint16_t port)
    : handler_(std::move(handler)), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {}, .sin_zero = {}};
  const int on = 1;
  setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  socklen_t length = sizeof in;
  if (inet_pton(AF_INET, address.c_str(), &in.sin_addr) != 1 ||
      ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&in), length) != 0 || ::listen(listener_.get(), 128) != 0 ||
      ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&in), &length) != 0) {
    Give("HttpScript");
  }
  port_ = ntohs(in.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

std::string HttpScript::url(std::string_view host) const {
  return std::string("http://").append(host).append(":").append(std::to_string(port_)).append("/");
}

std::vector<HttpScript::Request> HttpScript::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

size_t HttpScript::connections() const {
  std::lock_guard lock(mutex_);
  return fds_.size();
}

void HttpScript::Accept() {
  while (true) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) return;
    std::lock_guard lock(mutex_);
    if (closed_) return;
    fds_.push_back(std::move(fd));
    threads_.emplace_back([this, connection = fds_.size() - 1] { Serve(connection); });
  }
}

void HttpScript::Serve(size_t connection) {
  int fd = -1;
  {
    std::lock_guard lock(mutex_);
    fd = fds_[connection].get();
  }
  sockaddr_in in = {};
  socklen_t length = sizeof in;
  std::array<char, INET_ADDRSTRLEN> address{};
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&in), &length) != 0) Give("getsockname");
  inet_ntop(AF_INET, &in.sin_addr, address.data(), address.size());
  std::string held;
  while (true) {
    size_t end = 0;
    while ((end = held.find("\r\n\r\n")) == std::string::npos) {
      std::array<char, 4096> buffer;
      const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
      if (got <= 0) return;
      held.append(buffer.data(), static_cast<size_t>(got));
    }
    Request request{.head = held.substr(0, end + 4), .target = "", .address = address.data(), .connection = connection};
    held.erase(0, end + 4);
    const size_t begin = request.head.find(' ') + 1;
    request.target = request.head.substr(begin, request.head.find(' ', begin) - begin);
    {
      std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const std::string answer = handler_(request);
    if (answer.empty() || !SendAll(fd, answer)) {
      ::shutdown(fd, SHUT_RDWR);
      return;
    }
  }
}

void HttpScript::Send(size_t connection, std::string_view bytes) {
  int fd = -1;
  {
    std::lock_guard lock(mutex_);
    fd = fds_[connection].get();
  }
  if (!SendAll(fd, bytes)) Give("send");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (int left = INT_MAX; left >= static_cast<int>(bytes.size());) {  // no event tells of an acknowledgement
    if (::ioctl(fd, SIOCOUTQ, &left) != 0 || std::chrono::steady_clock::now() > deadline) Give("SIOCOUTQ");
    std::this_thread::yield();
  }
}

void HttpScript::Close() {
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
  }
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  for (const UniqueFd& fd : fds_) ::shutdown(fd.get(), SHUT_RDWR);
  for (std::thread& thread : threads_) thread.join();
  listener_.Reset();
  for (UniqueFd& fd : fds_) fd.Reset();
}

std::string HttpScript::Part(const Request& request, std::string_view object, std::string_view fields) {
  const std::string range = request.Field("Range");
  unsigned long long first = 0, last = object.size() - 1;
  const bool ranged = std::sscanf(range.c_str(), "bytes=%llu-%llu", &first, &last) == 2;
  last = std::min<unsigned long long>(last, object.size() - 1);
  std::string answer = ranged ? "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " + std::to_string(first) + "-" +
                                    std::to_string(last) + "/" + std::to_string(object.size()) + "\r\n"
                              : "HTTP/1.1 200 OK\r\n";
  answer.append(fields).append("Content-Length: ").append(std::to_string(last - first + 1)).append("\r\n\r\n");
  return answer.append(object.substr(first, last - first + 1));
}

std::string HttpScript::Found(std::string_view location) {
  return std::string("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ").append(location).append("\r\n\r\n");
}

std::string HttpScript::Status(int code) {
  return "HTTP/1.1 " + std::to_string(code) + " Because\r\nContent-Length: 0\r\n\r\n";
}

}  // namespace devmem
