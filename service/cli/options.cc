// SPDX-License-Identifier: Apache-2.0
#include "service/cli/options.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/text.h"
#include "gpu/dtype.h"
#include "net/uri.h"
#include "service/cli/config_file.h"
#include "service/cli/cursor_text.h"
#include "service/cli/settings.h"
#include "service/cli/suggest.h"
#include "service/cli/values.h"
#include "service/http_server.h"

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;

constexpr char kReceiving[] = "Receiving, in the daemon of this process (without --service)";

absl::Status Bad(const std::string& message, const std::string& action = "") {
  return MakeError(absl::StatusCode::kInvalidArgument, message, {.cause = "bad command line", .action = action});
}

// A setter for a protobuf scalar field through its accessor.
template <typename T>
Flag::Set SetField(v1::StreamSpec* spec, void (v1::StreamSpec::*set)(T), uint64_t lowest) {
  return [=](const std::string& text) {
    auto value = ParseWhole(text, lowest, std::numeric_limits<T>::max());
    if (value.ok()) (spec->*set)(static_cast<T>(*value));
    return value.status();
  };
}

template <typename T>
Flag::Set SetEnum(v1::StreamSpec* spec, void (v1::StreamSpec::*set)(T), std::vector<std::pair<std::string, T>> choices) {
  return [=, choices = std::move(choices)](const std::string& text) {
    T value{};
    absl::Status status = SetChoice(&value, choices)(text);
    if (status.ok()) (spec->*set)(value);
    return status;
  };
}

const std::vector<std::pair<std::string, v1::Format>>& Formats() {
  static const auto* formats = new std::vector<std::pair<std::string, v1::Format>>{{"auto", v1::FORMAT_UNSPECIFIED},
                                                                                   {"raw", v1::FORMAT_RAW},
                                                                                   {"npy", v1::FORMAT_NPY},
                                                                                   {"safetensors", v1::FORMAT_SAFETENSORS}};
  return *formats;
}

// A bucket is a URI; which schemes there are is for the stores to say.
Flag::Set SetUri(std::function<void(const std::string&)> store) {
  return [store = std::move(store)](const std::string& text) {
    const size_t colon = text.find("://");
    if (colon == std::string::npos || colon == 0) {
      std::string hint;
      const std::filesystem::path path = absl::StartsWith(text, "file:") ? text.substr(5) : text;
      if (std::error_code error; !path.empty() && std::filesystem::exists(path, error)) {
        hint = absl::StrCat("; for this path write file://",
                            EncodePath(std::filesystem::absolute(path, error).lexically_normal().string()));
      }
      return absl::InvalidArgumentError(
          absl::StrCat("expected a URI such as http://host:8080/path/, s3://bucket/prefix or file:///path", hint));
    }
    store(text);
    return absl::OkStatus();
  };
}

Flag::Set CheckedDTypes(std::vector<std::string>* target) {
  return [target](const std::string& text) {
    auto dtype = ParseDType(SplitNamed(text).second);
    if (!dtype.ok()) return absl::InvalidArgumentError(Text(dtype.status()));
    target->push_back(text);
    return absl::OkStatus();
  };
}

Flag::Set CheckedShapes(std::vector<std::string>* target) {
  return [target](const std::string& text) {
    auto shape = ParseShape(SplitNamed(text).second);
    if (shape.ok()) target->push_back(text);
    return shape.status();
  };
}

Flag::Set CheckedScales(std::vector<std::string>* target) {
  return [target](const std::string& text) {
    auto scale = ParseNumber(SplitNamed(text).second);
    if (scale.ok() && *scale == 0) return absl::InvalidArgumentError("expected a number other than 0");
    if (scale.ok()) target->push_back(text);
    return scale.status();
  };
}

void AddCommon(CommonOptions* common, std::vector<Flag>* flags) {
  const std::string group = "General";
  flags->push_back({.name = "--output",
                    .value = "text|json",
                    .fallback = "text",
                    .group = group,
                    .help = "form of what goes to stdout; json is one object, on the last line",
                    .set = SetChoice<bool>(&common->json, {{"text", false}, {"json", true}})});
  flags->push_back({.name = "--print-config",
                    .group = group,
                    .help = "print each flag's value and where it came from, and exit",
                    .set = SetOn(&common->print_config),
                    .environment = false});
  flags->push_back({.name = "--version",
                    .group = group,
                    .help = "print the version and exit",
                    .set = SetOn(&common->version),
                    .environment = false});
  flags->push_back(
      {.name = "--help", .group = group, .help = "print this and exit", .set = SetOn(&common->help), .environment = false});
}

Duration FromProto(const google::protobuf::Duration& duration) {
  return std::chrono::duration_cast<Duration>(std::chrono::seconds(duration.seconds()) +
                                              std::chrono::nanoseconds(duration.nanos()));
}

TransportChoice TransportOf(v1::Config::Transport transport) {
  switch (transport) {
    case v1::Config::TRANSPORT_DEVMEM:
      return TransportChoice::kDevmem;
    case v1::Config::TRANSPORT_COPY:
      return TransportChoice::kCopy;
    default:
      return TransportChoice::kAuto;
  }
}

Reactor::Backend BackendOf(v1::Config::ReceiveLoop loop) {
  switch (loop) {
    case v1::Config::RECEIVE_LOOP_IO_URING:
      return Reactor::Backend::kIoUring;
    case v1::Config::RECEIVE_LOOP_EPOLL:
      return Reactor::Backend::kEpoll;
    default:
      return Reactor::Backend::kAuto;
  }
}

