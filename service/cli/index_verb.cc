// SPDX-License-Identifier: Apache-2.0
#include "service/cli/index_verb.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/text.h"
#include "service/cli/print.h"
#include "service/cli/progress.h"
#include "service/cli/signals.h"
#include "service/cli/summary.h"
#include "service/dataset_builder.h"

namespace devmem::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Result {
  IndexedDataset indexed;
  std::string path;
  size_t bytes = 0;
  bool in_bucket = false;
};

absl::StatusOr<DatasetOptions> MakeOptions(const IndexOptions& options) {
  const std::vector<std::string> none;
  DEVMEM_ASSIGN_OR_RETURN(auto tensors, MakeTensors({options.tensors, options.dtypes, options.shapes, none, none}));
  DatasetOptions dataset;
  dataset.format = static_cast<DatasetFormat>(options.format);
  dataset.skip_bad_shards = options.on_error == devmem_loader::v1::ON_ERROR_SKIP;
  for (const auto& tensor : tensors) {
    TensorOptions one{.name = tensor.name(), .glob = tensor.glob()};
    if (tensor.dtype() != devmem_loader::v1::DTYPE_UNSPECIFIED) one.dtype = static_cast<DType>(tensor.dtype());
    // A message cannot tell "no shape" from that of a scalar: for raw, which must have one, it is the latter.
    if (tensor.shape_size() > 0 || dataset.format == DatasetFormat::kRaw)
      one.shape.emplace(tensor.shape().begin(), tensor.shape().end());
    dataset.tensors.push_back(std::move(one));
  }
  return dataset;
}

std::string ResultJson(const Result& result) {
  const Dataset& data = result.indexed.dataset;
  Json json = {{"index", result.path},           {"bytes", result.bytes},
               {"in_bucket", result.in_bucket},  {"format", Name(result.indexed.format)},
               {"objects", data.objects.size()}, {"shards", data.shards()},
               {"samples", data.samples()},      {"tensors", Json::array()},
               {"skipped", data.skipped.size()}};
  for (const TensorColumn& tensor : data.tensors) {
    json["tensors"].push_back({{"name", tensor.name}, {"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ResultText(const Result& result, const std::string& uri) {
  const Dataset& data = result.indexed.dataset;
  std::string text =
      absl::StrCat("Wrote ", result.path, " (", FormatSize(result.bytes), "): ", Counted(data.samples(), "sample"), " in ",
                   Counted(data.shards(), "shard"), " of ", std::string(Name(result.indexed.format)));
  for (const TensorColumn& tensor : data.tensors) {
    absl::StrAppend(&text, "\n  ", tensor.name, ": ", std::string(Name(tensor.dtype)), " [", absl::StrJoin(tensor.shape, ", "),
                    "]");
  }
  if (!data.skipped.empty()) absl::StrAppend(&text, "\n  ", Counted(data.skipped.size(), "object"), " left out");
  text += '\n';
  if (!result.in_bucket) {
    absl::StrAppend(&text, "Upload it as ", uri, !uri.empty() && uri.back() == '/' ? "" : "/", std::string(kIndexName),
                    " for the next open to find it.\n");
  }
  return text;
}

}  // namespace

int WriteIndexOf(const IndexOptions& options) {
  std::atomic<bool> interrupted = false;
  EndRequests requests;
  SignalWatcher signals({SIGINT, SIGTERM, SIGHUP}, [&](int, Time at) {
    interrupted = true;
    if (requests.Again(at)) ::_exit(kExitInterrupted);
  });
  std::unique_ptr<Progress> progress = MakeProgress(STDERR_FILENO);
  for (const std::string& warning : UnknownVariables(::environ)) progress->Warning(warning);
  int usage = kExitFailed;
  auto write = [&]() -> absl::StatusOr<Result> {
    auto dataset = MakeOptions(options);
    if (!dataset.ok()) {
      usage = kExitUsage;
      return dataset.status();
    }
    DEVMEM_ASSIGN_OR_RETURN(auto store, OpenStore(options.uri, {.endpoint_url = options.endpoint_url,
                                                                .connect_timeout = options.connect_timeout,
                                                                .portable_validators = true}));
    Result result;
    result.path = options.output_file;
    if (result.path.empty()) {
      DEVMEM_ASSIGN_OR_RETURN(PayloadRequest place, store->PrepareGet(kIndexName));
      result.path = place.file_path;
      result.in_bucket = true;
    }
    if (result.path.empty()) {
      usage = kExitUsage;
      return MakeError(
          absl::StatusCode::kInvalidArgument, "--output-file is missing",
          {.object = store->uri(),
           .cause = "an index is written into file:// buckets only",
           .action = absl::StrCat("write it to a file with --output-file and upload that as ", std::string(kIndexName))});
    }
    const std::time_t began = std::time(nullptr);  // what comes while it is listed need not be in it
    DEVMEM_ASSIGN_OR_RETURN(result.indexed, ListDataset(*store, *dataset, Clock::now() + options.timeout,
                                                        [&](std::string_view phase, uint64_t done, uint64_t total) {
                                                          progress->Opening(phase, done, total);
                                                          return !interrupted.load();
                                                        }));
    result.indexed.written = began;
    const std::string bytes = WriteIndex(result.indexed);
    result.bytes = bytes.size();
    if (interrupted) return absl::CancelledError("interrupted");
    DEVMEM_RETURN_IF_ERROR(ReplaceFile(result.path, bytes));
    return result;
  };
  auto result = write();
  if (result.ok()) {
    for (const Dataset::Skipped& skipped : result->indexed.dataset.skipped) {
      progress->Skipped(skipped.object, std::nullopt, Text(skipped.status));
    }
  }
  progress->Finish();
  absl::Status status = result.status();
  if (result.ok()) {
    status = PrintOut(options.common.json ? ResultJson(*result) : ResultText(*result, options.uri));
  } else if (options.common.json) {
    static_cast<void>(PrintOut(ErrorJson(status) + "\n"));  // the message below goes out in any case
  }
  if (status.ok()) return kExitOk;
  progress->Error(status);
  return interrupted ? static_cast<int>(kExitInterrupted) : usage;
}

}  // namespace devmem::cli
