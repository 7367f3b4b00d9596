// SPDX-License-Identifier: Apache-2.0
// The log: spdlog's default logger, one line a message, to stderr or a file that is appended to. As JSON a line is an object
// with "ts" (UTC), "level", "message" and, where the message is a LogEvent()'s, "event" and its fields.
//
// A log that cannot be written must not stop a daemon: LineSink drops such lines, counts them, and says how many were
// lost as soon as a line gets through again. Control characters in messages (object names are others' bytes) are
// escaped, so that a message is always one line. Thread-safe.
#pragma once

#include <spdlog/sinks/base_sink.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "service/log_event.h"

namespace devmem::cli {

enum class LogFormat : uint8_t { kText, kJson };

class LineSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // As write(2): bytes written, or -1 with errno.
  using Write = std::function<ssize_t(const char* data, size_t size)>;
  explicit LineSink(Write write, LogFormat format = LogFormat::kText) : write_(std::move(write)), format_(format) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override {}
  // `event` may be null.
  bool WriteLine(const spdlog::details::log_msg& message, const LogEventFields* event);

  const Write write_;
  const LogFormat format_;
  uint64_t dropped_ = 0;
  bool torn_ = false;  // a line was cut off in its middle
  std::string reason_;
};

// Makes the default logger. `file` empty: stderr; `level`: debug, info, warning, error, off.
[[nodiscard]] absl::Status SetUpLog(const std::string& file, const std::string& level, LogFormat format = LogFormat::kText);

}  // namespace devmem::cli
