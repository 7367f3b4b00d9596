// SPDX-License-Identifier: Apache-2.0
#include "service/log_event.h"

#include <spdlog/spdlog.h>

namespace devmem {
namespace {

thread_local const LogEventFields* current = nullptr;

}  // namespace

const LogEventFields* CurrentLogEvent() { return current; }

void LogEvent(spdlog::level::level_enum level, std::string_view event, std::vector<LogField> fields, std::string_view message) {
  if (!spdlog::should_log(level)) return;
  const LogEventFields all{event, std::move(fields)};
  const LogEventFields* const outer = std::exchange(current, &all);
  spdlog::log(level, "{}", message);
  current = outer;
}

}  // namespace devmem
