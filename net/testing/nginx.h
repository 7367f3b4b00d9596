// SPDX-License-Identifier: Apache-2.0
// NginxServer: a real nginx for tests, on an ephemeral port of 127.0.0.1 and ::1, serving a folder with
// `autoindex_format json`. Its own temporary folder holds configuration and logs and goes away with it; the process
// is stopped by its pid, and dies with the test. One thread at a time.
//
//   auto nginx = NginxServer::Start({.root = root});
//   ASSERT_TRUE(nginx.ok()) << nginx.status();
//   OpenStore((*nginx)->url() + "train/", {});
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace devmem {

class NginxServer {
 public:
  struct Options {
    std::filesystem::path root;  // served at "/"
    std::string server_config;   // more directives for the server block: "location = /busy { return 503; }"
    std::string http_config;     // and for the http block
    bool autoindex = true;
  };

  [[nodiscard]] static absl::StatusOr<std::unique_ptr<NginxServer>> Start(Options options);
  ~NginxServer();
  NginxServer(const NginxServer&) = delete;
  NginxServer& operator=(const NginxServer&) = delete;

  [[nodiscard]] uint16_t port() const { return port_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/"; }
  [[nodiscard]] std::string url6() const { return "http://[::1]:" + std::to_string(port_) + "/"; }
  [[nodiscard]] std::filesystem::path access_log() const { return folder_ / "access.log"; }
  [[nodiscard]] std::filesystem::path error_log() const { return folder_ / "error.log"; }

  // At once: open connections are cut. Then Restart serves on the same port again, with another configuration if
  // one is given to SetServerConfig first.
  void Stop();
  [[nodiscard]] absl::Status Restart();
  void SetServerConfig(std::string server_config) { options_.server_config = std::move(server_config); }

 private:
  explicit NginxServer(Options options) : options_(std::move(options)) {}
  absl::Status Launch();

  Options options_;
  std::filesystem::path folder_;
  uint16_t port_ = 0;
  pid_t pid_ = -1;
};

}  // namespace devmem
