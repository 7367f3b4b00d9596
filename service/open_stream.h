// SPDX-License-Identifier: Apache-2.0
// From a trainer's StreamSpec to everything a DataStream needs: checks the spec, opens the store, builds the data set,
// the plan and the layout, checks the cursor, reserves and allocates the slabs. Blocks; call it from a WorkerPool.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/memory_account.h"
#include "devmem_loader/v1/loader.pb.h"
#include "service/dataset_builder.h"
#include "service/listing_cache.h"
#include "service/memory_budget.h"
#include "service/stream.h"

namespace devmem {

struct OpenContext {
  std::shared_ptr<Device> device;
  MemoryBudget* budget = nullptr;
  // Where all but the slabs is counted that the trainer or its bucket decide the size of, as it grows: listing, index, headers
  // and the data set, which stays for the stream's life, and the messages that the trainer has not read. Null: nowhere.
  std::shared_ptr<MemoryAccount> memory;
  // What of the node's memory the trainer's user may have; called once, with the bytes of all slabs. Empty: all of it.
  std::function<absl::StatusOr<MemoryBudget::Reservation>(uint64_t bytes)> quota;
  std::shared_ptr<const RedirectPolicy> redirects;  // what the access rules say to them; null: there are no rules
  uint64_t default_prefetch = 0;
  ReadOptions reads;
  Time deadline{};
  OpenProgressFn progress;  // false cancels
  // Where streams of the same bucket and `peer` (a text for the trainer's user, as access is decided by) find a listing to
  // share. Null: each lists for itself.
  std::shared_ptr<ListingCache> listings;
  std::string peer;
};

struct OpenedStream {
  StreamSetup setup;
  devmem_loader::v1::StreamOpened opened;  // all but stream id and path
  std::function<void()> forget_listing;    // call it when an object turns out not to be as it was listed
};

// kInvalidArgument for a spec that makes no sense; kFailedPrecondition for a cursor of another listing or spec, or for another
// listing than is expected; kResourceExhausted if the slabs or what it takes to open the bucket do not fit, or memory runs out;
// and what the store and the formats fail with.
[[nodiscard]] absl::StatusOr<OpenedStream> PrepareStream(const devmem_loader::v1::StreamSpec& spec, const OpenContext& context);

}  // namespace devmem
