// SPDX-License-Identifier: Apache-2.0
#include "service/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "service/formats/format.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Labels = std::vector<ClientMetric::Label>;

ClientMetric::Label Label(const char* name, std::string_view value) { return {name, std::string(value)}; }

std::string CodeName(absl::StatusCode code) { return absl::AsciiStrToLower(absl::StatusCodeToString(code)); }

double Seconds(uint64_t microseconds) { return static_cast<double>(microseconds) / 1e6; }

// A family under construction.
class Family {
 public:
  Family(std::vector<MetricFamily>* families, const char* name, MetricType type, const char* help) : families_(families) {
    index_ = families->size();
    families->push_back({.name = name, .help = help, .type = type, .metric = {}});
  }

  Family& Add(double value, Labels labels = {}) {
    ClientMetric& metric = New(std::move(labels));
    (family().type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    return *this;
  }
  Family& Add(uint64_t value, Labels labels = {}) { return Add(static_cast<double>(value), std::move(labels)); }

  Family& Add(const LatencyHistogram::Totals& totals, Labels labels = {}) {
    ClientMetric::Histogram& histogram = New(std::move(labels)).histogram;
    for (size_t i = 0; i < totals.counts.size(); ++i) {
      histogram.sample_count += totals.counts[i];
      const double bound = i < LatencyHistogram::kBounds.size()
                               ? std::chrono::duration<double>(LatencyHistogram::kBounds[i]).count()
                               : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({.cumulative_count = histogram.sample_count, .upper_bound = bound});
    }
    histogram.sample_sum = static_cast<double>(totals.nanoseconds) / 1e9;
    return *this;
  }

 private:
  MetricFamily& family() { return (*families_)[index_]; }
  ClientMetric& New(Labels labels) {
    ClientMetric& metric = family().metric.emplace_back();
    metric.label = std::move(labels);
    return metric;
  }

  std::vector<MetricFamily>* families_;
  size_t index_;
};

class Page {
 public:
  Family Counter(const char* name, const char* help) { return {&families_, name, MetricType::Counter, help}; }
  Family Gauge(const char* name, const char* help) { return {&families_, name, MetricType::Gauge, help}; }
  Family Histogram(const char* name, const char* help) { return {&families_, name, MetricType::Histogram, help}; }
  [[nodiscard]] const std::vector<MetricFamily>& families() const { return families_; }