// The settings that a daemon is made with, in `devmem-loaderd` and in a CLI without --service alike.
void ApplyReceiving(const v1::Config& config, DaemonOptions* daemon) {
  daemon->transport = TransportOf(config.transport());
  daemon->interfaces.assign(config.interface().begin(), config.interface().end());
  daemon->queues = config.queues();
  daemon->steering.mode = config.steer() == v1::Config::STEER_ADDRESS ? SteerMode::kAddress : SteerMode::kConnection;
  daemon->steering.addresses.assign(config.steer_address().begin(), config.steer_address().end());
  daemon->landing_pool = config.landing_pool();
  daemon->backend = BackendOf(config.receive_loop());
  daemon->workers = config.workers();
  daemon->connections = config.connections();
  daemon->memory_limit = config.memory_limit();
  daemon->policy.connect_timeout = FromProto(config.connect_timeout());
  daemon->policy.first_byte_timeout = FromProto(config.first_byte_timeout());
  daemon->policy.stall_timeout = FromProto(config.stall_timeout());
  daemon->policy.total_timeout = FromProto(config.read_timeout());
  daemon->policy.max_retries = static_cast<int>(config.max_retries());
}

std::string LogLevelText(v1::Config::LogLevel level) {
  switch (level) {
    case v1::Config::LOG_LEVEL_DEBUG:
      return "debug";
    case v1::Config::LOG_LEVEL_WARNING:
      return "warning";
    case v1::Config::LOG_LEVEL_ERROR:
      return "error";
    default:
      return "info";
  }
}

constexpr char kReceivingGroup[] = "Receiving";  // in config.proto

// devmem-loader's flags for them.
std::vector<Flag> ReceivingFlags(v1::Config* config) { return SettingFlags(config, kReceivingGroup, kReceiving); }

// Of the daemon's file, what is for those: other flags of devmem-loader are only named as a setting is.
absl::StatusOr<std::optional<FileValues>> LoadReceiving(const std::string& path, bool asked, v1::Config* config) {
  DEVMEM_ASSIGN_OR_RETURN(const std::optional<FileValues> all, LoadConfig(path, asked, config));
  if (!all.has_value()) return std::nullopt;
  FileValues values;
  for (const Flag& flag : ReceivingFlags(config)) {
    if (const auto found = all->find(flag.name); found != all->end()) values.insert(*found);
  }
  return values;
}

void Append(std::vector<Flag> more, std::vector<Flag>* flags) {
  for (Flag& flag : more) flags->push_back(std::move(flag));
}

}  // namespace

