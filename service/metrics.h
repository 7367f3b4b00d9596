// SPDX-License-Identifier: Apache-2.0
// What a node's state looks like to Prometheus. Every name, its labels and what it means: docs/metrics.md.
//
//   const std::string page = RenderMetrics(service->Observe(most_streams), ReadProcessState());
//
// Label values come from closed lists, from this machine's NICs and from stream ids, whose number is capped; never from what a
// bucket, an object or a trainer is called. Families without a sample are there all the same, by name.
//
// Pure functions of a snapshot; thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "devmem_loader/v1/loader.pb.h"
#include "net/transport.h"
#include "service/process_state.h"
#include "service/stream_counters.h"

namespace devmem {

struct NodeSnapshot {
  std::string version;
  std::map<std::string, std::string> libraries;  // versions by name
  bool serving = false;
  size_t workers = 0;
  PathInfo path;
  TransferTotals transfers;
  StreamTotals totals;
  uint64_t slab_bytes = 0;
  uint64_t listing_bytes = 0;
  uint64_t kept_listing_bytes = 0;
  uint64_t slab_limit = 0;
  uint64_t kept_slabs = 0;  // of failed streams, whose trainers may be reading them
  uint64_t kept_slab_bytes = 0;
  uint64_t opening = 0;  // streams
  uint64_t open = 0;
  uint64_t opened = 0;                      // ever
  std::map<std::string, uint64_t> refused;  // by EndReason()
  std::map<std::string, uint64_t> ended;
  uint64_t credits = 0;                                  // batches that the slabs of all open streams hold
  std::vector<devmem_loader::v1::StreamStatus> streams;  // those with series of their own
  uint64_t streams_without_series = 0;
};

// Why a stream was refused or ended, as a label: "completed", "no_zero_copy", "draining" or the code's name in small letters.
[[nodiscard]] std::string EndReason(const absl::Status& status);

// The text format, version 0.0.4.
[[nodiscard]] std::string RenderMetrics(const NodeSnapshot& node, const ProcessState& process);
inline constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace devmem
