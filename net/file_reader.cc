// SPDX-License-Identifier: Apache-2.0
#include "net/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "net/byte_stream.h"
#include "net/file_store.h"
#include "net/object_pins.h"
#include "net/staged_move.h"

namespace devmem {
namespace {

// A read of page-cached data runs inside the submission: short enough not to hold up the sockets beside it.
constexpr uint64_t kPiece = 1 << 20;

}  // namespace

// To memory that the CPU cannot write: read into staging memory, a chunk while the device empties the one before.
struct FileReader::Staged {
  Staged(StagingPool& pool, StagedMove::Owner& owner) : move(pool, owner) {}
  StagedMove move;
  Scatter part;                       // of a chunk, being read
  absl::Status failure;               // of the device
  std::optional<absl::Status> ended;  // to be told when the device has let go
};

struct FileReader::Task final : Reactor::Operation, StagedMove::Owner {
  FileReader* reader;
  RangeRead* read;
  std::string path;
  std::list<Task*>::iterator place;
  bool queued = true;
  bool cancelled = false;
  // From here on what an open file needs.
  UniqueFd fd;
  std::string opened;  // which content, to the nanosecond
  Scatter scatter;
  uint64_t position = 0;
  std::unique_ptr<std::array<iovec, 256>> pieces;
  std::unique_ptr<Staged> staged;  // null: straight into the destinations

  [[nodiscard]] ErrorInfo Where() const { return {.object = read->object, .offset = read->offset, .length = read->length}; }

  absl::Status CheckVersion() {
    struct stat now;
    if (fstat(fd.get(), &now) != 0) return ErrnoError(errno, "fstat", Where());
    ErrorInfo info = Where();
    if (!S_ISREG(now.st_mode)) {
      info.fault = Fault::kObjectChanged;
      info.cause = "not a regular file";
      info.action = "the file was replaced after it was listed; open the stream again";
      return MakeError(absl::StatusCode::kFailedPrecondition, "it is not a regular file", info);
    }
    const std::string content = FileValidator(now);
    if (opened.empty() && static_cast<uint64_t>(now.st_size) == read->object_size &&
        (read->validator.empty() || FileMatches(now, read->validator))) {
      // A listing by date tells no two versions of a second apart; what the stream read of the file before does.
      if (read->pins == nullptr || read->pins->Pin(read->pin, content) == content) opened = content;
    }
    if (opened == content) return absl::OkStatus();
    info.fault = Fault::kObjectChanged;
    info.cause = "object changed";
    info.action = "open the stream again";
    return MakeError(absl::StatusCode::kAborted, "the file changed after it was listed", info);
  }

  void Next() {
    if (cancelled) return End(absl::CancelledError("the read was cancelled"));
    if (staged != nullptr && !staged->failure.ok()) return End(staged->failure);
    if (scatter.remaining() == 0) return End(CheckVersion());
    Scatter* into = &scatter;
    if (staged != nullptr) {
      into = &staged->part;
      if (into->remaining() == 0) {
        const auto places = staged->move.Next();
        if (!places.ok()) return End(places.status());
        if (places->empty()) return;  // OnRoom
        *into = Scatter(*places, 0);
      }
    }
    const absl::StatusOr<size_t> count = into->Fill(*pieces, kPiece, Waste());
    if (!count.ok()) return End(count.status());
    ++read->requests;
    reader->reactor_.ReadFile(fd.get(), pieces->data(), *count, position, this);
  }

  void Complete(int result) override {
    if (result == -EINTR || result == -EAGAIN) return Next();
    if (result < 0) return End(ErrnoError(-result, "read", Where()));
    if (result == 0) {
      const absl::Status version = CheckVersion();
      return End(!version.ok() ? version
                               : MakeError(absl::StatusCode::kDataLoss, "the file ended early",
                                           {.object = read->object, .offset = position, .fault = Fault::kObjectChanged}));
    }
    const auto bytes = static_cast<uint64_t>(result);
    if (read->first_byte == Time{}) read->first_byte = Clock::now();
    read->received += bytes;
    read->copied += bytes;
    position += bytes;
    if (staged == nullptr) {
      scatter.Advance(bytes);
    } else {
      staged->part.Advance(bytes);
      staged->move.Received(bytes);
    }
    Next();
  }

