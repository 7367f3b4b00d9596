// SPDX-License-Identifier: Apache-2.0
// StagedMove: one body's way to memory that the CPU cannot write. Its bytes are received into chunks of staging memory, and
// the device copies each piece from there to where it belongs while the next chunk is received:
//
//   move.Start(scatter);
//   auto next = move.Next();        // where the next bytes go: receive into them, in order
//   move.Received(bytes);           // so many are there: the device takes them on
//   ... Owner::OnPlaced(bytes)      // and now they are in place
//
// Threads: the reactor's only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu/device.h"
#include "net/byte_stream.h"
#include "net/staging_pool.h"

namespace devmem {

class StagedMove final : private StagingPool::Waiter {
 public:
  class Owner {
   public:
    // Next() has something now.
    virtual void OnRoom() = 0;
    // The next `bytes` of the scatter are in place, or failed to get there. From the loop, in order, for every Received().
    virtual void OnPlaced(uint64_t bytes, absl::Status status) = 0;

   protected:
    ~Owner() = default;
  };

  StagedMove(StagingPool& pool, Owner& owner) : pool_(pool), owner_(owner) {}
  ~StagedMove();  // idle()
  StagedMove(const StagedMove&) = delete;
  StagedMove& operator=(const StagedMove&) = delete;

  // The scatter is the caller's, and advances as bytes are received.
  void Start(Scatter& scatter);
  // Host-visible places of the next bytes; what the scatter discards is discarded here too. Valid until the next call. Empty if
  // there is no room now (OnRoom follows) or nothing left. All of what was given before must have been received.
  [[nodiscard]] absl::StatusOr<std::span<const DeviceSpan>> Next();
  void Received(uint64_t bytes);
  // Nothing more will be received: there may be bytes left. OnPlaced goes on for what is under way, OnRoom does not come.
  void Stop();
  // The device touches neither staging memory nor destinations.
  [[nodiscard]] bool idle() const { return waves_.empty(); }

 private:
  struct Wave {  // what one Received() brought, until it is in place
    uint64_t bytes = 0;
    StagingPool::Chunk chunk;
    bool done = false;
    absl::Status status;
  };

  void OnChunkFree() override { owner_.OnRoom(); }
  void OnDone(Wave* wave, absl::Status status);

  StagingPool& pool_;
  Owner& owner_;
  Scatter* scatter_ = nullptr;
  StagingPool::Chunk chunk_;  // being received into
  uint64_t used_ = 0;         // of it
  uint64_t left_ = 0;         // of what Next() gave
  std::vector<DeviceSpan> places_;
  std::vector<PokePiece> pokes_;
  std::deque<std::unique_ptr<Wave>> waves_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace devmem
