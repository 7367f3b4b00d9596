// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "base/error.h"
#include "service/cli/private_daemon.h"

namespace devmem::cli {

absl::StatusOr<std::unique_ptr<PrivateFolder>> PrivateFolder::Make() {
  int error = 0;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  for (const std::string& parent : {std::string(runtime == nullptr ? "" : runtime), std::string("/tmp")}) {
    if (parent.empty()) continue;
    std::string path = parent + "/devmem-loader-XXXXXX";
    if (::mkdtemp(path.data()) != nullptr) return std::unique_ptr<PrivateFolder>(new PrivateFolder(std::move(path)));
    error = errno;
  }
  return ErrnoError(
      error, "making a private folder for the daemon's socket",
      {.object = "/tmp", .action = "make $XDG_RUNTIME_DIR or /tmp writable, or use a running daemon with --service"});
}

void PrivateFolder::Remove() {
  std::error_code ignored;  // what is left is an empty socket in a private folder
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace devmem::cli
