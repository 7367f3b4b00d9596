// SPDX-License-Identifier: Apache-2.0
// The trainer's side of devmem-loader in C++.
//
//   devmem::StreamSpec spec;                       // = devmem_loader.v1.StreamSpec
//   spec.set_bucket("http://10.0.0.5/train/");
//   DEVMEM_ASSIGN_OR_RETURN(auto client, devmem::Client::Connect("unix:/run/devmem-loader/loader.sock", {}));
//   DEVMEM_ASSIGN_OR_RETURN(auto stream, client->OpenStream(spec, {}));
//   while (true) {
//     DEVMEM_ASSIGN_OR_RETURN(devmem::client::Event event, stream->Next(deadline));
//     if (event.kind == devmem::client::Event::kStreamEnd) break;
//     if (event.kind == devmem::client::Event::kEpochEnd) continue;
//     Use(event.batch.tensor(0).bytes());          // released when event.batch is destroyed
//   }
//
// On a GPU, with ConnectOptions{.device = "cuda:0"}, a tensor has an address() for kernels and no bytes() for the CPU, and a
// batch is given back when the stream its kernels run on is done with it:
//
//   Train<<<grid, block, 0, cuda_stream>>>(event.batch.tensor(0).address(), ...);
//   DEVMEM_RETURN_IF_ERROR(event.batch.ReleaseAfter(cuda_stream));
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

namespace devmem {
class Device;  // gpu/device.h
class DeviceMemory;
}  // namespace devmem

// Names live in devmem::client, and all but one are devmem's too: devmem::Event is the device's (gpu/device.h).
namespace devmem::client {

using StreamSpec = devmem_loader::v1::StreamSpec;
using Cursor = devmem_loader::v1::Cursor;

// A tensor of a batch, in mapped slab memory. Valid while its Batch lives.
class TensorView {
 public:
  TensorView(const devmem_loader::v1::Tensor* tensor, Device* device, DeviceMemory* memory)
      : tensor_(tensor), device_(device), memory_(memory) {}
  [[nodiscard]] const std::string& name() const { return tensor_->name(); }
  [[nodiscard]] devmem_loader::v1::DType dtype() const { return tensor_->dtype(); }
  [[nodiscard]] std::span<const int64_t> shape() const {
    return {tensor_->shape().data(), static_cast<size_t>(tensor_->shape_size())};
  }
  [[nodiscard]] uint64_t size_bytes() const { return tensor_->bytes(); }
  // For code of the device: on a GPU a device pointer, which the CPU must not follow.
  [[nodiscard]] std::byte* address() const;
  // For the CPU. Empty where it cannot read them, on a GPU: host_visible() tells that from a tensor of no bytes.
  [[nodiscard]] std::span<std::byte> bytes() const;
  [[nodiscard]] bool host_visible() const;
  // Copies all of it to the host, wherever it lies, and waits for that: for looking at it, not for speed. kInvalidArgument if
  // `to` is not size_bytes() long.
  [[nodiscard]] absl::Status CopyTo(std::span<std::byte> to) const;

 private:
  const devmem_loader::v1::Tensor* tensor_;
  Device* device_;
  DeviceMemory* memory_;
};

// One batch; destroying it (or calling Release) gives its slot back to the daemon.
class Batch {
 public:
  Batch();
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) noexcept;
  ~Batch();
  void Release();  // at once: nothing may read it any more
  // Gives it back when all that was put on `cuda_stream` before is done: a cudaStream_t, null for the default stream. Comes
  // back at once, and the Batch is empty; after its Stream was destroyed, and there is nobody to see to it, it waits. On error
  // the batch is still held. On the CPU, which has no streams, the same as Release().
  [[nodiscard]] absl::Status ReleaseAfter(void* cuda_stream);

  [[nodiscard]] const devmem_loader::v1::Batch& info() const;  // sequence, epoch, sample ids, padding, stall, sources
  [[nodiscard]] const Cursor& cursor() const { return info().cursor(); }
  [[nodiscard]] size_t tensors() const { return static_cast<size_t>(info().tensors_size()); }
  [[nodiscard]] TensorView tensor(size_t index) const;

 private:
  friend class StreamImpl;
  struct State;
  class Parked;
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
  // Where this process maps slabs: "cpu", or "cuda:N" as this process counts (CUDA_VISIBLE_DEVICES). The daemon must serve
  // the same device; a StreamSpec that names none asks for this one, unless it is the CPU.
  std::string device = "cpu";
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
  // Cancels what is left; batches in hand stay valid. Waits for those that were given back with ReleaseAfter().
  virtual ~Stream() = default;
  [[nodiscard]] virtual const devmem_loader::v1::StreamOpened& opened() const = 0;
  // Of the listing the stream is of. Rank 0 hands it to the other ranks, which put it into StreamSpec.expect_fingerprint: a
  // rank that finds another listing does not open, rather than read other samples. Whatever the daemon's version.
  [[nodiscard]] uint64_t fingerprint() const { return opened().cursor().listing_fingerprint(); }
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
  // `service` is "unix:/path" or "/path". kUnavailable if no daemon listens, kPermissionDenied if the socket may not be opened,
  // kFailedPrecondition if options.device is not to be had here.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(std::string_view service, const ConnectOptions& options);
  // On a device that the program has already, whatever options.device says.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(std::string_view service, const ConnectOptions& options,
                                                         std::shared_ptr<Device> device);
  virtual ~Client() = default;
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Stream>> OpenStream(const StreamSpec& spec,
                                                                           const StreamOptions& options) = 0;
  [[nodiscard]] virtual absl::StatusOr<devmem_loader::v1::GetNodeStatusResponse> GetNodeStatus(Time deadline) = 0;
};

}  // namespace devmem::client

namespace devmem {
using client::Batch;
using client::Client;
using client::ConnectOptions;
using client::Cursor;
using client::Stream;
using client::StreamOptions;
using client::StreamSpec;
using client::TensorView;
}  // namespace devmem
