// SPDX-License-Identifier: Apache-2.0
// How the port is had without a race, and without waiting for nginx to be ready:
//   1. bind and listen here, port 0 on 127.0.0.1, then the same port on ::1;
//   2. write the configuration with that port;
//   3. fork and exec nginx with the listening sockets inherited and named in $NGINX, the way nginx hands them to its
//      own successor at an upgrade. It takes them as its `listen` sockets, and stays in the foreground.
// From 1 on connections are queued, so a test may connect as soon as Start returns.
#include "net/testing/nginx.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, for kill
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX, for mkdtemp
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"

namespace devmem {
namespace {

constexpr char kNginx[] = "/usr/sbin/nginx";

// A listening socket on loopback; `port` 0 takes a free one and is filled in.
absl::StatusOr<UniqueFd> Listen(int family, uint16_t& port) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoError(errno, "socket");
  const int on = 1;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_storage address = {};
  socklen_t length = 0;
  if (family == AF_INET6) {
    (void)::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    auto* const in6 = reinterpret_cast<sockaddr_in6*>(&address);
    in6->sin6_family = AF_INET6;
    in6->sin6_addr = in6addr_loopback;
    in6->sin6_port = htons(port);
    length = sizeof(*in6);
  } else {
    auto* const in = reinterpret_cast<sockaddr_in*>(&address);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in->sin_port = htons(port);
    length = sizeof(*in);
  }
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0) return ErrnoError(errno, "bind");
  if (::listen(fd.get(), 511) != 0) return ErrnoError(errno, "listen");
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return ErrnoError(errno, "getsockname");
  port = ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);  // the same place in both families
  return fd;
}

std::string Config(const NginxServer::Options& options, uint16_t port) {
  const std::string text = std::to_string(port);
  return std::string(::geteuid() == 0 ? "user root;\n" : "") +
         "worker_processes 1;\npid nginx.pid;\nevents { worker_connections 1024; }\nhttp {\n"
         "  default_type application/octet-stream;\n  access_log access.log;\n  sendfile on;\n  tcp_nodelay on;\n"
         "  keepalive_requests 1000000;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n"
         "  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n" +
         options.http_config + "\n  server {\n    listen 127.0.0.1:" + text + ";\n    listen [::1]:" + text + ";\n    root \"" +
         options.root.string() + "\";\n    autoindex " + (options.autoindex ? "on" : "off") +
         ";\n    autoindex_format json;\n    " + options.server_config + "\n  }\n}\n";
}

}  // namespace

absl::StatusOr<std::unique_ptr<NginxServer>> NginxServer::Start(Options options) {
  if (::access(kNginx, X_OK) != 0) return ErrnoError(errno, "nginx", {.object = kNginx, .action = "install nginx-light"});
  std::string folder = (std::filesystem::temp_directory_path() / "nginx_XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return ErrnoError(errno, "mkdtemp", {.object = folder});
  std::unique_ptr<NginxServer> server(new NginxServer(std::move(options)));
  server->folder_ = folder;
  DEVMEM_RETURN_IF_ERROR(server->Launch());
  return server;
}

absl::Status NginxServer::Launch() {
  UniqueFd v4, v6;
  // The port free for IPv4 may be taken for IPv6; then another one.
  for (int attempt = 0; !v6.valid(); ++attempt) {
    uint16_t port = port_;
    DEVMEM_ASSIGN_OR_RETURN(v4, Listen(AF_INET, port));
    auto second = Listen(AF_INET6, port);
    if (second.ok()) {
      v6 = *std::move(second);
      port_ = port;
    } else if (port_ != 0 || attempt == 20) {
      return std::move(second).status();
    }
  }
  const std::string config = (folder_ / "nginx.conf").string();
  std::ofstream(config) << Config(options_, port_);

  // Everything the child needs is made before the fork: other threads may hold the allocator's lock.
  const std::string prefix = folder_.string() + "/", log = error_log().string();
  const std::string inherited = "NGINX=" + std::to_string(v4.get()) + ";" + std::to_string(v6.get()) + ";";
  std::array<const char*, 8> argv = {kNginx, "-p", prefix.c_str(), "-e", log.c_str(), "-c", config.c_str(), nullptr};
  std::array<const char*, 3> environment = {inherited.c_str(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", nullptr};
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) return ErrnoError(errno, "fork");
  if (pid_ == 0) {
    // SIGTERM and not SIGKILL: the master must take its worker along.
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(1);
    ::fcntl(v4.get(), F_SETFD, 0);
    ::fcntl(v6.get(), F_SETFD, 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(kNginx, const_cast<char* const*>(argv.data()), const_cast<char* const*>(environment.data()));
    ::_exit(127);
  }
  return absl::OkStatus();
}

void NginxServer::Stop() {
  if (pid_ <= 0) return;
  // Again and again: a master that is just starting notes the signal and then sleeps until the next one.
  for (pid_t ended = 0; ended == 0 || (ended < 0 && errno == EINTR);) {
    ::kill(pid_, SIGTERM);
    ::poll(nullptr, 0, 5);
    ended = ::waitpid(pid_, nullptr, WNOHANG);
  }
  pid_ = -1;
}

absl::Status NginxServer::Restart() {
  Stop();
  return Launch();
}

NginxServer::~NginxServer() {
  Stop();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace devmem
