// SPDX-License-Identifier: Apache-2.0
#include "service/cli/log.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/logger.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/text.h"

namespace devmem::cli {
namespace {

// "2026-11-25T09:00:11.123Z"
std::string Timestamp(spdlog::log_clock::time_point time) {
  const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  const std::time_t seconds = since.count() / 1000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  std::array<char, 32> text;
  const size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::array<char, 8> milliseconds;
  std::snprintf(milliseconds.data(), milliseconds.size(), ".%03dZ", static_cast<int>(since.count() % 1000));
  return std::string(text.data(), length) + milliseconds.data();
}

std::string JsonLine(const spdlog::details::log_msg& message, const LogEventFields* event) {
  const auto level = spdlog::level::to_string_view(message.level);
  nlohmann::ordered_json line;
  line["ts"] = Timestamp(message.time);
  line["level"] = std::string(level.data(), level.size());
  if (event != nullptr) line["event"] = std::string(event->event);
  line["message"] = std::string(message.payload.data(), message.payload.size());
  if (event != nullptr) {
    for (const LogField& field : event->fields) {
      std::visit([&](const auto& value) { line[std::string(field.name)] = value; }, field.value);
    }
  }
  // Names of objects need not be UTF-8.
  return Printable(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), kShowAll) + '\n';
}

}  // namespace

bool LineSink::WriteLine(const spdlog::details::log_msg& message, const LogEventFields* event) {
  std::string line;
  if (format_ == LogFormat::kJson) {
    line = JsonLine(message, event);
  } else {
    spdlog::memory_buf_t formatted;
    formatter_->format(message, formatted);
    std::string_view text(formatted.data(), formatted.size());
    while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
    line = Printable(text, kShowAll) + "\n";
  }
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
    const std::string note =
        absl::StrCat(Counted(dropped_, "line of this log was", "lines of this log were"), " lost: ", reason_);
    if (!WriteLine(spdlog::details::log_msg(message.time, {}, message.logger_name, spdlog::level::warn, note), nullptr)) {
      ++dropped_;
      return;
    }
    dropped_ = 0;
  }
  if (!WriteLine(message, CurrentLogEvent())) ++dropped_;
}

namespace {

// Whoever reads our stderr may have stopped (a stuck log collector, a terminal held with Ctrl-S), and a daemon that waits for
// it serves nobody: after kPatience the line is lost, and counted. A pipe that is ready takes PIPE_BUF bytes without waiting.
ssize_t WriteSoon(int fd, const char* data, size_t size) {
  constexpr int kPatience = 100;  // ms
  pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
  const int polled = ::poll(&ready, 1, kPatience);
  if (polled < 0) return -1;
  if (polled == 0) {
    errno = EAGAIN;
    return -1;
  }
  return ::write(fd, data, std::min<size_t>(size, PIPE_BUF));
}

}  // namespace

absl::Status SetUpLog(const std::string& file, const std::string& level, LogFormat format) {
  int fd = STDERR_FILENO;
  if (!file.empty()) {
    fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0) {
      return ErrnoError(errno, absl::StrCat("--log-file: cannot write ", file),
                        {.object = file, .action = "name a file that can be written"});
    }
  }
  // The descriptor stays open as long as the process: the last line may be written by its last thread.
  auto sink = std::make_shared<LineSink>([fd](const char* data, size_t size) { return WriteSoon(fd, data, size); }, format);
  auto logger = std::make_shared<spdlog::logger>("devmem", std::move(sink));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->set_error_handler([](const std::string&) {});  // a message that cannot be formatted is dropped, too
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

}  // namespace devmem::cli
