// SPDX-License-Identifier: Apache-2.0
#include "net/worker_transport.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

absl::StatusOr<bool> CpuCanWrite(Device& device) {
  DEVMEM_ASSIGN_OR_RETURN(const auto memory, device.Allocate(1, {.name = "devmem-loader-probe"}));
  return memory->HostSpan(0, 1).has_value();
}

}  // namespace

WorkerTransport::~WorkerTransport() { StopWorkers(); }

absl::Status WorkerTransport::StartWorkers(const WorkerOptions& options, const MakeFactory& make) {
  if (options.device != nullptr) {
    DEVMEM_ASSIGN_OR_RETURN(const bool in_place, CpuCanWrite(*options.device));
    staged_ = !in_place;
  }
  resolver_ = std::make_unique<Resolver>();
  for (size_t i = 0; i < options.workers; ++i) {
    auto worker = std::make_unique<Worker>();
    DEVMEM_ASSIGN_OR_RETURN(worker->reactor, Reactor::Create(absl::StrCat("rx-", i), options.backend));
    Reactor& loop = *worker->reactor;
    if (staged_) worker->staging = std::make_unique<StagingPool>(loop, options.device);
    StagingPool* const staging = worker->staging.get();
    TransferCounters& counters = CountersOf(i);
    worker->fetcher = std::make_unique<HttpFetcher>(
        loop, *resolver_, make(i, loop, counters, staging), policy_.value_or(options.policy), options.connections,
        options.connections_in_all ? options.connections : SIZE_MAX, counters, options.say_failed);
    worker->files = std::make_unique<FileReader>(loop, staging);
    worker->thread = std::thread([&loop] { loop.Run(); });
    workers_.push_back(std::move(worker));
  }
  count_ = workers_.size();
  return absl::OkStatus();
}

TransferCounters& WorkerTransport::CountersOf(size_t worker) {
  std::lock_guard lock(mutex_);
  while (counters_.size() <= worker) counters_.emplace_back();
  return counters_[worker];
}

TransferTotals WorkerTransport::transfers() {
  TransferTotals totals;
  std::lock_guard lock(mutex_);
  for (const TransferCounters& counters : counters_) totals += counters;
  return totals;
}

void WorkerTransport::StopWorkers() {
  resolver_.reset();  // its answers are posted to the loops
  for (const auto& worker : workers_) {
    Worker* const w = worker.get();
    w->reactor->Post([w] { w->fetcher->Shutdown([w] { w->reactor->Stop(); }); });
  }
  for (const auto& worker : workers_) worker->thread.join();
  workers_.clear();
}

void WorkerTransport::Start(size_t worker, RangeRead* read) {
  absl::StatusOr<PayloadRequest> request = read->store->PrepareGet(read->object);
  Worker& on = *workers_[worker];
  if (!request.ok()) {
    on.reactor->Post([read, status = request.status()] {
      read->status = WithObject(status, read->object);
      read->Done();
    });
  } else if (!request->file_path.empty()) {
    on.files->Start(read, request->file_path);
  } else {
    on.fetcher->Start(read, *std::move(request));
  }
}

void WorkerTransport::Cancel(size_t worker, RangeRead* read) {
  // A store is all files or all HTTP. Nothing is prepared for a request that will not be sent: there may be no credentials now.
  if (KindOfStore(read->store->uri()) == StoreKind::kFile) {
    workers_[worker]->files->Cancel(read);
  } else {
    workers_[worker]->fetcher->Cancel(read);
  }
}

void WorkerTransport::SetPolicy(const ReadPolicy& policy) {
  policy_ = policy;
  for (const auto& worker : workers_) {
    worker->reactor->Post([fetcher = worker->fetcher.get(), policy] { fetcher->SetPolicy(policy); });
  }
}

void WorkerTransport::Hold(bool hold) {
  for (const auto& worker : workers_) {
    worker->reactor->Post([fetcher = worker->fetcher.get(), hold] { fetcher->Hold(hold); });
  }
}

}  // namespace devmem
