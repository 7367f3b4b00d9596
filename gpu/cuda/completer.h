// SPDX-License-Identifier: Apache-2.0
// Tells who waits that work on a stream is done. One thread, which sleeps in the driver until the oldest event is complete;
// events are told in the order they were given, so a completer serves one stream, or streams that may wait for each other's
// news.
//
//   DEVMEM_ASSIGN_OR_RETURN(Event done, completer.Watch(stream, [=] { ...copy out of pinned memory... }));
//
// Threads: Watch from any. Destroying it waits for what is under way, 10 s at most: after that a GPU that does not answer is
// left alone, with the thread that waits for it.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "gpu/device.h"

namespace devmem::cuda {

class Completer {
 public:
  explicit Completer(int ordinal);
  Completer(const Completer&) = delete;
  Completer& operator=(const Completer&) = delete;
  ~Completer();

  // Records an event behind all that is on `stream`. `finish` runs on the completer's thread before anyone is told, with the
  // work's result.
  [[nodiscard]] absl::StatusOr<Event> Watch(cudaStream_t stream, std::function<void(const absl::Status&)> finish);

 private:
  class State;
  std::shared_ptr<State> state_;  // outlives the completer where its thread is left behind
};

}  // namespace devmem::cuda