FlagTable LoaderTable(LoaderOptions* options) {
  v1::StreamSpec* spec = &options->spec;
  std::vector<Flag> flags;
  const std::string data = "Data";
  flags.push_back({.name = "--bucket",
                   .value = "URI",
                   .group = data,
                   .help = "where the objects are: http://host[:port]/path/, s3://bucket[/prefix] or file:///path",
                   .set = SetUri([spec](const std::string& text) { spec->set_bucket(text); })});
  flags.push_back({.name = "--format",
                   .value = "auto|raw|npy|safetensors",
                   .fallback = "auto",
                   .group = data,
                   .help = "auto goes by the objects' suffixes",
                   .set = SetEnum(spec, &v1::StreamSpec::set_format, Formats())});
  flags.push_back({.name = "--tensor",
                   .value = "[NAME=]GLOB",
                   .group = data,
                   .help =
                       "a tensor of every sample: the objects that hold it (image=image/*.npy) or, in safetensors, its name in "
                       "the file",
                   .set = SetTexts(&options->tensors),
                   .repeatable = true});
  flags.push_back({.name = "--dtype",
                   .value = "[NAME=]DTYPE",
                   .group = data,
                   .help = "element type as stored, by numpy's name (uint8, bfloat16); needed for raw, checked otherwise",
                   .set = CheckedDTypes(&options->dtypes),
                   .repeatable = true});
  flags.push_back({.name = "--shape",
                   .value = "[NAME=]32x32x3",
                   .group = data,
                   .help = "shape of one sample; none is a scalar for raw, and whatever is stored otherwise",
                   .set = CheckedShapes(&options->shapes),
                   .repeatable = true});
  flags.push_back({.name = "--cast",
                   .value = "[NAME=]DTYPE",
                   .group = data,
                   .help = "deliver as this type",
                   .set = CheckedDTypes(&options->casts),
                   .repeatable = true});
  flags.push_back({.name = "--scale",
                   .value = "[NAME=]X",
                   .group = data,
                   .help = "with --cast: multiply by this",
                   .set = CheckedScales(&options->scales),
                   .repeatable = true});
  flags.push_back({.name = "--endpoint-url",
                   .value = "URL",
                   .group = data,
                   .help = "s3: where the API is",
                   .set = [spec](const std::string& text) {
                     spec->set_endpoint_url(text);
                     return absl::OkStatus();
                   }});

  const std::string order = "Batches and their order";
  flags.push_back({.name = "--batch-size",
                   .value = "N",
                   .fallback = "1",
                   .group = order,
                   .help = "samples in a batch",
                   .set = SetField(spec, &v1::StreamSpec::set_batch_size, 1)});
  flags.push_back({.name = "--tail",
                   .value = "drop|pad|uneven",
                   .fallback = "drop",
                   .group = order,
                   .help = "samples that do not fill a whole step of all ranks: left out, filled up with flagged repeats, or "
                           "delivered in short batches",
                   .set = SetEnum<v1::Tail>(spec, &v1::StreamSpec::set_tail,
                                            {{"drop", v1::TAIL_DROP}, {"pad", v1::TAIL_PAD}, {"uneven", v1::TAIL_UNEVEN}})});
  flags.push_back({.name = "--shuffle",
                   .value = "none|block|window:N|global",
                   .fallback = "block",
                   .group = order,
                   .help =
                       "none is the stored order; block permutes blocks of 2 to 4 MiB and the samples of 8 neighbours among "
                       "them; window:N (or window with --window N) shuffles every N samples; global is any sample anywhere",
                   .set = SetText(&options->shuffle)});
  flags.push_back({.name = "--window",
                   .value = "N",
                   .group = order,
                   .help = "samples of --shuffle window",
                   .set = SetWhole(&options->window, 1)});
  flags.push_back({.name = "--block-samples",
                   .value = "N",
                   .group = order,
                   .help = "samples in a block of --shuffle block",
                   .set = [spec](const std::string& text) {
                     auto value = ParseWhole(text, 1, std::numeric_limits<uint64_t>::max());
                     if (value.ok()) spec->mutable_shuffle()->set_block_samples(*value);
                     return value.status();
                   }});
  flags.push_back({.name = "--group-blocks",
                   .value = "N",
                   .group = order,
                   .help = "blocks whose samples mix, with --shuffle block",
                   .set = [spec](const std::string& text) {
                     auto value = ParseWhole(text, 1, std::numeric_limits<uint32_t>::max());
                     if (value.ok()) spec->mutable_shuffle()->set_group_blocks(static_cast<uint32_t>(*value));
                     return value.status();
                   }});
  flags.push_back({.name = "--seed",
                   .value = "N",
                   .fallback = "0",
                   .group = order,
                   .help = "of the shuffle",
                   .set = SetField(spec, &v1::StreamSpec::set_seed, 0)});
  flags.push_back({.name = "--epochs",
                   .value = "N",
                   .fallback = "1",
                   .group = order,
                   .help = "how often to go through the data",
                   .set = SetField(spec, &v1::StreamSpec::set_epochs, 1)});
  flags.push_back({.name = "--rank",
                   .value = "N",
                   .fallback = "0",
                   .group = order,
                   .help = "which trainer this is, from 0",
                   .set = SetField(spec, &v1::StreamSpec::set_rank, 0)});
  flags.push_back({.name = "--world-size",
                   .value = "N",
                   .fallback = "1",
                   .group = order,
                   .help = "how many trainers there are",
                   .set = SetField(spec, &v1::StreamSpec::set_world_size, 1)});
  flags.push_back({.name = "--resume",
                   .value = "CURSOR|@FILE",
                   .group = order,
                   .help = "go on after this cursor (of an earlier summary), also under another world size",
                   .set = [options](const std::string& text) {
                     if (text.empty()) {  // a script whose variable is not set would begin from the start
                       return absl::InvalidArgumentError(
                           "expected a cursor or @FILE; leave --resume away to begin at the start");
                     }
                     options->resume = text;
                     return absl::OkStatus();
                   }});
  flags.push_back({.name = "--expect-fingerprint",
                   .value = "HEX",
                   .group = order,
                   .help =
                       "fail unless the bucket's listing is this one: the fingerprint that rank 0 gives (in its summary, its "
                       "progress and --dry-run), so that all ranks read the same objects",
                   .set = [spec](const std::string& text) {
                     auto fingerprint = ReadFingerprint(text);
                     if (fingerprint.ok()) spec->set_expect_fingerprint(*fingerprint);
                     return fingerprint.status();
                   }});
  flags.push_back({.name = "--limit-batches",
                   .value = "N",
                   .fallback = "0",
                   .group = order,
                   .help = "stop after so many batches; 0 is all",
                   .set = SetWhole(&options->limit_batches)});

  const std::string stream = "Stream";
  flags.push_back({.name = "--service",
                   .value = "unix:PATH",
                   .group = stream,
                   .help = "a daemon to read from; without it one runs in this process",
                   .set = SetText(&options->service)});
  flags.push_back({.name = "--prefetch",
                   .value = "SIZE",
                   .fallback = "0",
                   .group = stream,
                   .help = "slab memory of the stream; 0 leaves it to the daemon",
                   .set = [spec](const std::string& text) {
                     auto value = ParseSize(text);
                     if (value.ok()) spec->set_prefetch_bytes(*value);
                     return value.status();
                   }});
  flags.push_back({.name = "--device",
                   .value = "DEVICE",
                   .group = stream,
                   .help =
                       "where the tensors shall lie: cpu, or cuda:N as this process counts; not given: the daemon's choice, "
                       "and cpu in this process",
                   .set = [spec](const std::string& text) {
                     spec->set_device(text);
                     return absl::OkStatus();
                   }});
  flags.push_back({.name = "--on-error",
                   .value = "fail|skip",
                   .fallback = "fail",
                   .group = stream,
                   .help = "what a bad sample does: end the stream, or be left out and listed",
                   .set = SetEnum<v1::OnError>(spec, &v1::StreamSpec::set_on_error,
                                               {{"fail", v1::ON_ERROR_FAIL}, {"skip", v1::ON_ERROR_SKIP}})});
  flags.push_back({.name = "--max-skipped",
                   .value = "N|P%",
                   .group = stream,
                   .help = "with --on-error skip: samples of an epoch that this rank may leave out before the stream fails; 1% "
                           "where it is not given",
                   .set = [spec](const std::string& text) {
                     if (text.empty() || text.back() != '%') {
                       const auto samples = ParseWhole(text, 0, std::numeric_limits<uint64_t>::max());
                       if (samples.ok()) spec->mutable_max_skipped()->set_samples(*samples);
                       return samples.ok()
                                  ? absl::OkStatus()
                                  : absl::InvalidArgumentError("expected samples, such as 100, or a share, such as 1%");
                     }
                     const auto percent = ParseNumber(std::string_view(text).substr(0, text.size() - 1));
                     if (!percent.ok() || !(*percent >= 0 && *percent <= 100)) {
                       return absl::InvalidArgumentError("expected a share from 0% to 100%");
                     }
                     spec->mutable_max_skipped()->set_share(*percent / 100);
                     return absl::OkStatus();
                   }});
  flags.push_back({.name = "--require-zero-copy",
                   .group = stream,
                   .help = "fail (exit 3) rather than fall back to the copy path",
                   .set = [spec](const std::string& text) {
                     auto value = ParseSwitch(text);
                     if (value.ok()) spec->set_require_zero_copy(*value);
                     return value.status();
                   }});
  flags.push_back(
      {.name = "--config",
       .value = "FILE",
       .group = kReceiving,
       .help = "YAML or JSON as devmem-loaderd reads it; only the settings of this group are taken from there",
       .read = [options](const std::string& path, bool asked) { return LoadReceiving(path, asked, &options->config); }});
  Append(ReceivingFlags(&options->config), &flags);
  flags.push_back({.name = "--drain-timeout",
                   .value = "TIME",
                   .fallback = "1s",
                   .group = kReceiving,
                   .help = "how long an interrupted run waits for its stream to end",
                   .set = SetDuration(&options->drain_timeout)});

  const std::string general = "General";
  flags.push_back(
      {.name = "--digest",
       .value = "FILE",
       .group = general,
       .help = "write one JSON line a sample: epoch, sample, object, offset, bytes and the SHA-256 of what was delivered",
       .set = SetText(&options->digest)});
  flags.push_back({.name = "--dry-run",
                   .group = general,
                   .help = "open, print the specification, schema and counts, deliver nothing",
                   .set = SetOn(&options->dry_run)});
  flags.push_back({.name = "--verbose",
                   .group = general,
                   .help = "the in-process daemon's log goes to stderr",
                   .set = SetOn(&options->verbose)});
  AddCommon(&options->common, &flags);

  return FlagTable(
      {.usage = {"devmem-loader --bucket URI [options]", "devmem-loader streams|status [--service unix:PATH]",
                 "devmem-loader index URI [options]", "devmem-loader bindings [--json]",
                 "devmem-loader doctor [--canary] [options]"},
       .about =
           "Streams a bucket of training data into (device) memory as typed batches, the way a trainer gets them, and says "
           "how fast and on which path.",
       .examples = {{"image and label shards from a web server, in batches of 256",
                     "devmem-loader --bucket http://10.0.0.5/train/ \\\n      --tensor 'image=image/*.npy' --tensor "
                     "'label=label/*.npy' "
                     "--batch-size 256"},
                    {"raw records, verified sample by sample, through the node's daemon",
                     "devmem-loader --bucket s3://data/raw --format raw --dtype uint8 --shape 4096 \\\n      --service "
                     "unix:/run/devmem-loader/loader.sock --digest /tmp/samples.jsonl"},
                    {"what would be read, as JSON", "devmem-loader --bucket file:///data/val --dry-run --output json"}},
       .closing =
           "Every flag may be given in the environment: DEVMEM_BATCH_SIZE for --batch-size; the flag wins. Exit codes: 0 done, "
           "1 transfer failed, 2 usage, 3 zero copy required and not available, 130 interrupted, 253 bad environment or file."},
      std::move(flags), [options] {
        ApplyReceiving(options->config, &options->daemon);
        return absl::OkStatus();
      });
}

