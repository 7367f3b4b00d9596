// SPDX-License-Identifier: Apache-2.0
// What a run of devmem-loader came to, as text for people and as one JSON object for programs. Values; one thread.
//
// Figures that could not be had (requests of a stream whose daemon died) are null in JSON and left out of the text.
// Measured on the trainer's side: samples, batches, bytes, seconds (from the stream being open to its end),
// first_batch_ms (from the call to open), longest_gap_ms, stalls. From the daemon: requests, retries, amplification.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "devmem_loader/v1/loader.pb.h"

namespace devmem::cli {

struct Summary {
  std::string stream_id;
  std::string path;
  std::string path_reason;
  devmem_loader::v1::DataPath data_path;  // as last heard of
  std::string service;                    // which daemon; empty: the one in this process

  uint64_t samples = 0;
  uint64_t padding = 0;  // of these, repeats of --tail pad
  uint64_t batches = 0;
  uint64_t epochs = 0;  // ended
  uint64_t bytes = 0;
  double open_seconds = 0;
  double seconds = 0;
  std::optional<double> first_batch_ms;
  std::optional<double> longest_gap_ms;  // between two batches, reconnecting included; none: fewer than two

  double cpu_seconds = 0;
  bool cpu_includes_daemon = false;
  double peak_rss_mib = 0;
  std::optional<double> daemon_peak_rss_mib;  // with --service

  std::optional<devmem_loader::v1::StreamStatistics> statistics;  // the daemon's, of the last stream
  devmem_loader::v1::Stall stalls;                                // sum over the batches, microseconds
  uint64_t reconnects = 0;

  // What was left out because of --on-error skip; the first of them by name.
  struct Skipped {
    std::string object;
    std::optional<uint64_t> sample;  // none: a whole object
    std::string cause;
  };
  uint64_t skipped_objects = 0;
  uint64_t skipped_samples = 0;
  std::vector<Skipped> skipped;
  std::vector<std::string> warnings;

  devmem_loader::v1::Cursor cursor;  // after the last batch
  bool interrupted = false;
  absl::Status status;  // not OK: the run failed
};

inline constexpr size_t kSkippedListed = 100;

// One line, without the newline. With a failure it opens with "error".
[[nodiscard]] std::string SummaryJson(const Summary& summary);
[[nodiscard]] std::string SummaryText(const Summary& summary);

// {"error": {code, message, object, offset, length, cause, action}}: for what failed before there was a stream.
[[nodiscard]] std::string ErrorJson(const absl::Status& status);

// The part of a stall that took longest and its share of `seconds`: "network 41%"; empty if nothing stalled.
[[nodiscard]] std::string TopStall(const devmem_loader::v1::Stall& stall, double seconds);

// gRPC's name of a code: "NOT_FOUND".
[[nodiscard]] std::string CodeName(absl::StatusCode code);

}  // namespace devmem::cli
