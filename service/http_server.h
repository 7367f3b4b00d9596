// SPDX-License-Identifier: Apache-2.0
// HttpServer: a few pages over HTTP/1.1, on a TCP address or a unix socket, for monitoring. One GET a connection, each under
// deadlines, no more than kMostConnections at once: whoever asks cannot hold more than that, nor anybody up for long.
//
//   DEVMEM_ASSIGN_OR_RETURN(HttpAddress address, HttpAddress::Parse("127.0.0.1:9464"));
//   DEVMEM_ASSIGN_OR_RETURN(auto server, HttpServer::Bind(address, {}));   // refuses now what cannot be bound
//   DEVMEM_RETURN_IF_ERROR(server->Serve([](const std::string& path, HttpServer::Reply reply) {
//     reply({.status = 200, .body = "serving\n"});                        // now, or later from any thread
//   }));
//
// Two processes of one user can have the same TCP address for a while, so that one can follow the other without a gap: the
// second binds with `share`, calls Listen() when the first is about to go (connections wait from then on), and Serve(). On a
// unix socket the file passes from one to the other in Serve().
//
// Threads: Bind, Listen, Serve and the destructor belong to one thread. The handler is called on the server's own; it must not
// block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace devmem {

struct HttpAddress {
  std::string host;  // a literal, without brackets; empty: every address of this machine
  uint16_t port = 0;
  std::string path;  // of a unix socket; not empty: all else is unused

  // "HOST:PORT" with a literal ("127.0.0.1:9464", "[::1]:9464", ":9464") or "unix:PATH". kInvalidArgument for anything else.
  // IPv4 may have brackets too, so that "[$ADDRESS]:9464" is right whatever the address's family (a pod's).
  static absl::StatusOr<HttpAddress> Parse(std::string_view text);
  [[nodiscard]] std::string ToString() const;
};

class HttpServer {
 public:
  static constexpr size_t kMostConnections = 32;

  struct Options {
    bool share = false;           // the address may be another process's of ours, which is about to end
    uint32_t socket_mode = 0660;  // of a unix socket
  };
  struct Answer {
    int status = 200;
    std::string type = "text/plain; charset=utf-8";
    std::string body;
  };
  using Reply = std::function<void(Answer answer)>;  // once, from any thread; may outlive the server
  using Handler = std::function<void(const std::string& path, Reply reply)>;

  // kAlreadyExists if the address is taken; other errors name it and why it cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Bind(const HttpAddress& address, const Options& options);
  virtual ~HttpServer() = default;  // closes every connection; a unix socket's file goes, unless it is another's by now

  // Lets connections come, which wait for Serve().
  [[nodiscard]] virtual absl::Status Listen() = 0;
  // Listens, if need be, and answers. What is not GET is answered 405 without asking the handler.
  [[nodiscard]] virtual absl::Status Serve(Handler handler) = 0;
  // With the port that was given where 0 was asked for.
  [[nodiscard]] virtual const HttpAddress& address() const = 0;
};

}  // namespace devmem