FlagTable StatusTable(const std::string& verb, StatusOptions* options) {
  std::vector<Flag> flags;
  flags.push_back({.name = "--service",
                   .value = "unix:PATH",
                   .fallback = absl::StrCat("unix:", kDefaultSocket),
                   .group = "Service",
                   .help = "the daemon to ask",
                   .set = SetText(&options->service)});
  flags.push_back({.name = "--timeout",
                   .value = "TIME",
                   .fallback = "5s",
                   .group = "Service",
                   .help = "longest wait for its answer",
                   .set = SetTimeout(&options->timeout),
                   .environment = false});
  const bool streams = verb == "streams";
  if (!streams) {
    flags.push_back({.name = "--pid",
                     .value = "PID",
                     .group = "Service",
                     .help = "fail unless this process is the one that serves: a pod's daemon is 1 in its own container, and "
                             "its predecessor, on the same socket, is not",
                     .set = SetWhole(&options->pid, 1, std::numeric_limits<int32_t>::max()),
                     .environment = false});
  }
  AddCommon(&options->common, &flags);
  return FlagTable(
      {.usage = {absl::StrCat("devmem-loader ", verb, " [options]")},
       .about = streams ? "Lists the streams that a daemon serves." : "Shows what a daemon is and what it has in use.",
       .examples = {{streams ? "who reads what" : "the node's daemon, for a script",
                     absl::StrCat("devmem-loader ", verb, streams ? "" : " --output json")}}},
      std::move(flags));
}

