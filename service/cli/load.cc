// SPDX-License-Identifier: Apache-2.0
#include "service/cli/load.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/text.h"
#include "gpu/dtype.h"
#include "service/cli/cursor_text.h"
#include "service/cli/log.h"
#include "service/cli/print.h"
#include "service/cli/private_daemon.h"
#include "service/cli/signals.h"
#include "service/cli/stream_run.h"

namespace devmem::cli {
namespace {

using Json = nlohmann::ordered_json;

// What a signal has to reach: the run that is to end, and at a second signal the folder that must not be left.
class Interrupter {
 public:
  void Signal(Time at) {
    std::lock_guard lock(mutex_);
    interrupted_ = true;
    if (requests_.Again(at)) {
      if (daemon_ != nullptr) daemon_->RemoveFolder();
      ::_exit(kExitInterrupted);
    }
    if (run_ != nullptr) run_->Interrupt();
  }
  // nullptr before what was given goes away.
  void Set(StreamRun* run) {
    std::lock_guard lock(mutex_);
    run_ = run;
    if (interrupted_ && run != nullptr) run->Interrupt();
  }
  void Set(PrivateDaemon* daemon) {
    std::lock_guard lock(mutex_);
    daemon_ = daemon;
  }

 private:
  std::mutex mutex_;
  EndRequests requests_;
  bool interrupted_ = false;
  StreamRun* run_ = nullptr;
  PrivateDaemon* daemon_ = nullptr;
};

std::string TypeName(devmem_loader::v1::DType dtype) {
  return dtype == devmem_loader::v1::DTYPE_UNSPECIFIED ? "?" : std::string(Name(static_cast<DType>(dtype)));
}

std::string DryRunJson(const devmem_loader::v1::StreamSpec& spec, const devmem_loader::v1::StreamOpened& opened) {
  google::protobuf::util::JsonPrintOptions print;
  print.preserve_proto_field_names = true;
  std::string spec_json;
  static_cast<void>(
      google::protobuf::util::MessageToJsonString(spec, &spec_json, print));  // it has no Any, which alone can fail
  Json json;
  json["dry_run"] = true;
  json["spec"] = Json::parse(spec_json, nullptr, /*allow_exceptions=*/false);
  json["path"] = opened.path().name();
  json["path_reason"] = opened.path().reason();
  json["fingerprint"] = FingerprintText(opened.cursor().listing_fingerprint());
  json["schema"] = Json::array();
  for (const auto& tensor : opened.schema()) {
    json["schema"].push_back({{"name", tensor.name()},
                              {"dtype", TypeName(tensor.dtype())},
                              {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())},
                              {"stored_dtype", TypeName(tensor.stored_dtype())}});
  }
  json["samples"] = opened.samples();
  json["steps_per_epoch"] = opened.steps_per_epoch();
  json["batches"] = ExpectedBatches(opened, spec);
  json["slots"] = opened.slots();
  uint64_t slab_bytes = 0;
  for (const auto& slab : opened.slabs()) slab_bytes += slab.bytes();
  json["slab_bytes"] = slab_bytes;
  json["skipped"] = opened.skipped_size();
  json["warnings"] = std::vector<std::string>(opened.warnings().begin(), opened.warnings().end());
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string DryRunText(const devmem_loader::v1::StreamSpec& spec, const devmem_loader::v1::StreamOpened& opened) {
  std::string text = absl::StrCat("Would read:\n  specification   ", spec.ShortDebugString(), "\n  path            ",
                                  opened.path().name(), " (", opened.path().reason(), ")\n");
  for (const auto& tensor : opened.schema()) {
    absl::StrAppend(&text, "  tensor          ", tensor.name(), ": ", TypeName(tensor.dtype()), " [",
                    absl::StrJoin(tensor.shape(), ", "), "]");
    if (tensor.dtype() != tensor.stored_dtype()) absl::StrAppend(&text, ", stored as ", TypeName(tensor.stored_dtype()));
    text += '\n';
  }
  absl::StrAppend(&text, "  samples         ", opened.samples(), " an epoch, over all ranks\n  batches         ",
                  ExpectedBatches(opened, spec), " for this rank, ", opened.steps_per_epoch(), " in a full epoch\n");
  absl::StrAppend(&text, "  fingerprint     ", FingerprintText(opened.cursor().listing_fingerprint()), "\n");
  uint64_t slab_bytes = 0;
  for (const auto& slab : opened.slabs()) slab_bytes += slab.bytes();
  absl::StrAppend(&text, "  slab memory     ", FormatSize(slab_bytes), " in ", Counted(opened.slots(), "slot"), "\n");
  return text;
}

int ExitCodeOf(const Summary& summary, bool zero_copy_required) {
  if (summary.interrupted) return kExitInterrupted;
  if (summary.status.ok()) return kExitOk;
  if (zero_copy_required && FaultOf(summary.status) == Fault::kNoZeroCopy) return kExitNoZeroCopy;
  return kExitFailed;
}

// Says how it ended. The summary is the last line of stdout.
int Conclude(const LoaderOptions& options, const Summary& summary, Progress* progress) {
  progress->Finish();
  if (!summary.status.ok() && !summary.interrupted) progress->Error(summary.status);
  int code = ExitCodeOf(summary, options.spec.require_zero_copy());
  const absl::Status printed = PrintOut(options.common.json ? SummaryJson(summary) + "\n" : SummaryText(summary));
  if (!printed.ok()) {
    progress->Error(printed);
    if (code == kExitOk) code = kExitFailed;
  }
  return code;
}

int Fail(const LoaderOptions& options, const absl::Status& status, Progress* progress) {
  Summary summary;
  summary.service = options.service;
  summary.status = status;
  return Conclude(options, summary, progress);
}

}  // namespace

int Load(const LoaderOptions& options, const devmem_loader::v1::StreamSpec& spec) {
  Interrupter interrupter;
  SignalWatcher signals({SIGINT, SIGTERM, SIGHUP}, [&](int, Time at) { interrupter.Signal(at); });
  std::unique_ptr<Progress> progress = MakeProgress(STDERR_FILENO);
  if (absl::Status log = SetUpLog("", options.verbose ? "info" : "off"); !log.ok()) return Fail(options, log, progress.get());

  for (const std::string& warning : UnknownVariables(::environ)) progress->Warning(warning);

  // A file that cannot be written is found out before any byte is read.
  std::unique_ptr<DigestWriter> digest;
  if (!options.digest.empty() && !options.dry_run) {
    auto opened = DigestWriter::Open(options.digest);
    if (!opened.ok()) return Fail(options, opened.status(), progress.get());
    digest = *std::move(opened);
  }

  std::unique_ptr<PrivateDaemon> daemon;
  if (options.service.empty()) {
    DaemonOptions ours = options.daemon;
    if (!spec.device().empty()) ours.device = spec.device();
    auto started = PrivateDaemon::Start(ours);
    if (!started.ok()) return Fail(options, started.status(), progress.get());
    daemon = *std::move(started);
    interrupter.Set(daemon.get());
  }
  auto leave = [&](int code) {
    if (daemon != nullptr) daemon->daemon().Drain(Clock::now() + options.drain_timeout);
    interrupter.Set(static_cast<PrivateDaemon*>(nullptr));
    return code;
  };

  ConnectOptions how;
  if (!spec.device().empty()) how.device = spec.device();
  auto connected = Client::Connect(daemon != nullptr ? daemon->socket() : options.service, how);
  if (!connected.ok()) return leave(Fail(options, connected.status(), progress.get()));
  std::shared_ptr<Client> client = *std::move(connected);

  StreamRun run({.spec = spec,
                 .client = client,
                 .progress = progress.get(),
                 .digest = digest.get(),
                 .limit_batches = options.limit_batches,
                 .service = options.service});
  interrupter.Set(&run);
  const absl::Status opened = run.Open();
  if (!opened.ok()) {
    const int code = Conclude(options, run.summary(), progress.get());
    if (run.summary().interrupted) {  // the call to open may be under way on its thread: leave without waiting for it
      if (daemon != nullptr) daemon->RemoveFolder();
      ::_exit(code);
    }
    interrupter.Set(static_cast<StreamRun*>(nullptr));
    return leave(code);
  }
  int code = kExitOk;
  if (options.dry_run) {
    progress->Finish();
    const absl::Status printed =
        PrintOut(options.common.json ? DryRunJson(spec, run.opened()) : DryRunText(spec, run.opened()));
    if (!printed.ok()) {
      progress->Error(printed);
      code = kExitFailed;
    }
  } else {
    run.Read();
    code = Conclude(options, run.summary(), progress.get());
  }
  interrupter.Set(static_cast<StreamRun*>(nullptr));
  return leave(code);
}

}  // namespace devmem::cli
