// SPDX-License-Identifier: Apache-2.0
#include "service/open_stream.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/text.h"
#include "base/trace.h"
#include "client/cpp/rpc_error.h"
#include "service/digest.h"
#include "service/glob.h"
#include "service/prefetch_window.h"
#include "service/skip_allowance.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;

constexpr uint64_t kMostPieces = 1 << 22;  // rows * tensors of a batch: what planning its reads costs memory for
constexpr int kMostDimensions = 64;        // numpy has 32, 64 since version 2
constexpr int kMostTensors = 4096;
constexpr size_t kLongestName = kLongestGlob;  // of a tensor; it is in every batch
// What may be said of the batches in a window: as much as the slabs, but this at least; and of one batch, which is part of a
// protobuf message.
constexpr uint64_t kSaidAtLeast = uint64_t{64} << 20;
constexpr uint64_t kSaidOfOne = uint64_t{1} << 30;
constexpr uint32_t kMostEmptyEpochs = 1000;

absl::Status Invalid(std::string_view what, std::string_view field, std::string_view action) {
  return MakeError(absl::StatusCode::kInvalidArgument, what,
                   {.cause = absl::StrCat("bad ", std::string(field)), .action = std::string(action)});
}

std::optional<DType> ToDType(v1::DType dtype) {
  if (dtype == v1::DTYPE_UNSPECIFIED) return std::nullopt;
  return static_cast<DType>(dtype);
}

absl::StatusOr<DatasetOptions> ToDatasetOptions(const v1::StreamSpec& spec) {
  DatasetOptions options;
  switch (spec.format()) {
    case v1::FORMAT_UNSPECIFIED:
      options.format = DatasetFormat::kAuto;
      break;
    case v1::FORMAT_RAW:
      options.format = DatasetFormat::kRaw;
      break;
    case v1::FORMAT_NPY:
      options.format = DatasetFormat::kNpy;
      break;
    case v1::FORMAT_SAFETENSORS:
      options.format = DatasetFormat::kSafetensors;
      break;
    default:
      return Invalid("unknown format", "format", "use raw, npy or safetensors");
  }
  if (spec.on_error() < v1::ON_ERROR_UNSPECIFIED || spec.on_error() > v1::ON_ERROR_SKIP) {
    return Invalid("unknown rule for errors", "on_error", "use fail or skip");
  }
  if (spec.tensors_size() > kMostTensors)
    return Invalid("too many tensors", "tensors", absl::StrCat("name at most ", kMostTensors));
  options.skip_bad_shards = spec.on_error() == v1::ON_ERROR_SKIP;
  for (const v1::TensorSpec& tensor : spec.tensors()) {
    if (!v1::DType_IsValid(tensor.dtype()) || !v1::DType_IsValid(tensor.cast()))
      return Invalid("unknown dtype", "dtype", "use a numpy name");
    if (tensor.shape_size() > kMostDimensions) {
      return Invalid(absl::StrCat("tensor ", tensor.name(), " has ", tensor.shape_size(), " dimensions"), "shape",
                     absl::StrCat("give at most ", kMostDimensions));
    }
    if (tensor.name().size() > kLongestName) {
      return Invalid(absl::StrCat("a tensor's name has ", tensor.name().size(), " bytes"), "name",
                     absl::StrCat("give it ", kLongestName, " at most"));
    }
    DEVMEM_RETURN_IF_ERROR(Glob::Compile(tensor.glob()).status());
    TensorOptions& out = options.tensors.emplace_back();
    out.name = tensor.name();
    out.glob = tensor.glob();
    out.dtype = ToDType(tensor.dtype());
    if (tensor.shape_size() > 0) out.shape = std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end());
    // On the wire an absent shape and a scalar's look the same; raw must have one, so there it is a scalar.
    if (!out.shape.has_value() && spec.format() == v1::FORMAT_RAW) out.shape.emplace();
  }
  return options;
}