FlagTable IndexTable(IndexOptions* options) {
  std::vector<Flag> flags;
  const std::string data = "Data";
  flags.push_back({.name = "URI",
                   .value = "URI",
                   .group = data,
                   .help = "the bucket, as for --bucket",
                   .set = SetUri([options](const std::string& text) { options->uri = text; })});
  flags.push_back({.name = "--format",
                   .value = "auto|raw|npy|safetensors",
                   .fallback = "auto",
                   .group = data,
                   .help = "auto goes by the objects' suffixes",
                   .set = SetChoice(&options->format, Formats())});
  flags.push_back({.name = "--tensor",
                   .value = "[NAME=]GLOB",
                   .group = data,
                   .help = "a tensor of every sample, as when streaming",
                   .set = SetTexts(&options->tensors),
                   .repeatable = true});
  flags.push_back({.name = "--dtype",
                   .value = "[NAME=]DTYPE",
                   .group = data,
                   .help = "element type as stored; needed for raw",
                   .set = CheckedDTypes(&options->dtypes),
                   .repeatable = true});
  flags.push_back({.name = "--shape",
                   .value = "[NAME=]32x32x3",
                   .group = data,
                   .help = "shape of one sample",
                   .set = CheckedShapes(&options->shapes),
                   .repeatable = true});
  flags.push_back(
      {.name = "--on-error",
       .value = "fail|skip",
       .fallback = "fail",
       .group = data,
       .help = "what a bad shard does: end the run, or be left out of the index and listed",
       .set = SetChoice<v1::OnError>(&options->on_error, {{"fail", v1::ON_ERROR_FAIL}, {"skip", v1::ON_ERROR_SKIP}})});
  flags.push_back({.name = "--endpoint-url",
                   .value = "URL",
                   .group = data,
                   .help = "s3: where the API is",
                   .set = SetText(&options->endpoint_url)});
  const std::string result = "Result";
  flags.push_back({.name = "--output-file",
                   .value = "FILE",
                   .group = result,
                   .help = "where to write the index; needed unless the bucket is file://, where it goes into the bucket",
                   .set = SetText(&options->output_file)});
  flags.push_back({.name = "--connect-timeout",
                   .value = "TIME",
                   .fallback = "5s",
                   .group = result,
                   .help = "longest wait for a connection",
                   .set = SetTimeout(&options->connect_timeout)});
  flags.push_back({.name = "--timeout",
                   .value = "TIME",
                   .fallback = "1h",
                   .group = result,
                   .help = "longest time for all of it",
                   .set = SetTimeout(&options->timeout),
                   .environment = false});
  AddCommon(&options->common, &flags);
  return FlagTable(
      {.usage = {"devmem-loader index URI [options]"},
       .about = "Reads the header of every object and writes one index of them (.devmem-index), so that the next open "
                "reads one object.",
       .examples = {{"into a local bucket", "devmem-loader index file:///data/train"},
                    {"of a served one; upload the file to the bucket's root afterwards",
                     "devmem-loader index http://10.0.0.5/train/ --output-file ./.devmem-index"}}},
      std::move(flags));
}

FlagTable BindingsTable(BindingsOptions* options) {
  std::vector<Flag> flags;
  flags.push_back({.name = "--journal-folder",
                   .value = "PATH",
                   .fallback = kDefaultJournalFolder,
                   .group = "Journals",
                   .help = "where the daemons say what they did to which NIC; as seen from here, where they are in containers",
                   .set = [options](const std::string& text) {
                     options->journal_folder = text;
                     return text.empty() ? absl::InvalidArgumentError("expected a folder's path") : absl::OkStatus();
                   }});
  AddCommon(&options->common, &flags);
  flags.push_back({.name = "--json",
                   .group = "General",
                   .help = "the same as --output json",
                   .set = SetOn(&options->common.json),
                   .environment = false});
  return FlagTable(
      {.usage = {"devmem-loader bindings [options]"},
       .about =
           "Lists what device memory is bound to NIC queues in this network namespace, and who holds it: as the kernel tells "
           "it of queues and page pools, the module devmem_binding of its handles, and the daemons' journals. "
           "Asks no daemon and changes nothing. What cannot be read (without root, the journals) is said.",
       .examples = {{"what is held on this node", "devmem-loader bindings"},
                    {"of a container's network namespace, for a script", "nsenter -t PID -n devmem-loader bindings --json"}},
       .closing = "Exit codes: 0 listed, also where nothing is bound, 1 failed, 2 usage, 253 bad environment."},
      std::move(flags));
}

namespace {

// A comma-separated list of names, each of them something.
Flag::Set SetNames(std::vector<std::string>* target) {
  return [target](const std::string& text) {
    *target = absl::StrSplit(text, ',');
    for (const std::string& name : *target) {
      if (name.empty()) return absl::InvalidArgumentError("expected names separated by commas");
    }
    return absl::OkStatus();
  };
}

}  // namespace

