// SPDX-License-Identifier: Apache-2.0
#include "net/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "net/byte_stream.h"
#include "net/file_store.h"

namespace devmem {
namespace {

// A read of page-cached data runs inside the submission: short enough not to hold up the sockets beside it.
constexpr uint64_t kPiece = 1 << 20;

}  // namespace

struct FileReader::Task final : Reactor::Operation {
  RangeRead* read;
  Reactor* reactor;
  UniqueFd fd;
  Scatter scatter;
  uint64_t position = 0;
  bool cancelled = false;
  std::array<iovec, 256> pieces;
  std::array<std::byte, 64 << 10> waste;

  absl::Status CheckVersion() const {
    struct stat now;
    if (fstat(fd.get(), &now) != 0) return ErrnoError(errno, "fstat", {.object = read->object});
    if (static_cast<uint64_t>(now.st_size) == read->object_size &&
        (read->validator.empty() || read->validator == FileValidator(now)))
      return absl::OkStatus();
    return MakeError(absl::StatusCode::kAborted, "the file changed after it was listed",
                     {.object = read->object,
                      .offset = read->offset,
                      .length = read->length,
                      .cause = "object changed",
                      .action = "open the stream again"});
  }

  void Next() {
    if (cancelled) return End(absl::CancelledError("the read was cancelled"));
    if (scatter.remaining() == 0) return End(CheckVersion());
    const absl::StatusOr<size_t> count = scatter.Fill(pieces, kPiece, waste);
    if (!count.ok()) return End(count.status());
    ++read->requests;
    reactor->ReadFile(fd.get(), pieces.data(), *count, position, this);
  }

  void Complete(int result) override {
    if (result == -EINTR || result == -EAGAIN) return Next();
    if (result < 0)
      return End(ErrnoError(-result, "read", {.object = read->object, .offset = read->offset, .length = read->length}));
    if (result == 0) {
      const absl::Status version = CheckVersion();
      return End(!version.ok() ? version
                               : MakeError(absl::StatusCode::kDataLoss, "the file ended early",
                                           {.object = read->object, .offset = position}));
    }
    const auto bytes = static_cast<uint64_t>(result);
    if (read->first_byte == Time{}) read->first_byte = Clock::now();
    read->received += bytes;
    position += bytes;
    scatter.Advance(bytes);
    Next();
  }

  void End(absl::Status status) {
    RangeRead* const done = read;
    done->status = std::move(status);
    done->transport_state = nullptr;
    delete this;
    done->Done();
  }
};

void FileReader::Start(RangeRead* read, const std::string& path) {
  auto* const task = new Task;  // deleted in End
  task->read = read;
  task->reactor = &reactor_;
  task->position = read->offset;
  task->scatter = Scatter(read->destinations, 0);
  read->transport_state = task;
  task->fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  absl::Status ready;
  if (!task->fd.valid()) {
    const int error = errno;
    ErrorInfo info{.object = read->object, .offset = read->offset, .length = read->length};
    if (error == ENOENT) info.action = "the file vanished after it was listed; open the stream again";
    if (error == EMFILE) info.action = "raise the limit (ulimit -n)";
    ready = ErrnoError(error, absl::StrCat("open ", path), info);
  } else {
    ready = task->CheckVersion();
  }
  // Never Done() inside Start().
  reactor_.Post([task, ready] {
    if (!ready.ok()) return task->End(ready);
    task->Next();
  });
}

void FileReader::Cancel(RangeRead* read) {
  if (read->transport_state != nullptr) static_cast<Task*>(read->transport_state)->cancelled = true;
}

}  // namespace devmem
