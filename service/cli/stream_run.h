// SPDX-License-Identifier: Apache-2.0
// StreamRun: reads one stream to its end through the client library, as a trainer would, and measures.
//
//   StreamRun run({.spec = spec, .client = client.get(), .progress = progress.get()});
//   absl::Status status = run.Open();
//   if (status.ok()) run.Read();
//   Print(run.summary());
//
// Interrupt() may be called from any thread, at any time; all else belongs to one. The payload is not touched unless
// there is a digest.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "client/cpp/client.h"
#include "service/cli/digest.h"
#include "service/cli/process_usage.h"
#include "service/cli/progress.h"
#include "service/cli/summary.h"

namespace devmem::cli {

class StreamRun {
 public:
  struct Options {
    StreamSpec spec;
    std::shared_ptr<Client> client;
    Progress* progress = nullptr;
    DigestWriter* digest = nullptr;  // may be null
    uint64_t limit_batches = 0;      // 0: all
    std::string service;             // empty: the daemon is in this process
  };

  explicit StreamRun(Options options);
  ~StreamRun();

  // Opens the stream, or fails: then summary().status says why. kCancelled if Interrupt() came first: the
  // destructor then waits for the call to open, so a process that is in a hurry exits without it.
  absl::Status Open();
  // To the end of the stream, the limit, an error or Interrupt(); summary() then tells which.
  void Read();

  void Interrupt();
  [[nodiscard]] const devmem_loader::v1::StreamOpened& opened() const { return stream_->opened(); }
  [[nodiscard]] const Summary& summary() const { return summary_; }

 private:
  struct Opening;

  void BeginMeasuring();
  void EndMeasuring();
  absl::Status ReadAll();
  absl::Status Take(const Batch& batch);
  void FetchStatistics();
  void WarnOfNothing();
  void Skip(const std::string& object, std::optional<uint64_t> sample, const std::string& cause);

  Options options_;
  Summary summary_;
  Totals totals_;
  Time asked_{};
  Time last_batch_{};
  Time opened_at_{};
  pid_t daemon_pid_ = 0;  // of another process whose usage we may read
  ProcessUsage own_before_;
  ProcessUsage daemon_before_;

  std::shared_ptr<Opening> opening_;
  std::atomic<bool> interrupted_ = false;
  std::mutex mutex_;  // stream_, against Interrupt()
  std::unique_ptr<Stream> stream_;
  std::thread opener_;
};

}  // namespace devmem::cli