FlagTable DoctorTable(DoctorCommandOptions* options) {
  doctor::DoctorOptions* const doctor = &options->doctor;
  const doctor::DoctorOptions defaults;
  std::vector<Flag> flags;
  const std::string machine = "Machine";
  flags.push_back({.name = "--interface",
                   .value = "NAME,...",
                   .group = machine,
                   .help = "NICs, bonds or VLANs to look at; default: the NIC that a daemon would choose",
                   .set = SetNames(&doctor->interfaces)});
  flags.push_back({.name = "--device",
                   .value = "cpu|cuda:N",
                   .fallback = defaults.device,
                   .group = machine,
                   .help = "where payload shall lie; cuda:N is the N-th NVIDIA GPU in the order of PCI addresses",
                   .set = [doctor](const std::string& text) {
                     doctor->device = text;
                     if (text == "cpu") return absl::OkStatus();
                     const bool cuda = text.rfind("cuda:", 0) == 0 && ParseWhole(text.substr(5), 0, 1023).ok();
                     return cuda ? absl::OkStatus() : absl::InvalidArgumentError("expected cpu or cuda:N");
                   }});
  flags.push_back({.name = "--queues",
                   .value = "N",
                   .fallback = absl::StrCat(defaults.queues),
                   .group = machine,
                   .help = "as the daemon will be given",
                   .set = SetWhole(&doctor->queues, 1, 1024)});
  flags.push_back({.name = "--connections",
                   .value = "N",
                   .fallback = absl::StrCat(defaults.connections),
                   .group = machine,
                   .help = "as the daemon will be given",
                   .set = SetWhole(&doctor->connections, 1, 4096)});
  const std::string store = "Store";
  flags.push_back({.name = "--bucket",
                   .value = "URI",
                   .group = store,
                   .help = "a bucket to try: http://host[:port]/path/ or s3://bucket[/prefix]",
                   .set = SetUri([doctor](const std::string& text) { doctor->bucket = text; })});
  flags.push_back({.name = "--endpoint-url",
                   .value = "URL",
                   .group = store,
                   .help = "s3: where the API is",
                   .set = SetText(&doctor->endpoint_url)});
  flags.push_back({.name = "--slow",
                   .value = "TIME",
                   .fallback = "250ms",
                   .group = store,
                   .help = "a first byte that takes longer is a warning",
                   .set = SetTimeout(&doctor->slow),
                   .environment = false});
  flags.push_back({.name = "--timeout",
                   .value = "TIME",
                   .fallback = "30s",
                   .group = store,
                   .help = "longest wait for the store's next answer",
                   .set = SetTimeout(&doctor->timeout),
                   .environment = false});
  const std::string canary = "Canary";
  flags.push_back({.name = "--canary",
                   .group = canary,
                   .help =
                       "bind a free queue to a small landing pool, have the bucket's largest object sent there, compare every "
                       "byte, put the NIC back",
                   .set = SetOn(&doctor->canary),
                   .environment = false});
  flags.push_back({.name = "--journal-folder",
                   .value = "PATH",
                   .fallback = kDefaultJournalFolder,
                   .group = canary,
                   .help = "where what is done to the NIC is written down first; the daemons' own folder",
                   .set = SetText(&doctor->journal_folder)});
  AddCommon(&options->common, &flags);
  return FlagTable(
      {.usage = {"devmem-loader doctor [--canary --bucket URI] [options]"},
       .about =
           "Says whether this machine can receive straight into device memory, and if not, why: a row for each thing that it "
           "takes, with what was found, what is wanted and what to do. Changes nothing, but with --canary. Works without "
           "root as far as it can.",
       .examples = {{"what a daemon would find", "devmem-loader doctor"},
                    {"all of it, with a GPU, and bytes that are compared",
                     "devmem-loader doctor --interface eth1 --device cuda:0 --canary --bucket http://10.0.0.5/train/"}},
       .closing =
           "docs/doctor.md has a section for each row. Exit codes: 0 no row failed, 1 one did, 2 usage, 253 bad environment."},
      std::move(flags));
}

absl::Status CheckDoctor(const DoctorCommandOptions& options) {
  if (!options.doctor.canary || !options.doctor.bucket.empty()) return absl::OkStatus();
  return Bad("--canary needs --bucket: it compares what the NIC wrote with the same bytes over an ordinary socket",
             "give a bucket of the store that trainers will read, or of any web server that serves ranges");
}

FlagTable DaemonTable(DaemonCommandOptions* options) {
  std::vector<Flag> flags;
  flags.push_back(
      {.name = "--config",
       .value = "FILE",
       .fallback = kDefaultConfig,
       .group = "Configuration",
       .help = "YAML or JSON with settings, such as memory_limit for --memory-limit; SIGHUP reads it again. The default "
               "need not be there",
       .read = [options](const std::string& path, bool asked) { return LoadConfig(path, asked, &options->config); }});
  Append(SettingFlags(&options->config), &flags);
  flags.push_back({.name = "--recover",
                   .group = "Service",
                   .help = "put back what killed daemons left set on NICs, say what that was, and end: for ExecStopPost=",
                   .set = SetOn(&options->recover)});
  AddCommon(&options->common, &flags);
  return FlagTable(
      {.usage = {"devmem-loaderd [options]"},
       .about = "The daemon of a node: streams buckets into memory and hands batches to trainers by handle. SIGTERM or "
                "SIGINT drains; a second one, half a second later or more, ends at once. SIGHUP reads the configuration again. "
                "SIGUSR2 starts what lies at its "
                "path by now as a successor.",
       .examples = {{"for one user, on a socket of his own",
                     "devmem-loaderd --socket $XDG_RUNTIME_DIR/loader.sock --socket-mode 0600"},
                    {"what it would run with, and where each value is from", "devmem-loaderd --print-config"}},
       .closing = "Every flag may be given in the environment, as DEVMEM_MEMORY_LIMIT for --memory-limit, and every setting in "
                  "the file. A flag wins over the environment, and that over the file. Exit codes: 0 ended as asked, 1 failed, "
                  "2 usage, 130 ended by a second signal, 253 bad environment or file."},
      std::move(flags), [options] { return ApplyConfig(options->config, options); });
}

namespace {

// DEVMEM_LOADER_SERVICE_HOST, DEVMEM_LOADER_PORT_9464_TCP_ADDR: what kubelet and docker put into every container for a service.
bool IsServiceLink(std::string_view name) {
  const absl::string_view text(name.data(), name.size());
  if (absl::EndsWith(text, "_PORT") || absl::EndsWith(text, "_SERVICE_HOST") || absl::StrContains(text, "_SERVICE_PORT"))
    return true;
  return absl::StrContains(text, "_PORT_") &&
         (absl::StrContains(text, "_TCP") || absl::StrContains(text, "_UDP") || absl::StrContains(text, "_SCTP"));
}

}  // namespace

