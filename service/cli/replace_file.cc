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

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed(errno, path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteSynced(int fd, std::string_view bytes, const std::string& path) {
  DEVMEM_RETURN_IF_ERROR(WriteAll(fd, bytes, path));
  if (::fchmod(fd, 0644) != 0 || ::fsync(fd) != 0) return Failed(errno, path);
  return absl::OkStatus();
}

// A device, a pipe, what a link leads to: it stays what it is, and gets the bytes.
absl::Status WriteInPlace(const std::string& path, std::string_view bytes) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC, 0644));
  if (!fd.valid()) return Failed(errno, path);
  DEVMEM_RETURN_IF_ERROR(WriteAll(fd.get(), bytes, path));
  // What has no storage cannot be synced.
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) return Failed(errno, path);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReplaceFile(const std::string& path, std::string_view bytes) {
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) return WriteInPlace(path, bytes);
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
