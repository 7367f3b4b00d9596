// SPDX-License-Identifier: Apache-2.0
// The trainer's side of devmem-loader in C++.
//
//   devmem::StreamSpec spec;                       // = devmem_loader.v1.StreamSpec
//   spec.set_bucket("http://10.0.0.5/train/");
//   DEVMEM_ASSIGN_OR_RETURN(auto client, devmem::Client::Connect("unix:/run/devmem-loader/loader.sock", {}));
//   DEVMEM_ASSIGN_OR_RETURN(auto stream, client->OpenStream(spec, {}));
//   while (true) {
//     DEVMEM_ASSIGN_OR_RETURN(devmem::Event event, stream->Next(deadline));
//     if (event.kind == devmem::Event::kStreamEnd) break;
//     if (event.kind == devmem::Event::kEpochEnd) continue;
//     Use(event.batch.tensor(0).data());           // released when event.batch is destroyed
//   }
//
// Delivered means returned by Next(): each batch exactly once, also when the daemon dies in between and the stream
// resumes on a new one (StreamOptions::reconnect). Batches in hand stay mapped and readable after that.
//
// Threads: Client is thread-safe. Next() is for one thread at a time; batches may be destroyed on any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "devmem_loader/v1/loader.pb.h"

// Names live in devmem::client, inline: devmem::Stream is enough, and devmem::client::Event tells ours from the device's
// where a program (the CLI) includes both.
namespace devmem {
inline namespace client {

using StreamSpec = devmem_loader::v1::StreamSpec;
using Cursor = devmem_loader::v1::Cursor;

// A tensor of a batch, in mapped slab memory. Valid while its Batch lives.
class TensorView {
 public:
  TensorView(const devmem_loader::v1::Tensor* tensor, std::byte* data) : tensor_(tensor), data_(data) {}
  [[nodiscard]] const std::string& name() const { return tensor_->name(); }
  [[nodiscard]] devmem_loader::v1::DType dtype() const { return tensor_->dtype(); }
  [[nodiscard]] std::span<const int64_t> shape() const {
    return {tensor_->shape().data(), static_cast<size_t>(tensor_->shape_size())};
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, tensor_->bytes()}; }

 private:
  const devmem_loader::v1::Tensor* tensor_;
  std::byte* data_;
};

// One batch; destroying it (or calling Release) gives its slot back to the daemon.
class Batch {
 public:
  Batch();
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;
  ~Batch();
  void Release();

  [[nodiscard]] const devmem_loader::v1::Batch& info() const;  // sequence, epoch, sample ids, padding, stall, sources
  [[nodiscard]] const Cursor& cursor() const { return info().cursor(); }
  [[nodiscard]] size_t tensors() const { return static_cast<size_t>(info().tensors_size()); }
  [[nodiscard]] TensorView tensor(size_t index) const;

 private:
  friend class StreamImpl;
  struct State;
  explicit Batch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct Event {
  enum Kind { kBatch, kEpochEnd, kStreamEnd };
  Kind kind = kStreamEnd;
  Batch batch;                              // kBatch
  devmem_loader::v1::EpochEnd epoch_end;    // kEpochEnd
  devmem_loader::v1::StreamEnd stream_end;  // kStreamEnd
};

struct ConnectOptions {
  Duration timeout = std::chrono::seconds(5);
};

struct StreamOptions {
  Duration open_timeout = std::chrono::minutes(5);  // listing and header reads included
  bool reconnect = true;                            // resume by cursor when the daemon goes away
  Duration reconnect_timeout = std::chrono::seconds(60);
  std::function<void(const devmem_loader::v1::OpenProgress&)> progress;  // on some thread of the client's
  std::function<void(const absl::Status& why)> on_reconnect;             // before each attempt
};

class Stream {
 public:
  virtual ~Stream() = default;  // cancels what is left; batches in hand stay valid
  [[nodiscard]] virtual const devmem_loader::v1::StreamOpened& opened() const = 0;
  // The next event. kDeadlineExceeded loses nothing: call again. Any other error is final, and after
  // kStreamEnd every call is kOutOfRange.
  [[nodiscard]] virtual absl::StatusOr<Event> Next(Time deadline) = 0;
  // After the last delivered batch: what to save and to put into StreamSpec.resume.
  [[nodiscard]] virtual Cursor cursor() const = 0;
  // Makes a Next() under way, and all later ones, return kCancelled. Thread-safe.
  virtual void Cancel() = 0;
};

// The socket's path of a service given as "unix:/path" or "/path"; kInvalidArgument for anything else.
[[nodiscard]] absl::StatusOr<std::string> ServicePath(std::string_view service);

class Client {
 public:
  // `service` is "unix:/path" or "/path". kUnavailable if no daemon listens, kPermissionDenied if the socket may not be opened.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(std::string_view service, const ConnectOptions& options);
  virtual ~Client() = default;
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Stream>> OpenStream(const StreamSpec& spec,
                                                                           const StreamOptions& options) = 0;
  [[nodiscard]] virtual absl::StatusOr<devmem_loader::v1::GetNodeStatusResponse> GetNodeStatus(Time deadline) = 0;
};

}  // namespace client
}  // namespace devmem
