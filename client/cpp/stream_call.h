// SPDX-License-Identifier: Apache-2.0
// StreamCall: one OpenStream call, from its spec to its status. What comes is taken with Take; releases are collected and
// written in lumps. It has no thread: whoever waits in Take, or releases, does what gRPC has to have done.
//
// Held by the Stream and by every batch in hand: the call, and with it the batches' memory, ends when the last of them
// lets go. Destroying it cancels what is left of it, and tells the daemon, where that may be in doubt, that nothing of the
// stream is needed any more: it waits for the daemon a second at most. Threads: Take from one at a time; the rest is
// thread-safe.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/async_stream.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "client/cpp/mapped_slab.h"
#include "client/cpp/session.h"
#include "devmem_loader/v1/loader.pb.h"
#include "gpu/device.h"

namespace devmem {

// A message from the daemon, on its own arena.
struct Response {
  Response();
  google::protobuf::Arena arena;
  devmem_loader::v1::OpenStreamResponse* message;
};

class StreamCall {
 public:
  enum class Taken { kResponses, kFinished, kTimeout, kInterrupted };

  // `device` maps the slabs.
  StreamCall(std::shared_ptr<Session> session, const devmem_loader::v1::StreamSpec& spec, std::shared_ptr<Device> device);
  StreamCall(const StreamCall&) = delete;
  StreamCall& operator=(const StreamCall&) = delete;
  ~StreamCall();

  // Moves all that has come to the end of `out`, waiting for at least one. kFinished: there is no more; see status().
  [[nodiscard]] Taken Take(std::deque<std::shared_ptr<Response>>& out, Time deadline);
  // The batch `sequence` may be overwritten.
  void Release(uint64_t sequence);
  // Makes a Take under way, and all later ones, return kInterrupted.
  void Interrupt();
  // How the call ended; after kFinished.
  [[nodiscard]] absl::Status status() const;
  // `count` batches were handed to the trainer. With none waiting, releases are sent at once.
  void Delivered(int64_t count) { undelivered_.fetch_sub(count, std::memory_order_relaxed); }

  // Fetches the slabs of `opened` and learns how many slots there are. Once, before batches are delivered.
  [[nodiscard]] absl::Status AdoptSlabs(const devmem_loader::v1::StreamOpened& opened, Time deadline);
  // Checks that `tensor` lies in its slab.
  [[nodiscard]] absl::Status Validate(const devmem_loader::v1::Tensor& tensor) const;
  // Memory of a tensor that Validate accepted.
  [[nodiscard]] DeviceMemory& MemoryOf(const devmem_loader::v1::Tensor& tensor) const {
    return FindSlab(tensor.slab())->memory();
  }
  [[nodiscard]] Device& device() const { return *device_; }

  [[nodiscard]] Session& session() { return *session_; }
  // The daemon has sent stream_end: it finishes the call by itself.
  void MarkEnded() { ended_.store(true, std::memory_order_relaxed); }
  // The daemon goes away, and the session with it: nothing is said to it any more.
  void MarkLost() { lost_.store(true, std::memory_order_relaxed); }

 private:
  enum Tag : intptr_t { kRead = 1, kWrite, kWake, kFinish };
  static void* AsPointer(Tag tag) { return reinterpret_cast<void*>(static_cast<intptr_t>(tag)); }

  void StartRead();                   // with mutex_
  void MaybeWriteReleases(bool all);  // with mutex_
  void Process(void* tag, bool ok);   // with mutex_
  [[nodiscard]] const MappedSlab* FindSlab(uint32_t id) const;

  const std::shared_ptr<Session> session_;
  const std::shared_ptr<Device> device_;
  std::string stream_id_;  // once it is open
  std::vector<std::unique_ptr<MappedSlab>> slabs_;
  std::atomic<int64_t> undelivered_ = 0;
  std::atomic<bool> ended_ = false;
  std::atomic<bool> lost_ = false;

  mutable std::mutex mutex_;
  std::deque<std::shared_ptr<Response>> queue_;
  std::shared_ptr<Response> reading_;
  devmem_loader::v1::OpenStreamRequest pending_;  // releases not yet handed to gRPC
  uint64_t release_threshold_ = 1;
  bool write_in_flight_ = false;
  bool waiting_ = false;  // somebody is in Take
  bool interrupted_ = false;
  bool wake_set_ = false;
  bool read_ended_ = false;
  bool finished_ = false;
  grpc::Status final_;

  // Last, so that they go first: gRPC uses what is above until its queue is drained.
  grpc::ClientContext context_;
  grpc::CompletionQueue completions_;
  grpc::Alarm wake_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<devmem_loader::v1::OpenStreamRequest, devmem_loader::v1::OpenStreamResponse>>
      stream_;
};

}  // namespace devmem