absl::StatusOr<PlanSpec> ToPlanSpec(const v1::StreamSpec& spec) {
  PlanSpec plan;
  plan.batch_size = std::max<uint32_t>(1, spec.batch_size());
  plan.seed = spec.seed();
  plan.rank = spec.rank();
  plan.world_size = std::max<uint32_t>(1, spec.world_size());
  plan.epochs = std::max<uint32_t>(1, spec.epochs());
  switch (spec.tail()) {
    case v1::TAIL_UNSPECIFIED:
    case v1::TAIL_DROP:
      plan.tail = TailRule::kDrop;
      break;
    case v1::TAIL_PAD:
      plan.tail = TailRule::kPad;
      break;
    case v1::TAIL_UNEVEN:
      plan.tail = TailRule::kUneven;
      break;
    default:
      return Invalid("unknown tail rule", "tail", "use drop, pad or uneven");
  }
  switch (spec.shuffle().mode()) {
    case v1::Shuffle::MODE_UNSPECIFIED:
    case v1::Shuffle::BLOCK:
      plan.shuffle.mode = ShuffleMode::kBlock;
      break;
    case v1::Shuffle::NONE:
      plan.shuffle.mode = ShuffleMode::kNone;
      break;
    case v1::Shuffle::WINDOW:
      plan.shuffle.mode = ShuffleMode::kWindow;
      break;
    case v1::Shuffle::GLOBAL:
      plan.shuffle.mode = ShuffleMode::kGlobal;
      break;
    default:
      return Invalid("unknown shuffle", "shuffle", "use none, block, window or global");
  }
  plan.shuffle.window = spec.shuffle().window();
  plan.shuffle.block_samples = spec.shuffle().block_samples();
  plan.shuffle.group_blocks = spec.shuffle().group_blocks();
  return plan;
}

absl::StatusOr<std::vector<std::optional<CastRequest>>> ToCasts(const v1::StreamSpec& spec, const Dataset& dataset) {
  std::vector<std::optional<CastRequest>> casts(dataset.tensors.size());
  for (const v1::TensorSpec& tensor : spec.tensors()) {
    if (tensor.scale() != 0 && (tensor.cast() == v1::DTYPE_UNSPECIFIED || !std::isfinite(tensor.scale()))) {
      return Invalid(absl::StrCat("tensor ", tensor.name(), " has a scale but no cast, or one that is not finite"), "scale",
                     "give --cast with --scale");
    }
    if (tensor.cast() == v1::DTYPE_UNSPECIFIED) continue;
    bool found = false;
    for (size_t t = 0; t < dataset.tensors.size(); ++t) {
      // A spec without a name speaks of every tensor.
      if (!tensor.name().empty() && dataset.tensors[t].name != tensor.name()) continue;
      found = true;
      casts[t] = CastRequest{.to = static_cast<DType>(tensor.cast()), .scale = tensor.scale() == 0 ? 1.0 : tensor.scale()};
      if (casts[t]->to != DType::kF16 && casts[t]->to != DType::kBF16 && casts[t]->to != DType::kF32 &&
          casts[t]->to != DType::kF64 && (casts[t]->to != dataset.tensors[t].dtype || casts[t]->scale != 1.0)) {
        return Invalid(absl::StrCat("tensor ", dataset.tensors[t].name, " cannot be cast to ", std::string(Name(casts[t]->to))),
                       "cast", "cast to float16, bfloat16, float32 or float64");
      }
    }
    if (!found)
      return Invalid(absl::StrCat("there is no tensor ", tensor.name(), " to cast"), "cast",
                     "name one of the data set's tensors");
  }
  return casts;
}

// What a message says of one batch takes in memory, at most, but for bad rows. Of a trainer that does not read, the daemon
// holds such a message for each slot.
uint64_t SaidOfBatch(const v1::StreamSpec& spec, const Dataset& dataset, const BatchLayout& layout, uint64_t rows) {
  constexpr uint64_t kItem = 3 * sizeof(void*);  // what it takes to be allocated, and pointed to
  uint64_t bytes = sizeof(v1::Batch) + sizeof(v1::Cursor) + sizeof(v1::Stall) + 3 * kItem;
  for (const OutputTensor& tensor : layout.tensors) {
    bytes += sizeof(v1::Tensor) + sizeof(std::string) + tensor.name.size() + 3 * kItem;
    bytes += (tensor.shape.size() + 1) * sizeof(int64_t);
  }
  bytes += rows * sizeof(uint64_t);
  if (spec.tail() == v1::TAIL_PAD) bytes += rows * 2;
  if (!spec.with_sources()) return bytes;
  uint64_t longest = 0;
  for (size_t i = 0; i < dataset.objects.size(); ++i) {
    const std::string_view name = dataset.objects[i].name;
    // A byte that is not UTF-8 becomes three.
    const auto others = std::count_if(name.begin(), name.end(), [](char c) { return (c & 0x80) != 0; });
    longest = std::max(longest, name.size() + 2 * static_cast<uint64_t>(others));
  }
  const uint64_t pieces = rows * layout.tensors.size();
  const uint64_t names = spec.source_names() ? std::min<uint64_t>(pieces, dataset.objects.size()) : pieces;
  return bytes + pieces * (sizeof(v1::SampleSource) + kItem) + names * (sizeof(std::string) + 2 * kItem + longest);
}

