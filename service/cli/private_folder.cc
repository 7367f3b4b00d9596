// SPDX-License-Identifier: Apache-2.0
#include <sys/un.h>

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
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  const char* const temporary = std::getenv("TMPDIR");
  for (const char* parent : {runtime, temporary, "/tmp"}) {
    if (parent == nullptr || *parent == '\0') continue;
    std::string path = std::string(parent) + "/devmem-loader-XXXXXX";
    if ((path + kSocket + ".fd").size() >= sizeof(sockaddr_un::sun_path)) {
      error = ENAMETOOLONG;
      continue;
    }
    if (::mkdtemp(path.data()) != nullptr) return std::unique_ptr<PrivateFolder>(new PrivateFolder(std::move(path)));
    error = errno;
  }
  return ErrnoError(
      error, "making a private folder for the daemon's socket",
      {.object = "/tmp", .action = "make $XDG_RUNTIME_DIR, $TMPDIR or /tmp writable, or use a running daemon with --service"});
}

void PrivateFolder::Remove() {
  std::error_code ignored;  // what is left is an empty socket in a private folder
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace devmem::cli
