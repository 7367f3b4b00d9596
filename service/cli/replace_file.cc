// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "service/cli/index_verb.h"

namespace devmem::cli {
namespace {

absl::Status Failed(int error, const std::string& path) {
  return ErrnoError(
      error, absl::StrCat("writing ", path),
      {.object = path, .action = "make the folder writable and leave room, or name another file with --output-file"});
}

absl::Status WriteSynced(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed(errno, path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  if (::fchmod(fd, 0644) != 0 || ::fsync(fd) != 0) return Failed(errno, path);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReplaceFile(const std::string& path, std::string_view bytes) {
  const size_t slash = path.rfind('/');
  // Hidden, so that a listing that sees it in between takes it for no data.
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  std::string temporary = absl::StrCat(folder, ".devmem-index.tmp-XXXXXX");
  UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd.valid()) return Failed(errno, path);
  absl::Status status = WriteSynced(fd.get(), bytes, path);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) status = Failed(errno, path);
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

}  // namespace devmem::cli