// What of the spec decides which sample is which, besides the plan and the listing. The format is the one that was found:
// whether it was asked for makes no difference.
std::string OrderText(const Dataset& dataset, DatasetFormat format) {
  std::string text = absl::StrCat("format=", static_cast<int>(format));
  for (const TensorColumn& tensor : dataset.tensors) {
    absl::StrAppend(&text, ";", tensor.name, ":", std::string(Name(tensor.dtype)), "[", absl::StrJoin(tensor.shape, ","), "]");
  }
  return text;
}

absl::StatusOr<Position> StartOf(const v1::StreamSpec& spec, const Plan& plan, uint64_t spec_hash, const Dataset& dataset) {
  if (!spec.has_resume()) return Position{};
  const v1::Cursor& cursor = spec.resume();
  const auto refuse = [&](std::string_view what, std::string_view cause, std::string_view action) {
    return MakeError(absl::StatusCode::kFailedPrecondition, absl::StrCat("the cursor cannot be resumed: ", std::string(what)),
                     {.object = spec.bucket(), .cause = std::string(cause), .action = std::string(action)});
  };
  if (cursor.plan_version() != kPlanVersion) {
    return refuse(
        absl::StrCat("it is of plan version ", cursor.plan_version(), ", this daemon plans by version ", kPlanVersion),
        "other plan version", "resume with the daemon version that made it, or start the epoch anew");
  }
  if (cursor.listing_fingerprint() != dataset.fingerprint) {
    return refuse("the bucket's objects changed since it was saved", "listing changed",
                  "start the epoch anew, or bring back the objects as they were");
  }
  // A cursor of format auto says so, and not which format that was: daemons of all releases know it. Either is as good.
  const uint64_t of_auto = plan.SpecHash(OrderText(dataset, DatasetFormat::kAuto));
  const uint64_t of_found = plan.SpecHash(OrderText(dataset, dataset.format));
  if (cursor.spec_hash() != spec_hash && cursor.spec_hash() != of_auto && cursor.spec_hash() != of_found) {
    return refuse("it was made under another format, tensors, shuffle or seed", "other specification",
                  "use the specification it was saved with");
  }
  if (cursor.position() > plan.spec().samples || cursor.epoch() > plan.spec().epochs) {
    return refuse(absl::StrCat("epoch ", cursor.epoch(), ", position ", cursor.position(), " is outside of ",
                               Counted(plan.spec().epochs, "epoch"), " of ", Counted(plan.spec().samples, "sample")),
                  "cursor out of range", "check --epochs");
  }
  return Position{.epoch = cursor.epoch(), .position = cursor.position()};
}

// The data set is of the listing that the spec asks for, if it asks for one.
absl::Status CheckListing(const v1::StreamSpec& spec, const Dataset& dataset) {
  if (!spec.has_expect_fingerprint() || spec.expect_fingerprint() == dataset.fingerprint) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("the bucket's listing has fingerprint ", FingerprintText(dataset.fingerprint), ", and ",
                   FingerprintText(spec.expect_fingerprint()), " is expected"),
      {.object = spec.bucket(),
       .fault = Fault::kListingChanged,
       .cause = "listing changed",
       .action = "start all ranks anew when nobody writes to the bucket, each with rank 0's fingerprint and with the "
                 "same objects and tensors; or give the bucket an index (devmem-loader index), which stands still"});
}

// The data set, of a listing that may be another stream's. None is refused for what another was told: where that does not do,
// the store is asked again.
absl::StatusOr<Dataset> FindDataset(const v1::StreamSpec& spec, const ObjectStore& alone, ListedStore& store,
                                    const DatasetOptions& options, const OpenContext& context) {
  const auto build = [&] { return BuildDataset(store, options, context.deadline, context.progress); };
  absl::StatusOr<Dataset> dataset = build();
  if (store.shared()) {
    const bool ended = absl::IsCancelled(dataset.status()) || absl::IsDeadlineExceeded(dataset.status()) ||
                       absl::IsResourceExhausted(dataset.status());
    const auto fits = [&](const Dataset& found) {
      return CheckListing(spec, found).ok() && (!spec.has_resume() || spec.resume().listing_fingerprint() == found.fingerprint);
    };
    if (dataset.ok() ? !fits(*dataset) : !ended) {
      // Others share the listing there is: it is given up only for one that does better, not for a mistyped glob.
      absl::StatusOr<Dataset> fresh = BuildDataset(alone, options, context.deadline, context.progress);
      if (!fresh.ok()) return fresh;
      if (!dataset.ok() || fits(*fresh)) {
        store.Renew();
        dataset = build();
      }
    }
  }
  if (dataset.ok()) DEVMEM_RETURN_IF_ERROR(CheckListing(spec, *dataset));
  return dataset;
}