  void OnRoom() override { Next(); }
  void OnPlaced(uint64_t /*bytes*/, absl::Status status) override {
    if (staged->failure.ok()) staged->failure = WithObject(status, read->object);
    if (staged->ended.has_value() && staged->move.idle()) End(*std::exchange(staged->ended, std::nullopt));
  }

  void End(absl::Status status) {
    if (staged != nullptr) {
      staged->move.Stop();
      if (!staged->move.idle()) {
        staged->ended = std::move(status);
        return;
      }
      if (status.ok()) status = staged->failure;
    }
    RangeRead* const done = read;
    done->status = std::move(status);
    done->transport_state = nullptr;
    if (fd.valid()) {
      --reader->open_;
      reader->SchedulePump();
    }
    delete this;
    done->Done();
  }
};

void FileReader::Start(RangeRead* read, const std::string& path) {
  auto* const task = new Task;  // deleted in End
  task->reader = this;
  task->read = read;
  task->path = path;
  task->place = queue_.insert(queue_.end(), task);
  read->transport_state = task;
  SchedulePump();  // never Done() inside Start()
}

void FileReader::SchedulePump() {
  if (pump_posted_ || queue_.empty()) return;
  pump_posted_ = true;
  reactor_.Post([this] {
    pump_posted_ = false;
    Pump();
  });
}

void FileReader::Pump() {
  // So many a round, that a queue of files that cannot be opened does not hold up the sockets.
  for (size_t i = 0; i < kMaxOpen; ++i) {
    if (queue_.empty() || open_ == kMaxOpen) return;
    Task* const task = queue_.front();
    queue_.pop_front();
    task->queued = false;
    if (!Begin(task)) {
      task->place = queue_.insert(queue_.begin(), task);
      task->queued = true;
      return;
    }
  }
  SchedulePump();
}

bool FileReader::Begin(Task* task) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  UniqueFd fd(::open(task->path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    const int error = errno;
    if ((error == EMFILE || error == ENFILE) && open_ > 0) return false;
    ErrorInfo info = task->Where();
    info.fault = FaultOfFile(error);
    if (error == ENOENT) info.action = "the file vanished after it was listed; open the stream again";
    if (error == EMFILE) info.action = "raise the limit (ulimit -n)";
    task->End(ErrnoError(error, absl::StrCat("open ", task->path), info));
    return true;
  }
  task->fd = std::move(fd);
  ++open_;
  if (const absl::Status ready = task->CheckVersion(); !ready.ok()) {
    task->End(ready);
    return true;
  }
  // io_uring takes O_NONBLOCK at its word, also where a file system then can only say EAGAIN.
  (void)::fcntl(task->fd.get(), F_SETFL, 0);
  task->pieces = std::make_unique<std::array<iovec, 256>>();
  task->position = task->read->offset;
  task->scatter = Scatter(task->read->destinations, 0);
  if (staging_ != nullptr) {
    task->staged = std::make_unique<Staged>(*staging_, *task);
    task->staged->move.Start(task->scatter);
  }
  task->Next();
  return true;
}

void FileReader::Cancel(RangeRead* read) {
  auto* const task = static_cast<Task*>(read->transport_state);
  if (task == nullptr || std::exchange(task->cancelled, true)) return;
  if (!task->queued) return;  // ends after the piece under way, or when it would have had staging memory
  queue_.erase(task->place);
  reactor_.Post([task] { task->End(absl::CancelledError("the read was cancelled")); });
}

}  // namespace devmem