 private:
  std::vector<MetricFamily> families_;
};

template <typename Function>
void ForEachStore(const Function& function) {
  for (size_t store = 0; store < kStoreKinds; ++store) function(store, Label("store", Name(static_cast<StoreKind>(store))));
}

// Every reason there can be, so that the first of a kind is an increase from 0.
void AddReasons(Family family, const std::map<std::string, uint64_t>& counts, bool with_completed) {
  std::map<std::string, uint64_t> all = {{"no_zero_copy", 0}, {"draining", 0}};
  if (with_completed) all["completed"] = 0;
  for (size_t code = 1; code < kStatusCodes; ++code) all[CodeName(static_cast<absl::StatusCode>(code))] = 0;
  for (const auto& [reason, count] : counts) all[reason] = count;
  for (const auto& [reason, count] : all) family.Add(count, {Label("reason", reason)});
}

void AddNode(const NodeSnapshot& node, Page& page) {
  Labels build = {Label("version", node.version)};
  for (const auto& [library, version] : node.libraries) build.push_back({library, version});
  page.Gauge("devmem_loader_build_info", "The daemon's version and its libraries'; always 1.").Add(uint64_t{1}, build);
  page.Gauge("devmem_loader_serving", "Whether new streams are let in: 0 while draining or handing over.")
      .Add(uint64_t{node.serving});
  page.Gauge("devmem_loader_path_info", "The way payload takes into this node: devmem or copy; always 1.")
      .Add(uint64_t{1}, {Label("path", node.path.name)});
  page.Gauge("devmem_loader_workers", "Receive threads.").Add(uint64_t{node.workers});
  page.Gauge("devmem_loader_slab_bytes", "Slab memory of all streams, as reserved.").Add(node.slab_bytes);
  page.Gauge("devmem_loader_listing_bytes",
             "Memory of listings, indexes, headers, plans and messages of all streams, as counted.")
      .Add(node.listing_bytes);
  page.Gauge("devmem_loader_kept_listing_bytes", "Memory of listings that are kept for a minute, until a stream needs it.")
      .Add(node.kept_listing_bytes);
  page.Gauge("devmem_loader_slab_limit_bytes", "What slabs, listings and the like of all streams may come to together.")
      .Add(node.slab_limit);
  page.Gauge("devmem_loader_kept_slabs", "Slabs of failed streams that their trainers have not given back.")
      .Add(node.kept_slabs);
  page.Gauge("devmem_loader_kept_slab_bytes", "Of slab memory, what these have.").Add(node.kept_slab_bytes);
}

void AddStreams(const NodeSnapshot& node, Page& page) {
  page.Gauge("devmem_loader_streams", "Streams open now.").Add(node.open);
  page.Gauge("devmem_loader_streams_opening", "Streams being opened now: listing, reading headers, allocating.")
      .Add(node.opening);
  page.Counter("devmem_loader_streams_opened_total", "Streams opened.").Add(node.opened);
  AddReasons(page.Counter("devmem_loader_streams_refused_total", "Streams that were not opened, by why."), node.refused, false);
  AddReasons(page.Counter("devmem_loader_streams_ended_total", "Opened streams that ended, by how."), node.ended, true);
  const StreamTotals& totals = node.totals;
  page.Gauge("devmem_loader_credits", "Batches that the slabs of all open streams hold.").Add(node.credits);
  page.Gauge("devmem_loader_credits_held", "Batches delivered to trainers and not released.")
      .Add(totals.credits_taken - std::min(totals.credits_taken, totals.credits_back));
}

void AddDelivered(const StreamTotals& totals, Page& page) {
  Family batches = page.Counter("devmem_loader_batches_total", "Batches delivered.");
  Family samples = page.Counter("devmem_loader_samples_total", "Samples delivered, padding included.");
  Family bytes = page.Counter("devmem_loader_delivered_bytes_total", "Bytes of batches delivered.");
  for (size_t path = 0; path < kBytePaths; ++path) {
    for (size_t format = Index(DatasetFormat::kRaw); format < kFormats; ++format) {
      const Labels labels = {Label("path", Name(static_cast<BytePath>(path))),
                             Label("format", Name(static_cast<DatasetFormat>(format)))};
      const StreamTotals::Delivered& delivered = totals.delivered[path][format];
      batches.Add(delivered.batches, labels);
      samples.Add(delivered.samples, labels);
      bytes.Add(delivered.bytes, labels);
    }
  }
  page.Counter("devmem_loader_skipped_samples_total", "Bad samples left out (on_error skip).").Add(totals.skipped_samples);
  Family stalls = page.Counter("devmem_loader_stall_seconds_total",
                               "Time between deliveries of a stream, by what the batch was waiting for.");
  for (size_t cause = 0; cause < kStallCauses; ++cause) {
    stalls.Add(Seconds(totals.stall_microseconds[cause]), {Label("cause", Name(static_cast<StallCause>(cause)))});
  }
  page.Histogram("devmem_loader_batch_seconds", "From when a batch's slot was taken until all of it was there.")
      .Add(totals.batch);
}

void AddTransfers(const NodeSnapshot& node, Page& page) {
  const StreamTotals& totals = node.totals;
  Family received =
      page.Counter("devmem_loader_received_bytes_total", "Bytes of objects received, gaps and repeats included, by how.");
  for (size_t path = 0; path < kBytePaths; ++path) {
    ForEachStore([&](size_t store, const ClientMetric::Label& label) {
      received.Add(totals.received_bytes[path][store], {Label("path", Name(static_cast<BytePath>(path))), label});
    });
  }
  Family requests = page.Counter("devmem_loader_requests_total", "Requests for payload; of files: reads.");
  Family range = page.Histogram("devmem_loader_range_seconds", "From when a range was planned until all of it was in place.");
  ForEachStore([&](size_t store, const ClientMetric::Label& label) {
    requests.Add(totals.requests[store], {label});
    range.Add(totals.range[store], {label});
  });
  Family first_byte =
      page.Histogram("devmem_loader_first_byte_seconds", "From a request for payload until its answer's head was there.");
  Family retries = page.Counter("devmem_loader_retries_total", "Requests for payload that were made again, by why.");
  Family errors = page.Counter("devmem_loader_range_errors_total", "Ranges that failed for good.");
  ForEachStore([&](size_t store, const ClientMetric::Label& label) {
    if (store != Index(StoreKind::kFile)) {  // files are neither asked nor asked again
      first_byte.Add(node.transfers.first_byte[store], {label});
      for (size_t code = 0; code < kRetryCodes; ++code) {
        retries.Add(node.transfers.retries[store][code], {label, Label("code", Name(static_cast<RetryCode>(code)))});
      }
    }
    for (size_t code = 1; code < kStatusCodes; ++code) {
      errors.Add(totals.errors[store][code], {label, {"code", CodeName(static_cast<absl::StatusCode>(code))}});
    }
  });
}

void AddDevmem(const NodeSnapshot& node, Page& page) {
  Family bound = page.Gauge("devmem_loader_nic_bound", "Whether the NIC's queues are bound as they should be.");
  Family queues = page.Gauge("devmem_loader_nic_queues", "Rx queues of the NIC that are bound.");
  Family rebinds =
      page.Counter("devmem_loader_nic_rebinds_total", "Times the NIC was bound again after a reset or another tool's doing.");
  Family packets = page.Counter("devmem_loader_nic_packets_total", "Packets of the bound queues, since the bind.");
  Family failures = page.Counter("devmem_loader_nic_allocation_failures_total",
                                 "Packets lost for want of a buffer of the landing pool, since the bind.");
  Family detached = page.Gauge("devmem_loader_nic_detached_pools", "Page pools of queues that are gone, waiting for buffers.");
  Family pool = page.Gauge("devmem_loader_landing_pool_bytes", "The NIC's landing pool.");
  Family used = page.Gauge("devmem_loader_landing_pool_used_bytes",
                           "Of it, buffers that are out: posted to the rings, kept for reuse, or pinned by payload.");
  Family posted = page.Gauge("devmem_loader_landing_pool_posted_bytes", "Of it, what the rings held just after the bind.");
  Family rules = page.Gauge("devmem_loader_steering_rules", "Flow-steering rules of this daemon.");
  Family capacity = page.Gauge("devmem_loader_steering_rule_capacity",
                               "Rules the NIC has room for; not there where its driver does not say.");
  for (const PathInfo::Nic& nic : node.path.nics) {
    const Labels labels = {Label("interface", nic.interface)};
    bound.Add(uint64_t{nic.intact}, {Label("interface", nic.interface), Label("driver", nic.driver)});
    queues.Add(uint64_t{nic.queues.size()}, labels);
    rebinds.Add(nic.rebinds, labels);
    packets.Add(nic.packets, labels);
    failures.Add(nic.alloc_fail, labels);
    detached.Add(nic.detached_pools, labels);
    pool.Add(nic.landing_pool, labels);
    used.Add(nic.inflight * nic.page_size, labels);
    posted.Add(nic.posted * nic.page_size, labels);
    rules.Add(nic.rules, labels);
    if (nic.rule_capacity != 0) capacity.Add(nic.rule_capacity, labels);
  }
  const PathInfo::Counters& counters = node.path.counters;
  page.Gauge("devmem_loader_tokens", "Fragments the kernel waits for.").Add(counters.tokens_outstanding);
  page.Counter("devmem_loader_tokens_refused_total", "Fragments given back that the kernel did not take.")
      .Add(counters.tokens_refused);
  page.Counter("devmem_loader_fragments_total", "Fragments received into landing pools.").Add(counters.fragments);
  page.Counter("devmem_loader_linear_bytes_total", "Bytes a NIC did not split, which came through host memory.")
      .Add(counters.linear_bytes);
  page.Counter("devmem_loader_head_bytes_total", "Bytes of HTTP heads, read back from device memory.").Add(counters.head_bytes);
  page.Counter("devmem_loader_receive_calls_total", "Receives by device-memory TCP.").Add(counters.receive_calls);
  page.Counter("devmem_loader_token_return_calls_total", "Calls that gave fragments back.").Add(counters.return_calls);
  page.Counter("devmem_loader_connections_steered_total", "Connections made with a rule.").Add(counters.connections_steered);
  page.Counter("devmem_loader_connections_fallen_back_total", "Connections made without a rule, which the CPU copies.")
      .Add(counters.connections_fallen_back);
  Family fall_backs = page.Counter("devmem_loader_fall_backs_total",
                                   "Connections without a rule, or with one that brought host bytes, by why.");
  for (const auto& [reason, count] : counters.fall_backs) fall_backs.Add(count, {Label("reason", reason)});
  page.Histogram("devmem_loader_gather_seconds", "From a receive into a landing pool until the device had moved it on.")
      .Add(node.transfers.gather);
}

void AddEachStream(const NodeSnapshot& node, Page& page) {
  Family info = page.Gauge("devmem_loader_stream_info", "An open stream; always 1.");
  Family batches = page.Counter("devmem_loader_stream_batches_total", "Batches delivered by the stream.");
  Family samples = page.Counter("devmem_loader_stream_samples_total", "Samples delivered by the stream.");
  Family bytes = page.Counter("devmem_loader_stream_delivered_bytes_total", "Bytes delivered by the stream.");
  Family retries = page.Counter("devmem_loader_stream_retries_total", "Requests the stream made again.");
  Family stalls = page.Counter("devmem_loader_stream_stall_seconds_total", "Time between the stream's deliveries, by cause.");
  Family credits = page.Gauge("devmem_loader_stream_credits", "Batches that the stream's slab holds.");
  Family held = page.Gauge("devmem_loader_stream_credits_held", "Batches its trainer has not released.");
  for (const v1::StreamStatus& stream : node.streams) {
    const Labels labels = {Label("stream", stream.stream_id())};
    info.Add(uint64_t{1}, {Label("stream", stream.stream_id()),
                           Label("path", stream.path().name()),
                           {"rank", absl::StrCat(stream.rank())},
                           {"world_size", absl::StrCat(stream.world_size())},
                           {"uid", absl::StrCat(stream.peer_uid())}});
    const v1::StreamStatistics& statistics = stream.statistics();
    batches.Add(uint64_t{statistics.batches()}, labels);
    samples.Add(uint64_t{statistics.samples()}, labels);
    bytes.Add(uint64_t{statistics.bytes()}, labels);
    retries.Add(uint64_t{statistics.retries()}, labels);
    const auto stall = [&](StallCause cause, uint64_t microseconds) {
      stalls.Add(Seconds(microseconds), {Label("stream", stream.stream_id()), Label("cause", Name(cause))});
    };
    stall(StallCause::kTrainer, statistics.stall().trainer());
    stall(StallCause::kNetwork, statistics.stall().network());
    stall(StallCause::kFirstByte, statistics.stall().first_byte());
    stall(StallCause::kDevice, statistics.stall().device());
    stall(StallCause::kMemory, statistics.stall().memory());
    credits.Add(uint64_t{stream.slots()}, labels);
    held.Add(uint64_t{stream.slots_held()}, labels);
  }
  page.Gauge("devmem_loader_streams_without_series",
             "Open streams without series of their own: beyond --metrics-streams, or on a loop that did not answer in 1 s.")
      .Add(node.streams_without_series);
}

// As Prometheus's own client libraries name them.
void AddProcess(const ProcessState& process, Page& page) {
  page.Counter("process_cpu_seconds_total", "User and system CPU time.").Add(process.cpu_seconds);
  page.Gauge("process_resident_memory_bytes", "Resident memory.").Add(process.resident_bytes);
  page.Gauge("process_virtual_memory_bytes", "Virtual memory.").Add(process.virtual_bytes);
  page.Gauge("process_open_fds", "Open file descriptors.").Add(process.open_fds);
  page.Gauge("process_max_fds", "Most file descriptors that may be open.").Add(process.max_fds);
  page.Gauge("process_start_time_seconds", "When the process started, since the epoch.").Add(process.start_time);
}

}  // namespace

std::string EndReason(const absl::Status& status) {
  if (status.ok()) return "completed";
  switch (const Fault fault = FaultOf(status)) {
    case Fault::kNoZeroCopy:
    case Fault::kDraining:
    case Fault::kTooManySkipped:
      return std::string(Name(fault));
    default:
      return CodeName(status.code());
  }
}

std::string RenderMetrics(const NodeSnapshot& node, const ProcessState& process) {
  Page page;
  AddNode(node, page);
  AddStreams(node, page);
  AddDelivered(node.totals, page);
  AddTransfers(node, page);
  AddDevmem(node, page);
  AddEachStream(node, page);
  AddProcess(process, page);
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, page.families());
  return std::move(out).str();
}

}  // namespace devmem
