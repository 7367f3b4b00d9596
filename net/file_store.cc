// SPDX-License-Identifier: Apache-2.0
#include "net/file_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/http_fields.h"
#include "net/object_name.h"
#include "net/uri.h"

namespace devmem {
namespace {

constexpr uint64_t kMaxSmallRead = uint64_t{64} << 20;  // SmallRead's contract
constexpr size_t kReadsPerThread = 8;                   // below this a thread costs more than it saves
constexpr size_t kObjectsPerProgress = 256;

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, DirCloser>;

absl::Status FileError(int error, std::string_view what, const std::string& path) {
  if (error == ENOENT || error == ENOTDIR) {
    return ErrnoError(
        ENOENT, what,
        {.object = path, .fault = FaultOfFile(error), .action = "check the path, and that it exists on the daemon's host"});
  }
  if (error == EACCES || error == EPERM) {
    return ErrnoError(error, what,
                      {.object = path,
                       .fault = FaultOfFile(error),
                       .action = "give the daemon's user the right to read it, or open a folder below"});
  }
  return ErrnoError(error, what, {.object = path, .action = "check the file system"});
}

absl::Status Cancelled(std::string_view what) {
  return MakeError(absl::StatusCode::kCancelled, "cancelled by the caller",
                   {.object = std::string(what), .cause = "cancelled"});
}

absl::Status DeadlinePassed(std::string_view what, const char* doing) {
  return MakeError(absl::StatusCode::kDeadlineExceeded, std::string("the deadline passed while ") + doing,
                   {.object = std::string(what),
                    .fault = Fault::kTimeout,
                    .cause = "deadline",
                    .action = "allow more time, or check the file system"});
}

class FileStore final : public ObjectStore {
 public:
  FileStore(const StoreUri& uri, const StoreOptions& options)
      : uri_(uri.text),
        directory_(uri.directory == "/" ? "" : uri.directory),
        portable_validators_(options.portable_validators),
        memory_(options.memory) {}

  const std::string& uri() const override { return uri_; }
  absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const override;
  absl::Status ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline, const ProgressFn& progress) const override;
  absl::StatusOr<PayloadRequest> PrepareGet(std::string_view object) const override;

 private:
  struct Folder {
    dev_t device;
    ino_t inode;
  };
  struct Walk {
    Time deadline;
    const ProgressFn& progress;
    ObjectTable objects;
    std::vector<Folder> ancestors;
    uint64_t entries = 0;
  };

  absl::Status WalkFolder(const std::string& below, Walk& walk) const;
  absl::Status ReadOne(SmallRead& read) const;
  std::string ValidatorOf(const struct stat& file) const {
    return portable_validators_ ? HttpDate(file.st_mtim.tv_sec) : FileValidator(file);
  }