std::vector<std::string> UnknownVariables(const char* const* environment) {
  constexpr std::string_view kPrefix = "DEVMEM_";
  // What the tests of this tree read, and may be set when they run our programs.
  constexpr std::array<std::string_view, 5> kOfTests = {"DEVMEM_BIN", "DEVMEM_SANITIZE", "DEVMEM_SEED", "DEVMEM_SOAK_SECONDS",
                                                        "DEVMEM_KUBERNETES_SCHEMAS"};
  LoaderOptions loader;
  StatusOptions status;
  IndexOptions index;
  BindingsOptions bindings;
  DoctorCommandOptions doctor;
  DaemonCommandOptions daemon;
  std::vector<std::string> read, flags_only;  // flags
  for (const FlagTable& table : {LoaderTable(&loader), StatusTable("streams", &status), StatusTable("status", &status),
                                 IndexTable(&index), BindingsTable(&bindings), DoctorTable(&doctor), DaemonTable(&daemon)}) {
    for (const Flag& flag : table.flags()) {
      if (flag.name[0] == '-' && !flag.file_only) (flag.environment ? read : flags_only).push_back(flag.name);
    }
  }
  const auto among = [](const auto& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  std::vector<std::string> warnings;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view variable = *environment;
    const size_t equals = variable.find('=');
    if (!variable.starts_with(kPrefix) || equals == std::string_view::npos || equals + 1 == variable.size()) continue;
    const std::string_view name = variable.substr(0, equals);
    std::string flag = "--";
    for (const char c : name.substr(kPrefix.size())) {
      flag += c == '_' ? '-' : absl::ascii_tolower(static_cast<unsigned char>(c));
    }
    const bool is_read = among(read, flag) && FlagTable::EnvironmentName(flag) == name;  // not in lower case
    if (is_read || among(kOfTests, name) || IsServiceLink(name)) continue;
    std::string text = absl::StrCat("nothing reads the environment variable ", Printable(name));
    if (among(flags_only, flag)) {
      absl::StrAppend(&text, ": ", flag, " can be given as a flag only");
    } else if (const std::string near = Suggest(flag, read); !near.empty()) {
      absl::StrAppend(&text, "; did you mean ", FlagTable::EnvironmentName(near), "?");
    } else {
      text += "; see --help for the flags that can be set there";
    }
    warnings.push_back(std::move(text));
  }
  return warnings;
}

absl::StatusOr<AccessRules> MakeAccess(const v1::Config& config) {
  std::vector<AccessRule> rules;
  for (const v1::AccessRule& rule : config.access()) {
    rules.push_back({.uids = {rule.uid().begin(), rule.uid().end()},
                     .gids = {rule.gid().begin(), rule.gid().end()},
                     .buckets = {rule.bucket().begin(), rule.bucket().end()},
                     .memory = rule.memory(),
                     .streams = rule.streams()});
  }
  absl::StatusOr<AccessRules> made = AccessRules::Create(std::move(rules));
  if (made.ok()) return made;
  return MakeErrorVerbatim(absl::StatusCode::kFailedPrecondition, Text(made.status()), GetErrorInfo(made.status()));
}

