// SPDX-License-Identifier: Apache-2.0
// What is said on stderr while a stream runs. On a terminal one live line, redrawn at most five times a second, with
// warnings above it; otherwise one JSON object a line: {"event":"progress",...}.
//
//   auto progress = MakeProgress(STDERR_FILENO);       // by isatty
//   progress->Opened(opened, spec);
//   if (now >= progress->next_tick()) progress->Tick(now, totals);
//
// Threads: every method may be called from any thread, but next_tick(), which is the reader's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/clock.h"
#include "devmem_loader/v1/loader.pb.h"

namespace devmem::cli {

// Running sums of what was delivered.
struct Totals {
  uint64_t samples = 0;
  uint64_t batches = 0;
  uint64_t bytes = 0;
  devmem_loader::v1::Stall stalls;
};

class Progress {
 public:
  virtual ~Progress() = default;

  virtual void Opening(std::string_view phase, uint64_t done, uint64_t total) = 0;
  // `expected_batches`: what this run will deliver, as far as it is known; 0 is not known.
  virtual void Opened(const devmem_loader::v1::StreamOpened& opened, uint64_t expected_batches) = 0;
  virtual void Tick(Time now, const Totals& totals) = 0;
  virtual void EpochEnd(const devmem_loader::v1::EpochEnd& end) = 0;
  virtual void Warning(const std::string& text) = 0;
  virtual void Reconnect(const absl::Status& why) = 0;
  // sample: none for a whole object.
  virtual void Skipped(const std::string& object, std::optional<uint64_t> sample, const std::string& cause) = 0;
  virtual void Error(const absl::Status& status) = 0;
  // Takes the live line away, before something else is printed.
  virtual void Finish() = 0;

  // When the next Tick() would say something. Reader's thread.
  [[nodiscard]] Time next_tick() const { return next_tick_; }

 protected:
  Time next_tick_{};
};

// Where the text goes; what it returns is not looked at: progress that cannot be shown is no fault of the run.
using WriteText = std::function<void(std::string_view text)>;

[[nodiscard]] std::unique_ptr<Progress> MakeLiveLine(WriteText write, std::function<size_t()> columns);
[[nodiscard]] std::unique_ptr<Progress> MakeJsonLines(WriteText write);
[[nodiscard]] std::unique_ptr<Progress> MakeProgress(int fd);

// Batches from `opened.cursor` to the end of the last epoch.
[[nodiscard]] uint64_t ExpectedBatches(const devmem_loader::v1::StreamOpened& opened,
                                       const devmem_loader::v1::StreamSpec& spec);

}  // namespace devmem::cli
