// SPDX-License-Identifier: Apache-2.0
// A line of the log that is about something: an event by name, with fields that a program can look for, and the sentence that a
// person reads. In a text log only the sentence is written; in a JSON log all of it (docs/metrics.md).
//
//   LogEvent(spdlog::level::info, "stream_opened", {{"stream", id}, {"uid", uint64_t{uid}}}, absl::StrCat("stream ", id, ...));
//
// Thread-safe. The line is formatted on the calling thread, before LogEvent returns: spdlog's default logger is synchronous.
#pragma once

#include <spdlog/common.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"

namespace devmem {

struct LogField {
  std::string_view name;
  std::variant<std::string, uint64_t, double> value;
};

struct LogEventFields {
  std::string_view event;
  std::vector<LogField> fields;
};

void LogEvent(spdlog::level::level_enum level, std::string_view event, std::vector<LogField> fields, std::string_view message);

// Of the event whose line this thread is writing; null for a line without. For sinks.
[[nodiscard]] const LogEventFields* CurrentLogEvent();

// Lets so many lines through in a window of time, for what may come by the thousand. Thread-safe.
class LogLimit {
 public:
  LogLimit(uint64_t lines, Duration window) : lines_(lines), window_(window) {}

  // nullopt: not now. Else how many were kept back since the last that was let through.
  [[nodiscard]] std::optional<uint64_t> Admit(Time now) {
    std::lock_guard lock(mutex_);
    if (now >= window_ends_) {
      window_ends_ = now + window_;
      said_ = 0;
    }
    if (said_ >= lines_) {
      ++kept_back_;
      return std::nullopt;
    }
    ++said_;
    return std::exchange(kept_back_, 0);
  }

 private:
  const uint64_t lines_;
  const Duration window_;
  std::mutex mutex_;
  Time window_ends_{};      // guarded by mutex_
  uint64_t said_ = 0;       // in this window; guarded by mutex_
  uint64_t kept_back_ = 0;  // guarded by mutex_
};

}  // namespace devmem
