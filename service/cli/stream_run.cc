// SPDX-License-Identifier: Apache-2.0
#include "service/cli/stream_run.h"

#include <deque>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "client/cpp/rpc_error.h"

namespace devmem::cli {
namespace {

constexpr Duration kPatience = std::chrono::milliseconds(200);  // longest Next(): the live line is redrawn meanwhile
constexpr Duration kStatusTimeout = std::chrono::seconds(1);

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// Next() says kDeadlineExceeded for its own deadline, and the stream may end with that code too: that one names what
// it happened on, or comes long before the deadline.
bool MerelyLate(const absl::Status& status, Time deadline) {
  if (status.code() != absl::StatusCode::kDeadlineExceeded) return false;
  const ErrorInfo info = GetErrorInfo(status);
  return info.cause.empty() && info.object.empty() && Clock::now() + kPatience / 4 >= deadline;
}

}  // namespace

// Between Open() and the thread that it starts.
struct StreamRun::Opening {
  std::mutex mutex;
  std::condition_variable changed;
  bool interrupted = false;
  std::optional<absl::StatusOr<std::unique_ptr<Stream>>> result;
};

StreamRun::StreamRun(Options options) : options_(std::move(options)), opening_(std::make_shared<Opening>()) {
  summary_.service = options_.service;
}

StreamRun::~StreamRun() {
  if (opener_.joinable()) opener_.join();
}

void StreamRun::Interrupt() {
  interrupted_ = true;
  {
    std::lock_guard lock(opening_->mutex);
    opening_->interrupted = true;
    opening_->changed.notify_all();
  }
  std::lock_guard lock(mutex_);
  if (stream_ != nullptr) stream_->Cancel();
}

void StreamRun::BeginMeasuring() {
  own_before_ = OwnUsage();
  if (options_.service.empty()) {
    summary_.cpu_includes_daemon = true;  // it is this process
    return;
  }
  auto node = options_.client->GetNodeStatus(Clock::now() + kStatusTimeout);
  if (!node.ok()) return;  // opening will tell
  auto usage = ReadProcessUsage(node->pid());
  // In another pid namespace the number may be somebody else's.
  if (!usage || usage->command.rfind("devmem-loader", 0) != 0) return;
  daemon_pid_ = node->pid();
  daemon_before_ = *usage;
}

void StreamRun::EndMeasuring() {
  const ProcessUsage own = OwnUsage();
  summary_.seconds = Seconds(Clock::now() - opened_at_);
  summary_.cpu_seconds = own.cpu_seconds - own_before_.cpu_seconds;
  summary_.peak_rss_mib = own.peak_rss_mib;
  if (daemon_pid_ != 0) {
    auto usage = ReadProcessUsage(daemon_pid_);
    if (usage && usage->start_ticks == daemon_before_.start_ticks) {
      summary_.cpu_seconds += usage->cpu_seconds - daemon_before_.cpu_seconds;
      summary_.daemon_peak_rss_mib = usage->peak_rss_mib;
      summary_.cpu_includes_daemon = true;
    }
  }
  summary_.samples = totals_.samples;
  summary_.batches = totals_.batches;
  summary_.bytes = totals_.bytes;
  summary_.stalls = totals_.stalls;
}

absl::Status StreamRun::Open() {
  BeginMeasuring();
  asked_ = Clock::now();
  StreamOptions stream_options;
  stream_options.reconnect = !options_.service.empty();  // a daemon in this process does not come back
  stream_options.progress = [progress = options_.progress](const devmem_loader::v1::OpenProgress& at) {
    progress->Opening(at.phase(), at.done(), at.total());
  };
  stream_options.on_reconnect = [this](const absl::Status& why) {
    ++summary_.reconnects;
    options_.progress->Reconnect(why);
  };
  // OpenStream cannot be cancelled, and listing a bucket can take minutes: it gets a thread of its own.
  opener_ = std::thread([opening = opening_, client = options_.client, spec = options_.spec, stream_options] {
    auto result = client->OpenStream(spec, stream_options);
    std::lock_guard lock(opening->mutex);
    opening->result = std::move(result);
    opening->changed.notify_all();
  });
  absl::Status status;
  {
    std::unique_lock lock(opening_->mutex);
    opening_->changed.wait(lock, [&] { return opening_->interrupted || opening_->result.has_value(); });
    opened_at_ = Clock::now();
    summary_.open_seconds = Seconds(opened_at_ - asked_);
    if (opening_->interrupted) {
      summary_.interrupted = true;
      status = absl::CancelledError("interrupted before the stream was open");
    } else if (!opening_->result->ok()) {
      status = opening_->result->status();
    } else {
      std::lock_guard stream_lock(mutex_);
      stream_ = *std::move(*opening_->result);
    }
  }
  if (!status.ok()) {
    summary_.status = status;
    EndMeasuring();
    return status;
  }
  const devmem_loader::v1::StreamOpened& opened = stream_->opened();
  summary_.stream_id = opened.stream_id();
  summary_.path = opened.path().name();
  summary_.data_path = opened.path();
  summary_.path_reason = opened.path().reason();
  summary_.cursor = opened.cursor();
  summary_.warnings.assign(opened.warnings().begin(), opened.warnings().end());
  options_.progress->Opened(opened, ExpectedBatches(opened, options_.spec));
  for (const auto& skipped : opened.skipped()) {
    ++summary_.skipped_objects;
    Skip(skipped.object(), std::nullopt, skipped.error().cause());
  }
  return absl::OkStatus();
}

void StreamRun::Skip(const std::string& object, std::optional<uint64_t> sample, const std::string& cause) {
  if (summary_.skipped.size() < kSkippedListed)
    summary_.skipped.push_back({.object = object, .sample = sample, .cause = cause});
  options_.progress->Skipped(object, sample, cause);
}

absl::Status StreamRun::Take(const Batch& batch) {
  const devmem_loader::v1::Batch& info = batch.info();
  const Time now = Clock::now();
  if (totals_.batches == 0) {
    summary_.first_batch_ms = Seconds(now - asked_) * 1000;
  } else {
    summary_.longest_gap_ms = std::max(summary_.longest_gap_ms.value_or(0), Seconds(now - last_batch_) * 1000);
  }
  last_batch_ = now;
  ++totals_.batches;
  totals_.samples += static_cast<uint64_t>(info.sample_ids_size());
  for (const auto& tensor : info.tensors()) totals_.bytes += tensor.bytes();
  const auto& stall = info.stall();
  auto& sum = totals_.stalls;
  sum.set_trainer(sum.trainer() + stall.trainer());
  sum.set_network(sum.network() + stall.network());
  sum.set_first_byte(sum.first_byte() + stall.first_byte());
  sum.set_device(sum.device() + stall.device());
  sum.set_memory(sum.memory() + stall.memory());
  for (bool padding : info.padding()) summary_.padding += padding ? 1 : 0;
  for (const auto& skipped : info.skipped()) {
    ++summary_.skipped_samples;
    Skip(skipped.error().object(), skipped.sample_id(), skipped.error().cause());
  }
  if (options_.digest == nullptr) return absl::OkStatus();
  std::vector<std::span<const std::byte>> tensors;
  std::deque<std::vector<std::byte>> copies;  // of what only a device sees
  for (size_t i = 0; i < batch.tensors(); ++i) {
    const TensorView tensor = batch.tensor(i);
    if (tensor.host_visible()) {
      tensors.emplace_back(tensor.bytes());
      continue;
    }
    std::vector<std::byte>& copy = copies.emplace_back(tensor.size_bytes());
    DEVMEM_RETURN_IF_ERROR(tensor.CopyTo(copy));
    tensors.emplace_back(copy);
  }
  return options_.digest->Add(info, tensors);
}

absl::Status StreamRun::ReadAll() {
  while (!interrupted_.load(std::memory_order_relaxed)) {
    const Time now = Clock::now();
    if (now >= options_.progress->next_tick()) options_.progress->Tick(now, totals_);
    absl::StatusOr<client::Event> event = stream_->Next(now + kPatience);
    if (!event.ok()) {
      if (MerelyLate(event.status(), now + kPatience)) continue;
      return event.status();
    }
    switch (event->kind) {
      case client::Event::kBatch:
        DEVMEM_RETURN_IF_ERROR(Take(event->batch));
        if (totals_.batches == options_.limit_batches) {
          FetchStatistics();
          return absl::OkStatus();
        }
        break;
      case client::Event::kEpochEnd:
        ++summary_.epochs;
        options_.progress->EpochEnd(event->epoch_end);
        break;
      case client::Event::kStreamEnd:
        summary_.statistics = event->stream_end.statistics();
        summary_.data_path = event->stream_end.path();
        summary_.path = summary_.data_path.name();
        summary_.path_reason = summary_.data_path.reason();
        return absl::OkStatus();
    }
  }
  return absl::CancelledError("interrupted");
}

// Of a stream that did not come to its end: what the daemon says while it still has it.
void StreamRun::FetchStatistics() {
  auto node = options_.client->GetNodeStatus(Clock::now() + kStatusTimeout);
  if (!node.ok()) return;
  for (const auto& stream : node->streams()) {
    if (stream.stream_id() == summary_.stream_id) summary_.statistics = stream.statistics();
  }
}

// A run may be in order and yet of no use: who made a mistake in its flags should not have to find that in a zero.
void StreamRun::WarnOfNothing() {
  if (totals_.samples > summary_.padding) return;
  std::string text = "no sample was delivered: ";
  if (summary_.skipped_samples > 0 || summary_.skipped_objects > 0) {
    text += "every one was skipped; the list says why";
  } else if (options_.spec.has_resume()) {
    text += "the cursor of --resume stands at the end";
  } else if (stream_->opened().samples() == 0) {
    text += "the objects hold none";
  } else {
    const uint64_t samples = stream_->opened().samples();
    absl::StrAppend(&text, "the bucket has ", samples, samples == 1 ? ", which does not fill" : ", which do not fill",
                    " a step of --batch-size ", options_.spec.batch_size(), " and --world-size ", options_.spec.world_size(),
                    "; --tail pad or uneven delivers what does not");
  }
  summary_.warnings.push_back(text);
  options_.progress->Warning(text);
}

void StreamRun::Read() {
  absl::Status status = ReadAll();
  if (options_.digest != nullptr) {
    const absl::Status closed = options_.digest->Close();
    if (status.ok()) status = closed;
  }
  summary_.stream_id = stream_->opened().stream_id();  // a reconnect has changed it
  summary_.cursor = stream_->cursor();
  EndMeasuring();
  if (!status.ok() && !summary_.statistics) summary_.statistics = StatisticsOf(status);
  if (!status.ok() && !summary_.statistics) FetchStatistics();
  summary_.interrupted = interrupted_;
  // What an interrupt makes fail is no failure of the transfer.
  if (!interrupted_ || status.code() != absl::StatusCode::kCancelled) summary_.status = status;
  if (status.ok()) WarnOfNothing();
  std::unique_ptr<Stream> ended;
  {
    std::lock_guard lock(mutex_);
    ended = std::move(stream_);
  }
}

}  // namespace devmem::cli