absl::Status ApplyConfig(const v1::Config& config, DaemonCommandOptions* options) {
  ApplyReceiving(config, &options->daemon);
  options->daemon.socket = config.socket().rfind("unix:", 0) == 0 ? config.socket().substr(5) : config.socket();
  if (options->daemon.socket.empty()) return Bad("--socket: 'unix:': expected a path");
  options->daemon.socket_mode = config.socket_mode();
  options->daemon.default_prefetch = config.default_prefetch();
  options->daemon.take_over = config.take_over();
  DEVMEM_ASSIGN_OR_RETURN(options->daemon.access, MakeAccess(config));
  options->drain_timeout = FromProto(config.drain_timeout());
  options->stay_when_succeeded = config.when_succeeded() == v1::Config::WHEN_SUCCEEDED_WAIT;
  options->daemon.device = config.device();
  options->daemon.metrics_listen = config.metrics_listen();
  if (!config.metrics_listen().empty()) {
    if (const auto address = HttpAddress::Parse(config.metrics_listen()); !address.ok()) {
      return Bad(absl::StrCat("--metrics-listen: ", Text(address.status())));
    }
  }
  options->daemon.metrics_streams = config.metrics_streams();
  options->log_file = config.log_file();
  options->log_format = config.log_format() == v1::Config::LOG_FORMAT_JSON ? LogFormat::kJson : LogFormat::kText;
  options->log_level = LogLevelText(config.log_level());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::TensorSpec>> MakeTensors(const TensorFlags& flags) {
  std::vector<v1::TensorSpec> tensors;
  for (const std::string& text : flags.tensors) {
    auto named = SplitNamed(text);
    if (named.second.empty()) return Bad(absl::StrCat("--tensor: '", text, "': expected NAME=GLOB, such as image=image/*.npy"));
    for (const v1::TensorSpec& other : tensors) {
      if (other.name() == named.first) {
        return Bad(absl::StrCat("--tensor: '", text,
                                "': ", named.first.empty() ? "only one may be without a name" : "that name is taken"),
                   "give each --tensor a name of its own: NAME=GLOB");
      }
    }
    v1::TensorSpec tensor;
    tensor.set_name(named.first);
    tensor.set_glob(named.second);
    tensors.push_back(std::move(tensor));
  }
  bool defined = !tensors.empty();

  // A value with a name goes to that tensor; one without to every tensor that has none of its own.
  auto assign = [&](const char* flag, const std::vector<std::string>& texts,
                    const std::function<void(v1::TensorSpec*, const std::string&)>& set) -> absl::Status {
    std::optional<std::string> for_all;
    std::vector<std::pair<std::string, std::string>> named;
    for (const std::string& text : texts) {
      auto split = SplitNamed(text);
      if (text.find('=') == std::string::npos) {
        if (for_all) return Bad(absl::StrCat(flag, ": '", text, "': only one may be without a name"), "write NAME=VALUE");
        for_all = split.second;
        continue;
      }
      if (std::none_of(tensors.begin(), tensors.end(),
                       [&](const v1::TensorSpec& t) { return defined && t.name() == split.first; })) {
        return Bad(absl::StrCat(flag, ": '", text, "': no --tensor is called '", split.first, "'"),
                   absl::StrCat("add --tensor '", split.first, "=GLOB'"));
      }
      named.push_back(std::move(split));
    }
    if (for_all && tensors.empty()) tensors.emplace_back();
    for (v1::TensorSpec& tensor : tensors) {
      if (for_all) set(&tensor, *for_all);
      for (const auto& one : named) {
        if (one.first == tensor.name()) set(&tensor, one.second);
      }
    }
    return absl::OkStatus();
  };
  // The values themselves were checked when the flags were parsed.
  DEVMEM_RETURN_IF_ERROR(assign("--dtype", flags.dtypes, [](v1::TensorSpec* tensor, const std::string& text) {
    tensor->set_dtype(static_cast<v1::DType>(*ParseDType(text)));
  }));
  DEVMEM_RETURN_IF_ERROR(assign("--shape", flags.shapes, [](v1::TensorSpec* tensor, const std::string& text) {
    tensor->clear_shape();
    const std::vector<int64_t> shape = *ParseShape(text);
    for (int64_t dimension : shape) tensor->add_shape(dimension);
  }));
  DEVMEM_RETURN_IF_ERROR(assign("--cast", flags.casts, [](v1::TensorSpec* tensor, const std::string& text) {
    tensor->set_cast(static_cast<v1::DType>(*ParseDType(text)));
  }));
  DEVMEM_RETURN_IF_ERROR(assign(
      "--scale", flags.scales, [](v1::TensorSpec* tensor, const std::string& text) { tensor->set_scale(*ParseNumber(text)); }));
  for (const v1::TensorSpec& tensor : tensors) {
    if (tensor.scale() != 0 && tensor.cast() == v1::DTYPE_UNSPECIFIED) {
      return Bad(absl::StrCat("--scale: tensor '", tensor.name(), "' is not cast"), "add --cast float32");
    }
  }
  return tensors;
}

absl::StatusOr<v1::StreamSpec> MakeSpec(const LoaderOptions& options) {
  v1::StreamSpec spec = options.spec;
  if (spec.bucket().empty()) return Bad("--bucket is missing", "give it a URI such as http://host/path/; see --help");
  DEVMEM_ASSIGN_OR_RETURN(auto tensors,
                          MakeTensors({options.tensors, options.dtypes, options.shapes, options.casts, options.scales}));
  for (v1::TensorSpec& tensor : tensors) *spec.add_tensors() = std::move(tensor);

  std::string mode = options.shuffle;
  uint64_t window = options.window;
  if (const size_t colon = mode.find(':'); colon != std::string::npos) {
    auto count = ParseWhole(std::string_view(mode).substr(colon + 1), 1, std::numeric_limits<uint64_t>::max());
    if (mode.substr(0, colon) != "window" || !count.ok()) {
      return Bad(absl::StrCat("--shuffle: '", mode, "': expected none, block, window:N or global"));
    }
    window = *count;
    mode.resize(colon);
  }
  v1::Shuffle* shuffle = spec.mutable_shuffle();
  if (mode == "none") {
    shuffle->set_mode(v1::Shuffle::NONE);
  } else if (mode == "block") {
    shuffle->set_mode(v1::Shuffle::BLOCK);
  } else if (mode == "global") {
    shuffle->set_mode(v1::Shuffle::GLOBAL);
  } else if (mode == "window") {
    if (window == 0) return Bad("--shuffle: 'window' has no size", "write --shuffle window:N or add --window N");
    shuffle->set_mode(v1::Shuffle::WINDOW);
    shuffle->set_window(window);
  } else {
    return Bad(absl::StrCat("--shuffle: '", mode, "': expected none, block, window:N or global"));
  }
  if (mode != "window" && options.window != 0) return Bad("--window: only for --shuffle window");
  if (mode != "block" && (shuffle->block_samples() != 0 || shuffle->group_blocks() != 0)) {
    return Bad("--block-samples and --group-blocks: only for --shuffle block");
  }
  if (spec.rank() >= spec.world_size()) {
    return Bad(absl::StrCat("--rank: '", spec.rank(), "': expected less than --world-size, which is ", spec.world_size()));
  }
  if (!options.resume.empty()) {
    DEVMEM_ASSIGN_OR_RETURN(*spec.mutable_resume(), ReadCursor(options.resume));
  }
  if (spec.has_max_skipped() && spec.on_error() != v1::ON_ERROR_SKIP) return Bad("--max-skipped: only for --on-error skip");
  spec.set_with_sources(!options.digest.empty());
  spec.set_source_names(!options.digest.empty());
  return spec;
}

absl::Status CheckService(const LoaderOptions& options, const std::vector<FlagValue>& values) {
  if (options.service.empty()) return absl::OkStatus();
  v1::Config scratch;
  std::vector<Flag> flags = ReceivingFlags(&scratch);
  flags.push_back({.name = "--config"});
  for (const FlagValue& value : values) {
    if (value.origin != FlagValue::Origin::kFlag) continue;
    if (std::any_of(flags.begin(), flags.end(), [&](const Flag& flag) { return flag.name == value.name; })) {
      return Bad(absl::StrCat(value.name, ": is about the in-process daemon and would do nothing with --service"),
                 "leave it away, or give it to devmem-loaderd");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDigest(const LoaderOptions& options, int stdout_fd) {
  if (options.digest.empty() || options.dry_run || !options.common.json) return absl::OkStatus();
  struct stat digest {
  }, out{};
  if (::stat(options.digest.c_str(), &digest) != 0 || ::fstat(stdout_fd, &out) != 0) return absl::OkStatus();
  if (digest.st_dev != out.st_dev || digest.st_ino != out.st_ino) return absl::OkStatus();
  if (S_ISCHR(out.st_mode) && out.st_rdev == makedev(1, 3)) return absl::OkStatus();  // /dev/null mixes nothing up
  return Bad(absl::StrCat("--digest: '", options.digest, "' is stdout, where --output json puts its one object"),
             "name another file for one of them");
}

}  // namespace devmem::cli
