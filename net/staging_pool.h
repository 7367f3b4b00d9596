// SPDX-License-Identifier: Apache-2.0
// StagingPool: the host memory through which a worker's payload goes to memory that the CPU cannot write. A fixed number of
// equal chunks, in the device's own staging memory (pinned, for a GPU), allocated at the first use: a worker that never needs
// them pins nothing.
//
// kChunkBytes is what the copy path takes as worth a wake-up, so that a chunk is a receive and a copy of the device's.
// kChunks are two for each of the 16 connections that a worker has by default, one to be received into while the device
// empties the other: 16 MiB a worker. With more connections, or files, they wait for each other in the order they came: who
// has no chunk does not receive, and its socket's window does the rest.
//
//   DEVMEM_ASSIGN_OR_RETURN(StagingPool::Chunk chunk, pool.Take(this));
//   if (chunk == nullptr) return;  // OnChunkFree() follows
//
// Threads: the reactor's only. It outlives its chunks and who waits for one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/device.h"
#include "net/reactor.h"

namespace devmem {

class StagingPool {
 public:
  static constexpr uint64_t kChunkBytes = uint64_t{512} << 10;
  static constexpr size_t kChunks = 32;

  class Waiter {
   public:
    // There is a chunk, or there may be: Take() again. From the loop, never inside a call of the pool's.
    virtual void OnChunkFree() = 0;

   protected:
    ~Waiter() = default;
  };

  // A piece of staging memory; goes back to the pool with its last copy.
  struct Piece {
    DeviceSpan span;
    std::span<std::byte> bytes;
  };
  using Chunk = std::shared_ptr<const Piece>;

  StagingPool(Reactor& reactor, std::shared_ptr<Device> device) : reactor_(reactor), device_(std::move(device)) {}
  StagingPool(const StagingPool&) = delete;
  StagingPool& operator=(const StagingPool&) = delete;

  // nullptr if none is free, or others asked before: then `waiter` is called once. The error if there is no staging memory.
  [[nodiscard]] absl::StatusOr<Chunk> Take(Waiter* waiter);
  // Not called any more.
  void Forget(Waiter* waiter);

  [[nodiscard]] Device& device() const { return *device_; }
  [[nodiscard]] Reactor& reactor() const { return reactor_; }

 private:
  [[nodiscard]] absl::Status Allocate();
  void Give(const Piece& piece);
  void CallNext();

  Reactor& reactor_;
  const std::shared_ptr<Device> device_;
  std::shared_ptr<DeviceMemory> memory_;  // null until the first use
  std::vector<Piece> free_;
  std::deque<Waiter*> waiting_;
  Waiter* called_ = nullptr;  // whose turn it is
  bool call_posted_ = false;
};

}  // namespace devmem
