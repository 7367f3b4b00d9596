// SPDX-License-Identifier: Apache-2.0
#include "service/cli/print.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace devmem::cli {
namespace {

// Much of what is printed others have written: their names of objects, their answers. Only the lines' ends are ours.
std::string Shown(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    shown += Printable(text.substr(0, end), kShowAll);
    if (end == std::string_view::npos) break;
    shown += '\n';
    text.remove_prefix(end + 1);
  }
  return shown;
}

int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

}  // namespace

absl::Status PrintOut(std::string_view text) {
  const int error = WriteAll(STDOUT_FILENO, Shown(text));
  if (error == 0 || error == EPIPE) return absl::OkStatus();
  return ErrnoError(error, "writing to standard output", {.object = "stdout", .action = "make room where it goes"});
}

void PrintError(std::string_view text) { static_cast<void>(WriteAll(STDERR_FILENO, Shown(text))); }

int UsageExitCode(const absl::Status& status) {
  return status.code() == absl::StatusCode::kFailedPrecondition ? kExitConfiguration : kExitUsage;
}

}  // namespace devmem::cli
