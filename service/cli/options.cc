// SPDX-License-Identifier: Apache-2.0
#include "service/cli/options.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "gpu/dtype.h"
#include "service/cli/cursor_text.h"
#include "service/cli/values.h"

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
      return absl::InvalidArgumentError("expected a URI such as http://host:8080/path/, s3://bucket/prefix or file:///path");
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

// Defaults as they would be typed.
std::string Typed(Duration time) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  if (ms % 60000 == 0 && ms != 0) return absl::StrCat(ms / 60000, "m");
  return ms % 1000 == 0 ? absl::StrCat(ms / 1000, "s") : absl::StrCat(ms, "ms");
}
std::string TypedSize(uint64_t bytes) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  return bytes % kMiB == 0 && bytes != 0 ? absl::StrCat(bytes / kMiB, "MiB") : absl::StrCat(bytes);
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

// What a daemon is made with, in `devmem-loaderd` and in a CLI without --service alike.
void AddDaemon(DaemonOptions* daemon, const std::string& group, std::vector<Flag>* flags) {
  const DaemonOptions defaults;
  using Backend = Reactor::Backend;
  using Choice = TransportChoice;
  flags->push_back({.name = "--transport",
                    .value = "auto|devmem|copy",
                    .fallback = "auto",
                    .group = group,
                    .help = "path of the payload: devmem, straight from the NIC into device memory; copy, through host memory; "
                            "auto takes devmem where NIC, kernel and privileges allow it, and says why it did not",
                    .set = SetChoice<Choice>(&daemon->transport,
                                             {{"auto", Choice::kAuto}, {"devmem", Choice::kDevmem}, {"copy", Choice::kCopy}})});
  flags->push_back({.name = "--interface",
                    .value = "NAME,...",
                    .group = group,
                    .help = "devmem: NICs, bonds or VLANs to receive by; default: the NIC nearest the device that can",
                    .set = SetNames(&daemon->interfaces)});
  flags->push_back({.name = "--queues",
                    .value = "N",
                    .fallback = absl::StrCat(defaults.queues),
                    .group = group,
                    .help = "devmem: Rx queues to take of each NIC, at most; a receive thread each",
                    .set = SetWhole(&daemon->queues, 1, 1024)});
  flags->push_back(
      {.name = "--steer",
       .value = "connection|address",
       .fallback = "connection",
       .group = group,
       .help = "devmem: a flow-steering rule for each connection, or one for each --steer-address, for NICs with few rules",
       .set = SetChoice<SteerMode>(&daemon->steering.mode,
                                   {{"connection", SteerMode::kConnection}, {"address", SteerMode::kAddress}})});
  flags->push_back({.name = "--steer-address",
                    .value = "ADDRESS,...",
                    .group = group,
                    .help = "devmem, --steer address: local addresses, one for each queue taken",
                    .set = SetNames(&daemon->steering.addresses)});
  flags->push_back({.name = "--landing-pool",
                    .value = "SIZE",
                    .fallback = TypedSize(defaults.landing_pool),
                    .group = group,
                    .help = "devmem: memory that a NIC writes into; 0 is what the connections can pin, or as much as there is",
                    .set = SetSize(&daemon->landing_pool)});
  flags->push_back(
      {.name = "--receive-loop",
       .value = "auto|io_uring|epoll",
       .fallback = "auto",
       .group = group,
       .help = "copy: auto takes io_uring where the kernel and the sandbox allow it; devmem is always on epoll",
       .set = SetChoice<Backend>(&daemon->backend,
                                 {{"auto", Backend::kAuto}, {"io_uring", Backend::kIoUring}, {"epoll", Backend::kEpoll}})});
  flags->push_back({.name = "--workers",
                    .value = "N",
                    .fallback = absl::StrCat(defaults.workers),
                    .group = group,
                    .help = "copy: receive threads; 0 is half the cores, at least 1 and at most 8",
                    .set = SetWhole(&daemon->workers, 0, 1024)});
  flags->push_back({.name = "--connections",
                    .value = "N",
                    .fallback = absl::StrCat(defaults.connections),
                    .group = group,
                    .help = "connections to one origin, a worker",
                    .set = SetWhole(&daemon->connections, 1, 4096)});
  flags->push_back({.name = "--memory-limit",
                    .value = "SIZE",
                    .fallback = TypedSize(defaults.memory_limit),
                    .group = group,
                    .help = "slab memory of all streams together; 0 is half of the machine's memory",
                    .set = SetSize(&daemon->memory_limit)});
  flags->push_back({.name = "--connect-timeout",
                    .value = "TIME",
                    .fallback = Typed(defaults.policy.connect_timeout),
                    .group = group,
                    .help = "longest wait for a connection",
                    .set = SetTimeout(&daemon->policy.connect_timeout)});
  flags->push_back({.name = "--first-byte-timeout",
                    .value = "TIME",
                    .fallback = Typed(defaults.policy.first_byte_timeout),
                    .group = group,
                    .help = "longest wait for the store to begin its answer",
                    .set = SetTimeout(&daemon->policy.first_byte_timeout)});
  flags->push_back({.name = "--stall-timeout",
                    .value = "TIME",
                    .fallback = Typed(defaults.policy.stall_timeout),
                    .group = group,
                    .help = "longest time without a byte in mid-answer",
                    .set = SetTimeout(&daemon->policy.stall_timeout)});
  flags->push_back({.name = "--read-timeout",
                    .value = "TIME",
                    .fallback = Typed(defaults.policy.total_timeout),
                    .group = group,
                    .help = "longest time for one range, retries included",
                    .set = SetTimeout(&daemon->policy.total_timeout)});
  flags->push_back({.name = "--max-retries",
                    .value = "N",
                    .fallback = absl::StrCat(defaults.policy.max_retries),
                    .group = group,
                    .help = "retries in a row without a byte of progress",
                    .set = SetWhole(&daemon->policy.max_retries, 0, 1000)});
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
  flags.push_back({.name = "--require-zero-copy",
                   .group = stream,
                   .help = "fail (exit 3) rather than fall back to the copy path",
                   .set = [spec](const std::string& text) {
                     auto value = ParseSwitch(text);
                     if (value.ok()) spec->set_require_zero_copy(*value);
                     return value.status();
                   }});
  AddDaemon(&options->daemon, kReceiving, &flags);
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
                 "devmem-loader index URI [options]", "devmem-loader bindings [--json]"},
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
           "1 transfer failed, 2 usage, 3 zero copy required and not available, 130 interrupted, 253 bad environment."},
      std::move(flags));
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
  AddCommon(&options->common, &flags);
  const bool streams = verb == "streams";
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