// Trainer and daemon must mean the same device. A name is a process's own; the UUID, where the trainer's client knows it, is
// everybody's.
absl::Status CheckDevice(const v1::StreamSpec& spec, const Device& device) {
  const std::string name(device.name()), uuid(device.uuid());
  if (!spec.device_uuid().empty()) {
    if (spec.device_uuid() == uuid) return absl::OkStatus();
    return MakeError(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the daemon serves ", uuid, " (", name, " there), this trainer asked for ", spec.device(), ", which is ",
                     spec.device_uuid()),
        {.object = spec.device(),
         .cause = "another device",
         .action = "give both the same device (CUDA_VISIBLE_DEVICES, a pod's devices), or ask the daemon that has it"});
  }
  if (spec.device().empty() || spec.device() == name) return absl::OkStatus();
  return MakeError(absl::StatusCode::kNotFound, absl::StrCat("this node has no device '", spec.device(), "'"),
                   {.object = spec.device(), .cause = "no such device", .action = absl::StrCat("use ", name)});
}

absl::StatusOr<OpenedStream> Prepare(const v1::StreamSpec& spec, const OpenContext& context) {
  const TraceRange traced("open stream");
  const Time asked = Clock::now();
  if (spec.bucket().empty()) return Invalid("no bucket was given", "bucket", "set it to http://…, s3://… or file:///…");
  DEVMEM_RETURN_IF_ERROR(CheckDevice(spec, *context.device));
  DEVMEM_ASSIGN_OR_RETURN(DatasetOptions dataset_options, ToDatasetOptions(spec));
  dataset_options.memory = context.memory;
  DEVMEM_ASSIGN_OR_RETURN(PlanSpec plan_spec, ToPlanSpec(spec));
  {  // what is wrong with the spec itself shall be said before a bucket is listed
    PlanSpec empty = plan_spec;
    DEVMEM_RETURN_IF_ERROR(Plan::Create(empty).status());
  }
  StoreOptions store_options;
  store_options.endpoint_url = spec.endpoint_url();
  store_options.redirects = context.redirects;
  store_options.memory = context.memory;
  DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<const ObjectStore> store, OpenStore(spec.bucket(), store_options));
  // Ranks must agree. Who is alone gets what the bucket holds now.
  ListedStore shared(spec.world_size() > 1 ? context.listings : nullptr, store,
                     ListingKey(store->uri(), spec.endpoint_url(), context.peer), context.memory);
  DEVMEM_ASSIGN_OR_RETURN(Dataset built, FindDataset(spec, *store, shared, dataset_options, context));
  const auto dataset = std::make_shared<const Dataset>(std::move(built));

  DEVMEM_ASSIGN_OR_RETURN(const auto casts, ToCasts(spec, *dataset));
  // No batch has more rows than there are samples, unless they are padded.
  const uint64_t rows = plan_spec.tail == TailRule::kPad
                            ? plan_spec.batch_size
                            : std::min<uint64_t>(plan_spec.batch_size, std::max<uint64_t>(1, dataset->samples()));
  DEVMEM_ASSIGN_OR_RETURN(BatchLayout layout, MakeBatchLayout(*dataset, casts, static_cast<uint32_t>(rows)));
  if (rows * layout.tensors.size() > kMostPieces) {
    return Invalid(absl::StrCat("a batch of ", Counted(rows, "row"), " of ", Counted(layout.tensors.size(), "tensor"),
                                " is more than ", kMostPieces, " pieces"),
                   "batch size", "lower --batch-size or select fewer tensors");
  }
  plan_spec.samples = dataset->samples();
  plan_spec.sample_bytes = layout.sample_bytes();
  DEVMEM_ASSIGN_OR_RETURN(Plan plan, Plan::Create(plan_spec));
  if (plan.Steps(0) == 0 && plan_spec.epochs > kMostEmptyEpochs) {
    return Invalid(absl::StrCat("an epoch has no batch for this rank (", Counted(plan_spec.samples, "sample"), ", batch size ",
                                plan_spec.batch_size, ", world size ", plan_spec.world_size, "), and ", plan_spec.epochs,
                                " of them were asked for"),
                   "epochs", "lower --batch-size, use --tail pad, or ask for fewer epochs");
  }
  std::optional<uint64_t> may_skip;
  if (spec.on_error() == v1::ON_ERROR_SKIP) {
    DEVMEM_ASSIGN_OR_RETURN(may_skip, SkipAllowance(spec, plan, *dataset));
    // Whoever takes an epoch of nothing is never refused, also where he resumes with other batches than were counted before.
    if (spec.max_skipped().share() == 1) may_skip = std::numeric_limits<uint64_t>::max();
  }
  const uint64_t spec_hash =
      plan.SpecHash(OrderText(*dataset, spec.format() == v1::FORMAT_UNSPECIFIED ? DatasetFormat::kAuto : dataset->format));
  DEVMEM_ASSIGN_OR_RETURN(const Position start, StartOf(spec, plan, spec_hash, *dataset));

  // Two slots at least, or reading and training would take turns; no more than the stream has batches.
  const uint64_t slot_cost = layout.slot_bytes + layout.staging_slot_bytes;
  const uint64_t wanted = spec.prefetch_bytes() != 0 ? spec.prefetch_bytes() : context.default_prefetch;
  const uint64_t batches = std::max<uint64_t>(1, plan.Steps(0) * std::min<uint64_t>(plan_spec.epochs, uint64_t{1} << 20));
  // What a window may hold besides bytes: each slot costs a few hundred bytes, each row its sample id, here and on the
  // way to the trainer.
  constexpr uint64_t kMostSlots = 1 << 16;
  constexpr uint64_t kMostRows = 1 << 20;
  const uint64_t said = SaidOfBatch(spec, *dataset, layout, rows);
  if (said > kSaidOfOne) {
    return Invalid(absl::StrCat("a batch of ", rows, " rows of ", layout.tensors.size(), " tensors takes ", said,
                                " bytes to tell where its samples are"),
                   "batch size", "lower --batch-size, select fewer tensors, or ask for no sources");
  }
  // Of a small limit a small part: a stream of tiny samples shall not need all of it to plan.
  const uint64_t share = std::max<uint64_t>(uint64_t{1} << 20, context.budget->limit() / 16);
  const uint64_t wave_pieces = std::clamp<uint64_t>(share / kPieceBytes, 1 << 12, kWavePieces);
  const uint64_t most_slots = std::min({kMostSlots, std::max<uint64_t>(2, kMostRows / rows),
                                        std::max<uint64_t>(2, std::max(wanted, std::min(kSaidAtLeast, share)) / said)});
  const uint64_t slots =
      std::min({std::max<uint64_t>(2, slot_cost == 0 ? 2 : wanted / slot_cost), std::max<uint64_t>(2, batches), most_slots});
  const auto wave_slots = static_cast<uint32_t>(slots >= batches ? slots : std::max<uint64_t>(1, slots / 2));
  const uint64_t pieces = rows * layout.tensors.size();
  const uint64_t planned = std::min(wave_slots * pieces, std::max(pieces, wave_pieces));
  HeldMemory working(context.memory);
  DEVMEM_RETURN_IF_ERROR(working.Resize(slots * (said + rows * sizeof(uint64_t)) + planned * kPieceBytes));
  MemoryBudget::Reservation of_user;
  if (context.quota) {
    DEVMEM_ASSIGN_OR_RETURN(of_user, context.quota(slots * slot_cost));
  }
  DEVMEM_ASSIGN_OR_RETURN(MemoryBudget::Reservation of_node, context.budget->Reserve(slots * slot_cost));

  OpenedStream result{.setup = {.plan = plan}, .forget_listing = shared.Forgetter()};
  StreamSetup& setup = result.setup;
  const Time allocating = Clock::now();
  DEVMEM_ASSIGN_OR_RETURN(setup.slab, context.device->Allocate(std::max<uint64_t>(1, slots * layout.slot_bytes),
                                                               {.name = "devmem-loader-slab", .exportable = true}));
  if (layout.staging_slot_bytes > 0) {
    DEVMEM_ASSIGN_OR_RETURN(setup.staging,
                            context.device->Allocate(slots * layout.staging_slot_bytes, {.name = "devmem-loader-staging"}));
  }
  setup.allocating = Clock::now() - allocating;
  setup.store = std::move(store);
  setup.dataset = dataset;
  setup.start = start;
  // Another rank's count, or one of another share of the epoch, says nothing of what this one may leave out.
  const v1::Cursor& cursor = spec.resume();
  if (cursor.rank() == plan.spec().rank && cursor.world_size() == plan.spec().world_size) {
    setup.skipped = std::min(cursor.skipped(), plan.spec().samples);
  }
  setup.spec_hash = spec_hash;
  setup.may_skip = may_skip;
  setup.require_zero_copy = spec.require_zero_copy();
  setup.with_sources = spec.with_sources();
  setup.source_names = spec.source_names();
  setup.signals_waiting = spec.signals_waiting();
  setup.reads = context.reads;
  setup.device = context.device;
  setup.slots = static_cast<uint32_t>(slots);
  setup.wave_slots = wave_slots;
  setup.wave_pieces = wave_pieces;
  setup.of_node = std::move(of_node);
  setup.of_user = std::move(of_user);
  setup.working = std::move(working);
  setup.asked = asked;

  v1::StreamOpened& opened = result.opened;
  for (const OutputTensor& tensor : layout.tensors) {
    v1::TensorSchema* const schema = opened.add_schema();
    schema->set_name(tensor.name);
    schema->set_dtype(static_cast<v1::DType>(tensor.delivered));
    schema->set_stored_dtype(static_cast<v1::DType>(tensor.stored));
    for (const int64_t dimension : tensor.shape) schema->add_shape(dimension);
  }
  opened.set_samples(plan_spec.samples);
  opened.set_steps_per_epoch(plan.Steps(0));
  v1::Slab* const slab = opened.add_slabs();
  slab->set_id(0);
  slab->set_bytes(setup.slab->bytes());
  opened.set_slots(slots);
  for (const Dataset::Skipped& skipped : dataset->skipped) {
    v1::SkippedObject* const listed = opened.add_skipped();
    listed->set_object(ToUtf8(skipped.object));
    *listed->mutable_error() = DetailOf(skipped.status);
  }
  opened.set_listing_fingerprint(dataset->fingerprint);
  opened.set_index_unix_seconds(dataset->index_written);
  for (const std::string& warning : dataset->warnings) opened.add_warnings(ToUtf8(warning));
  std::vector<uint64_t> row_bytes;
  for (const OutputTensor& tensor : layout.tensors) row_bytes.push_back(tensor.stored_bytes);
  const uint64_t wave = uint64_t{setup.wave_slots} * plan_spec.batch_size;
  if (std::string warning = SmallReadWarning(plan, row_bytes, wave, context.reads); !warning.empty())
    opened.add_warnings(std::move(warning));
  if (plan.Steps(0) == 0) {
    opened.add_warnings(absl::StrCat("this rank gets no batch: an epoch of ", Counted(plan_spec.samples, "sample"),
                                     " has no full step of ", Counted(plan_spec.world_size, "rank"), " with batches of ",
                                     plan_spec.batch_size, "; see --tail"));
  }
  // A window that holds all there is to read has no parts.
  if (plan_spec.samples > 0 && plan.spec().shuffle.mode == ShuffleMode::kBlock && slots < batches) {
    std::string warning = SplitGroupWarning({.slots = slots,
                                             .wave_slots = setup.wave_slots,
                                             .most_slots = most_slots,
                                             .slot_bytes = slot_cost,
                                             .batch_size = plan_spec.batch_size,
                                             .prefetch = wanted},
                                            plan.GroupEnd(0, 0), plan_spec.world_size);
    if (!warning.empty()) opened.add_warnings(std::move(warning));
  }
  setup.layout = std::move(layout);
  return result;
}

}  // namespace

absl::StatusOr<OpenedStream> PrepareStream(const v1::StreamSpec& spec, const OpenContext& context) {
  // Whatever is counted, there may be less memory than the limit says. One stream less is better than no daemon.
  try {
    return Prepare(spec, context);
  } catch (const std::bad_alloc&) {
    return MakeError(absl::StatusCode::kResourceExhausted, "the daemon has run out of memory while it opened the stream",
                     {.object = spec.bucket(),
                      .fault = Fault::kMemoryLimit,
                      .cause = "out of memory",
                      .action = "lower the daemon's --memory-limit below what it can really have, or give it more"});
  }
}

}  // namespace devmem
