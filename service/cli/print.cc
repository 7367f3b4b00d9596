// SPDX-License-Identifier: Apache-2.0
#include "service/cli/print.h"

#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace devmem::cli {
namespace {

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
  const int error = WriteAll(STDOUT_FILENO, text);
  if (error == 0 || error == EPIPE) return absl::OkStatus();
  return ErrnoError(error, "writing to standard output", {.object = "stdout", .action = "make room where it goes"});
}

void PrintError(std::string_view text) { static_cast<void>(WriteAll(STDERR_FILENO, text)); }

int UsageExitCode(const absl::Status& status) {
  return status.code() == absl::StatusCode::kFailedPrecondition ? kExitConfiguration : kExitUsage;
}

}  // namespace devmem::cli