  std::string uri_;
  std::string directory_;
  bool portable_validators_;
  std::shared_ptr<MemoryAccount> memory_;
};

absl::StatusOr<ObjectTable> FileStore::List(Time deadline, const ProgressFn& progress) const {
  Walk walk{deadline, progress, ObjectTable(memory_), {}};
  DEVMEM_RETURN_IF_ERROR(WalkFolder("", walk));
  DEVMEM_RETURN_IF_ERROR(walk.objects.SortByName());
  DEVMEM_RETURN_IF_ERROR(walk.objects.DropRepeats(uri_));
  return std::move(walk.objects);
}

// `below` is empty or ends with '/'.
absl::Status FileStore::WalkFolder(const std::string& below, Walk& walk) const {
  const std::string path = directory_ + "/" + below;
  if (walk.ancestors.size() > kMaxFolderDepth) return TooDeep(path);
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat self;
  if (!fd.valid()) {
    const int error = errno;
    if (below.empty() && error == ENOTDIR && ::stat(directory_.c_str(), &self) == 0) {
      if (S_ISREG(self.st_mode)) return NotAFolder(uri_);
      return ErrnoError(ENOTDIR, "it is no folder", {.object = directory_, .action = "give the folder that holds the data"});
    }
    return FileError(error, "the folder cannot be opened", path);
  }
  if (::fstat(fd.get(), &self) != 0) return FileError(errno, "the folder cannot be examined", path);
  for (const Folder& folder : walk.ancestors) {
    if (folder.device == self.st_dev && folder.inode == self.st_ino) return absl::OkStatus();  // a link to where we came from
  }
  // Names first, so that one descriptor is open however deep the folders are.
  std::vector<std::string> folders;
  HeldMemory held(memory_);  // for them
  {
    const int folder_fd = fd.get();
    Dir dir(::fdopendir(folder_fd));
    if (dir == nullptr) return FileError(errno, "the folder cannot be read", path);
    (void)fd.Release();  // closedir closes it
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(dir.get());
      if (entry == nullptr) {
        if (errno != 0) return FileError(errno, "the folder cannot be read", path);
        break;
      }
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (++walk.entries % kObjectsPerProgress == 0) {
        if (Clock::now() > walk.deadline) return DeadlinePassed(uri_, "the folder was listed");
        if (walk.progress && !walk.progress(walk.objects.size(), 0)) return Cancelled(uri_);
      }
      struct stat file;
      if (::fstatat(folder_fd, entry->d_name, &file, 0) != 0) {
        // A file that went away, or a dangling link: there is no such object.
        if (errno == ENOENT || errno == ELOOP) continue;
        return FileError(errno, "the file cannot be examined", path + entry->d_name);
      }
      std::string object = below + entry->d_name;
      if (S_ISDIR(file.st_mode)) {
        DEVMEM_RETURN_IF_ERROR(held.Add(2 * sizeof(std::string) + object.size() + 1));
        folders.push_back(std::move(object) + "/");
      } else if (S_ISREG(file.st_mode)) {
        if (walk.objects.size() >= kMaxObjects) return TooManyObjects(uri_);
        const std::string validator = ValidatorOf(file);
        DEVMEM_RETURN_IF_ERROR(walk.objects.MakeRoom(object.size(), validator.size()));
        walk.objects.Add(object, static_cast<uint64_t>(file.st_size), validator);
      }
    }
  }
  walk.ancestors.push_back({self.st_dev, self.st_ino});
  for (const std::string& folder : folders) DEVMEM_RETURN_IF_ERROR(WalkFolder(folder, walk));
  walk.ancestors.pop_back();
  return absl::OkStatus();
}

