// SPDX-License-Identifier: Apache-2.0
#include "service/cli/log.h"

#include <fcntl.h>
#include <spdlog/logger.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem::cli {
namespace {

std::string OneLine(std::string_view text) {
  std::string line;
  line.reserve(text.size() + 1);
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      line += c;
    } else {
      std::array<char, 8> escaped;
      std::snprintf(escaped.data(), escaped.size(), "\\x%02x", byte);
      line += escaped.data();
    }
  }
  line += '\n';
  return line;
}

}  // namespace

bool LineSink::WriteLine(const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t formatted;
  formatter_->format(message, formatted);
  std::string_view text(formatted.data(), formatted.size());
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  std::string line = OneLine(text);
  if (torn_) line.insert(0, "\n");
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = write_(line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      reason_ = n < 0 ? std::strerror(errno) : "nothing was written";
      torn_ = torn_ || done > 0;
      return false;
    }
    done += static_cast<size_t>(n);
  }
  torn_ = false;
  return true;
}

void LineSink::sink_it_(const spdlog::details::log_msg& message) {
  if (dropped_ > 0) {
    const std::string note = absl::StrCat(dropped_, " lines of this log were lost: ", reason_);
    if (!WriteLine(spdlog::details::log_msg(message.time, {}, message.logger_name, spdlog::level::warn, note))) {
      ++dropped_;
      return;
    }
    dropped_ = 0;
  }
  if (!WriteLine(message)) ++dropped_;
}

absl::Status SetUpLog(const std::string& file, const std::string& level) {
  int fd = STDERR_FILENO;
  if (!file.empty()) {
    fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0) {
      return ErrnoError(errno, absl::StrCat("--log-file: cannot write ", file),
                        {.object = file, .action = "name a file that can be written"});
    }
  }
  // The descriptor stays open as long as the process: the last line may be written by its last thread.
  auto sink = std::make_shared<LineSink>([fd](const char* data, size_t size) { return ::write(fd, data, size); });
  auto logger = std::make_shared<spdlog::logger>("devmem", std::move(sink));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->set_error_handler([](const std::string&) {});  // a message that cannot be formatted is dropped, too
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

}  // namespace devmem::cli
