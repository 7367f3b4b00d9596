// SPDX-License-Identifier: Apache-2.0
// HttpScript: an HTTP server whose every answer the test writes, byte for byte. For what no real server can be made to do; a
// thread a connection. Answers after each other on a connection as long as it stays open.
//
//   HttpScript server([](const HttpScript::Request& request) { return HttpScript::Part(request, object, "ETag: \"a\"\r\n"); });
//   OpenStore(server.url(), {});
//   EXPECT_EQ(server.requests()[0].target, "/object.bin");
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace devmem {

class HttpScript {
 public:
  struct Request {
    std::string head;
    std::string target;
    std::string address;                                           // of ours that it came to: "127.0.0.2"
    size_t connection = 0;                                         // in the order they were accepted in
    [[nodiscard]] std::string Field(std::string_view name) const;  // its value; empty where there is none
  };
  // The bytes of the answer; none: the connection is closed without a word. On the connection's thread.
  using Handler = std::function<std::string(const Request&)>;

  explicit HttpScript(Handler handler, const std::string& address = "127.0.0.1", uint16_t port = 0);
  ~HttpScript() { Close(); }
  HttpScript(const HttpScript&) = delete;
  HttpScript& operator=(const HttpScript&) = delete;

  [[nodiscard]] uint16_t port() const { return port_; }
  [[nodiscard]] std::string url(std::string_view host = "127.0.0.1") const;
  [[nodiscard]] std::vector<Request> requests() const;
  [[nodiscard]] size_t connections() const;
  // Bytes that nobody asked for; returns when the other end's kernel has some of them.
  void Send(size_t connection, std::string_view bytes);
  // Stops listening and ends every connection.
  void Close();

  // 206 (or 200 without a Range) out of `object`; `fields` are whole lines.
  [[nodiscard]] static std::string Part(const Request& request, std::string_view object, std::string_view fields = "");
  [[nodiscard]] static std::string Found(std::string_view location);
  [[nodiscard]] static std::string Status(int code);

 private:
  void Accept();
  void Serve(size_t connection);

  const Handler handler_;
  UniqueFd listener_;
  uint16_t port_ = 0;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Request> requests_;
  std::vector<UniqueFd> fds_;
  std::vector<std::thread> threads_;
  bool closed_ = false;
  std::thread acceptor_;
};

}  // namespace devmem