absl::Status FileStore::ReadOne(SmallRead& read) const {
  DEVMEM_RETURN_IF_ERROR(CheckObjectName(read.object, uri_));
  const std::string path = directory_ + "/" + read.object;
  if (read.length > kMaxSmallRead) {
    return MakeError(absl::StatusCode::kInvalidArgument, "a small read is 64 MiB at most",
                     {.object = path, .offset = read.offset, .length = read.length, .cause = "read too long"});
  }
  // O_NONBLOCK: opening a FIFO must not hang.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return FileError(errno, "the file cannot be opened", path);
  struct stat file;
  if (::fstat(fd.get(), &file) != 0) return FileError(errno, "the file cannot be examined", path);
  if (!S_ISREG(file.st_mode)) {
    return MakeError(
        absl::StatusCode::kNotFound, "it is not a regular file",
        {.object = path, .fault = Fault::kObjectMalformed, .cause = "not a regular file", .action = "name a file"});
  }
  const std::string opened = FileValidator(file);  // to the nanosecond, whatever is given out
  read.object_validator = ValidatorOf(file);
  read.object_modified = file.st_mtim.tv_sec;
  read.object_size = static_cast<uint64_t>(file.st_size);
  absl::Status changed = MakeError(absl::StatusCode::kAborted, "the file changed since it was listed",
                                   {.object = path,
                                    .fault = Fault::kObjectChanged,
                                    .cause = "object changed",
                                    .action = "open the bucket again when nobody writes to it"});
  if (!read.validator.empty() && !FileMatches(file, read.validator)) return changed;
  if (read.offset >= read.object_size) return absl::OkStatus();
  const uint64_t length = std::min(read.length, read.object_size - read.offset);
  read.memory = HeldMemory(memory_);
  DEVMEM_RETURN_IF_ERROR(read.memory.Resize(length));
  try {  // on a thread of its own, where nobody else would catch it
    read.bytes.resize(length);
  } catch (const std::bad_alloc&) {
    return MakeError(absl::StatusCode::kResourceExhausted, "out of memory",
                     {.object = path, .fault = Fault::kMemoryLimit, .cause = "out of memory"});
  }
  for (size_t done = 0; done < read.bytes.size();) {
    const ssize_t got =
        ::pread(fd.get(), read.bytes.data() + done, read.bytes.size() - done, static_cast<off_t>(read.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(errno, "the file cannot be read", path);
    if (got == 0) return changed;  // truncated under us
    done += static_cast<size_t>(got);
  }
  if (::fstat(fd.get(), &file) != 0) return FileError(errno, "the file cannot be examined", path);
  return FileValidator(file) == opened ? absl::OkStatus() : changed;
}

absl::Status FileStore::ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline, const ProgressFn& progress) const {
  std::atomic<size_t> next = 0;
  std::atomic<size_t> done = 0;
  std::atomic<bool> cancelled = false;
  const auto work = [&](const ProgressFn* report) {
    for (size_t i; (i = next.fetch_add(1)) < reads.size();) {
      SmallRead& read = reads[i];
      read.bytes = {};
      read.memory.Clear();
      read.object_size = 0;
      read.object_validator.clear();
      if (cancelled) {
        read.status = Cancelled(read.object);
      } else if (Clock::now() > deadline) {
        read.status = DeadlinePassed(read.object, "files were read");
      } else {
        read.status = ReadOne(read);
      }
      if (!read.status.ok()) {
        read.bytes = {};
        read.memory.Clear();
      }
      const size_t finished = done.fetch_add(1) + 1;
      if (report != nullptr && !(*report)(finished, reads.size())) cancelled = true;
    }
  };
  const size_t wanted = std::min<size_t>(reads.size() / kReadsPerThread, static_cast<size_t>(std::clamp(parallel, 1, 64)) - 1);
  std::vector<std::thread> threads;
  try {
    for (size_t i = 0; i < wanted; ++i) threads.emplace_back(work, nullptr);
  } catch (const std::system_error&) {
    // No more threads to be had: those there are, and this one, do it all.
  }
  work(progress ? &progress : nullptr);
  for (std::thread& thread : threads) thread.join();
  return cancelled ? Cancelled(uri_) : absl::OkStatus();
}

absl::StatusOr<PayloadRequest> FileStore::PrepareGet(std::string_view object) const {
  DEVMEM_RETURN_IF_ERROR(CheckObjectName(object, uri_));
  return PayloadRequest{.file_path = directory_ + "/" + std::string(object)};
}

}  // namespace

Fault FaultOfFile(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return Fault::kObjectGone;
    case EACCES:
    case EPERM:
      return Fault::kForbidden;
    default:
      return Fault::kUnspecified;  // ErrnoError() may know more
  }
}

std::string FileValidator(const struct stat& file) {
  const int64_t mtime_ns = static_cast<int64_t>(file.st_mtim.tv_sec) * 1'000'000'000 + file.st_mtim.tv_nsec;
  return "\"" + std::to_string(file.st_ino) + "-" + std::to_string(mtime_ns) + "-" + std::to_string(file.st_size) + "\"";
}

bool FileMatches(const struct stat& file, std::string_view validator) {
  return validator == (IsHttpDate(validator) ? HttpDate(file.st_mtim.tv_sec) : FileValidator(file));
}

std::unique_ptr<ObjectStore> MakeFileStore(const StoreUri& uri, const StoreOptions& options) {
  return std::make_unique<FileStore>(uri, options);
}

}  // namespace devmem
