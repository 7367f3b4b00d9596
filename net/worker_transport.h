// SPDX-License-Identifier: Apache-2.0
// What every Transport has: one thread a worker with its loop, its HTTP connections and its files, and one resolver for all. A
// transport differs in the streams it makes.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "net/file_reader.h"
#include "net/http_fetcher.h"
#include "net/resolver.h"
#include "net/staging_pool.h"
#include "net/transport.h"

namespace devmem {

struct WorkerOptions {
  size_t workers = 1;
  size_t connections = 16;          // to one origin, a worker
  bool connections_in_all = false;  // to all origins together no more than that
  Reactor::Backend backend = Reactor::Backend::kAuto;
  ReadPolicy policy;
  SayFailed say_failed;            // may be empty
  std::shared_ptr<Device> device;  // of the destinations; null: they are memory that the CPU can write
};

class WorkerTransport : public Transport {
 public:
  ~WorkerTransport() override;

  [[nodiscard]] size_t workers() const final { return count_.load(std::memory_order_relaxed); }
  [[nodiscard]] TransferTotals transfers() final;
  [[nodiscard]] Reactor& reactor(size_t worker) final { return *workers_[worker]->reactor; }
  void Start(size_t worker, RangeRead* read) final;
  void Cancel(size_t worker, RangeRead* read) final;
  void SetPolicy(const ReadPolicy& policy) final;

 protected:
  // Makes a worker's streams; called once a worker, before its loop runs. `staging` is there where the CPU cannot write to the
  // destinations.
  using MakeFactory =
      std::function<HttpFetcher::StreamFactory(size_t worker, Reactor& loop, TransferCounters& counters, StagingPool* staging)>;
  [[nodiscard]] absl::Status StartWorkers(const WorkerOptions& options, const MakeFactory& make);
  // Closes all connections and joins the threads; every read must be done by then. For when the streams' surroundings go;
  // StartWorkers() may follow.
  void StopWorkers();
  [[nodiscard]] std::thread& thread(size_t worker) { return workers_[worker]->thread; }
  // HttpFetcher::Hold on every worker. Thread-safe.
  void Hold(bool hold);
  // Whether payload that comes through host memory takes the way through staging memory.
  [[nodiscard]] bool staged() const { return staged_; }

 private:
  struct Worker {
    std::unique_ptr<Reactor> reactor;
    std::unique_ptr<StagingPool> staging;
    std::unique_ptr<HttpFetcher> fetcher;
    std::unique_ptr<FileReader> files;
    std::thread thread;
  };

  [[nodiscard]] TransferCounters& CountersOf(size_t worker);

  std::optional<ReadPolicy> policy_;  // SetPolicy()'s; else that of the options
  std::unique_ptr<Resolver> resolver_;
  bool staged_ = false;
  std::atomic<size_t> count_ = 0;  // of workers, as last started
  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex mutex_;
  std::deque<TransferCounters>
      counters_;  // of every worker there was, in place while they come and go; growth guarded by mutex_
};

}  // namespace devmem