FlagTable DaemonTable(DaemonCommandOptions* options) {
  std::vector<Flag> flags;
  const std::string service = "Service";
  flags.push_back({.name = "--socket",
                   .value = "PATH",
                   .fallback = kDefaultSocket,
                   .group = service,
                   .help = "gRPC socket; its folder is made if need be, and the handle socket is PATH.fd",
                   .set = [options](const std::string& text) {
                     options->daemon.socket = text.rfind("unix:", 0) == 0 ? text.substr(5) : text;
                     return options->daemon.socket.empty() ? absl::InvalidArgumentError("expected a path") : absl::OkStatus();
                   }});
  flags.push_back({.name = "--socket-mode",
                   .value = "MODE",
                   .fallback = "0660",
                   .group = service,
                   .help = "of both sockets: who may connect",
                   .set = [options](const std::string& text) {
                     auto mode = ParseMode(text);
                     if (mode.ok()) options->daemon.socket_mode = *mode;
                     return mode.status();
                   }});
  flags.push_back({.name = "--default-prefetch",
                   .value = "SIZE",
                   .fallback = TypedSize(DaemonOptions{}.default_prefetch),
                   .group = service,
                   .help = "slab memory of a stream that asks for none",
                   .set = SetSize(&options->daemon.default_prefetch)});
  flags.push_back({.name = "--drain-timeout",
                   .value = "TIME",
                   .fallback = "30s",
                   .group = service,
                   .help = "after SIGTERM, how long the streams may go on",
                   .set = SetDuration(&options->drain_timeout)});
  flags.push_back(
      {.name = "--take-over",
       .group = service,
       .help = "if a daemon serves the socket, take over from it what it holds, NICs included, without restarting a queue; its "
               "trainers resume here, and it ends. If none does, start as always",
       .set = SetOn(&options->daemon.take_over)});
  flags.push_back(
      {.name = "--when-succeeded",
       .value = "exit|wait",
       .fallback = "exit",
       .group = service,
       .help = "when another has taken over: end, or wait for SIGTERM first, where what ends is started again (a pod)",
       .set = SetChoice<bool>(&options->stay_when_succeeded, {{"exit", false}, {"wait", true}})});
  flags.push_back({.name = "--device",
                   .value = "cpu|cuda:N",
                   .fallback = DaemonOptions{}.device,
                   .group = service,
                   .help =
                       "where the tensors of all streams lie, as this process counts (CUDA_VISIBLE_DEVICES); its trainers must "
                       "have the same one",
                   .set = SetText(&options->daemon.device)});
  AddDaemon(&options->daemon, "Receiving", &flags);
  flags.push_back({.name = "--recover",
                   .group = service,
                   .help = "put back what killed daemons left set on NICs, say what that was, and end: for ExecStopPost=",
                   .set = SetOn(&options->recover)});
  flags.push_back({.name = "--log-file",
                   .value = "FILE",
                   .group = "Log",
                   .help = "appended to; not given: stderr",
                   .set = SetText(&options->log_file)});
  flags.push_back(
      {.name = "--log-level",
       .value = "debug|info|warning|error",
       .fallback = "info",
       .group = "Log",
       .help = "what is logged",
       .set = SetChoice<std::string>(&options->log_level,
                                     {{"debug", "debug"}, {"info", "info"}, {"warning", "warning"}, {"error", "error"}})});
  AddCommon(&options->common, &flags);
  return FlagTable(
      {.usage = {"devmem-loaderd [options]"},
       .about = "The daemon of a node: streams buckets into memory and hands batches to trainers by handle. SIGTERM or "
                "SIGINT drains; a second one ends at once.",
       .examples = {{"for one user, on a socket of his own",
                     "devmem-loaderd --socket $XDG_RUNTIME_DIR/loader.sock --socket-mode 0600"}},
       .closing = "Every flag may be given in the environment: DEVMEM_MEMORY_LIMIT for --memory-limit; the flag wins. Exit "
                  "codes: 0 ended as asked, 1 failed, 2 usage, 130 ended by a second signal, 253 bad environment."},
      std::move(flags));
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
  spec.set_with_sources(!options.digest.empty());
  return spec;
}

absl::Status CheckService(const LoaderOptions& options, const std::vector<FlagValue>& values) {
  if (options.service.empty()) return absl::OkStatus();
  LoaderOptions scratch;
  std::vector<Flag> flags;
  AddDaemon(&scratch.daemon, kReceiving, &flags);
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
