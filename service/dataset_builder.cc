// SPDX-License-Identifier: Apache-2.0
// How a data set is made of a listing:
//   1. list, and leave out what cannot be data (data_object.h)
//   2. find the format, where it is to be found by suffix
//   3. match one glob a tensor; the k-th match of every tensor together is shard k
//   4. learn every shard's rows: from its size (raw) or its header (npy, safetensors)
//   5. check that shards agree, leave bad ones out if asked to, and lay the columns out
#include "service/dataset_builder.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/text.h"
#include "net/object_name.h"
#include "net/uri.h"
#include "service/data_object.h"
#include "service/digest.h"
#include "service/formats/npy.h"
#include "service/formats/safetensors.h"
#include "service/header_reader.h"
#include "service/index_check.h"
#include "service/index_selection.h"

namespace devmem {
namespace {

constexpr std::string_view kDefaultName = "data";
constexpr std::string_view kNpyGlob = "*.npy";
constexpr std::string_view kSafetensorsGlob = "*.safetensors";

// Element type and shape of one sample.
struct Schema {
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  auto operator<=>(const Schema&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees its hidden 0
};

std::string Text(const Schema& schema) { return std::string(Name(schema.dtype)) + " " + ShapeText(schema.shape); }

// One tensor as it is being put together. Per shard: object (index into the listing), rows, and where they begin.
struct Column {
  TensorOptions wanted;
  std::vector<uint32_t> objects;
  std::vector<uint64_t> offsets;
  std::vector<uint64_t> counts;
  std::vector<uint32_t> schemas;  // index into Draft::schemas
};

struct Draft {
  DatasetFormat format = DatasetFormat::kRaw;
  bool skip = false;  // bad shards
  std::vector<Column> columns;
  std::vector<Schema> schemas;
  std::map<Schema, uint32_t> schema_ids;
  std::map<uint32_t, absl::Status> bad;     // by index into the listing
  std::vector<Dataset::Skipped> unnamable;  // chosen, and left out beforehand
  ObjectTable objects;                      // the listing's, or what header reads made of it (same order, used ones only)
  std::vector<uint32_t> listed;             // per object of `objects`: its index in the listing
  HeldMemory held;                          // all of it but `objects`, which counts itself

  // Of an index into the listing.
  [[nodiscard]] size_t PlaceOf(uint32_t index) const {
    return static_cast<size_t>(std::lower_bound(listed.begin(), listed.end(), index) - listed.begin());
  }
  [[nodiscard]] std::string NameOf(uint32_t index) const { return std::string(objects[PlaceOf(index)].name); }

  absl::StatusOr<uint32_t> Intern(Schema schema) {
    const auto [at, added] = schema_ids.try_emplace(std::move(schema), static_cast<uint32_t>(schemas.size()));
    if (!added) return at->second;
    DEVMEM_RETURN_IF_ERROR(held.Add(4 * sizeof(Schema) + 2 * at->first.shape.size() * sizeof(int64_t)));
    schemas.push_back(at->first);
    return at->second;
  }

  absl::Status SetRows(size_t tensor, size_t shard, uint64_t offset, uint64_t count, Schema schema) {
    columns[tensor].offsets[shard] = offset;
    columns[tensor].counts[shard] = count;
    DEVMEM_ASSIGN_OR_RETURN(columns[tensor].schemas[shard], Intern(std::move(schema)));
    return absl::OkStatus();
  }

  // The first error of an object is the one that counts.
  absl::Status AddBad(uint32_t index, const absl::Status& status) {
    if (bad.try_emplace(index, status).second) return held.Add(2 * Dataset::kSkippedBytes);  // there, and in Dataset::skipped
    return absl::OkStatus();
  }

  // For ReadHeaders of the objects listed[i]: an object that cannot be read is a bad one, where such are left out.
  [[nodiscard]] UnreadableFn Unreadable(std::span<const uint32_t> listed_objects) {
    if (!skip) return nullptr;
    return [this, listed_objects](size_t position, const absl::Status& why) { return AddBad(listed_objects[position], why); };
  }

  absl::Status AddColumn(TensorOptions wanted, std::vector<uint32_t> objects_of_shards) {
    const size_t shards = objects_of_shards.size();
    DEVMEM_RETURN_IF_ERROR(held.Add(2 * sizeof(Column) + wanted.name.size() + wanted.glob.size() +
                                    shards * (2 * sizeof(uint32_t) + 2 * sizeof(uint64_t))));
    columns.push_back({.wanted = std::move(wanted),
                       .objects = std::move(objects_of_shards),
                       .offsets = std::vector<uint64_t>(shards),
                       .counts = std::vector<uint64_t>(shards),
                       .schemas = std::vector<uint32_t>(shards)});
    return absl::OkStatus();
  }
};

// Until when, and for whom, a data set is made.
struct Patience {
  const ObjectStore& store;
  Time deadline;
  const OpenProgressFn& progress;

  // For what the CPU does in between.
  [[nodiscard]] absl::Status Check(uint64_t listed) const {
    if (Clock::now() > deadline) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "the deadline passed while globs were matched",
                       {.object = store.uri(),
                        .fault = Fault::kTimeout,
                        .cause = "deadline",
                        .action = "ask for fewer tensors, or open a folder below it"});
    }
    if (progress == nullptr || progress("listing", listed, 0)) return absl::OkStatus();
    return MakeError(absl::StatusCode::kCancelled, "cancelled by the caller", {.object = store.uri(), .cause = "cancelled"});
  }
};

absl::Status BadSpec(const std::string& what, std::string_view action) {
  return MakeError(absl::StatusCode::kInvalidArgument, what, {.cause = "bad specification", .action = std::string(action)});
}

absl::Status NothingMatches(const ObjectStore& store, const ObjectTable& listing, std::span<const uint32_t> data,
                            const std::string& what) {
  std::string held = "the bucket holds " + Describe(listing, data);
  if (data.size() < listing.size()) held += " and " + std::to_string(listing.size() - data.size()) + " hidden";
  std::string action = "check the URI and the globs";
  if (store.uri().starts_with("s3://") && DecodePercent(store.uri()) != store.uri()) {
    action += "; what follows s3:// is taken as it stands: a blank is a blank there, and not %20";
  }
  return MakeError(absl::StatusCode::kNotFound, what + ": " + held,
                   {.object = store.uri(), .fault = Fault::kBadRequest, .cause = "no data", .action = std::move(action)});
}

bool HasSuffix(const ObjectTable& listing, std::span<const uint32_t> data, std::string_view suffix) {
  return std::any_of(data.begin(), data.end(), [&](uint32_t index) { return listing[index].name.ends_with(suffix); });
}

// By suffix: of what the globs match if that is all npy, else of all there is.
absl::StatusOr<DatasetFormat> FindFormat(const ObjectStore& store, const DatasetOptions& options, const ObjectTable& listing,
                                         std::span<const uint32_t> data, const KeepOn& keep_on) {
  if (options.format != DatasetFormat::kAuto) return options.format;
  if (data.empty()) return NothingMatches(store, listing, data, "the bucket has no data objects");
  bool all_npy = !options.tensors.empty();
  for (const TensorOptions& tensor : options.tensors) {
    DEVMEM_ASSIGN_OR_RETURN(const Glob glob, Glob::Compile(tensor.glob));
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<uint32_t> matched, Match(listing, data, glob, keep_on));
    all_npy = all_npy && !matched.empty() &&
              std::all_of(matched.begin(), matched.end(), [&](uint32_t i) { return listing[i].name.ends_with(".npy"); });
  }
  const bool npy = HasSuffix(listing, data, ".npy");
  const bool safetensors = HasSuffix(listing, data, ".safetensors");
  if (all_npy || (npy && !safetensors)) return DatasetFormat::kNpy;
  if (safetensors && !npy) return DatasetFormat::kSafetensors;
  if (npy) return BadSpec("the bucket holds both .npy and .safetensors objects", "say which with the format, or with globs");
  return BadSpec("the format cannot be told: no object is called .npy or .safetensors among " + Describe(listing, data),
                 "say format raw with dtype and shape, or npy or safetensors if that is what they are");
}

// One column a tensor of raw and npy, with the objects its glob matches.
absl::Status MatchTensors(const ObjectStore& store, const DatasetOptions& options, const ObjectTable& listing,
                          std::span<const uint32_t> data, const KeepOn& keep_on, Draft& draft) {
  std::vector<TensorOptions> tensors = options.tensors;
  if (tensors.empty()) tensors.emplace_back();
  std::set<std::string> names;
  for (TensorOptions& tensor : tensors) {
    if (tensors.size() > 1 && (tensor.name.empty() || tensor.glob.empty())) {
      return BadSpec("of several tensors each needs a name and a glob", "give NAME=GLOB for each");
    }
    if (tensor.name.empty()) tensor.name = kDefaultName;
    if (tensor.glob.empty()) tensor.glob = draft.format == DatasetFormat::kNpy ? kNpyGlob : "*";
    if (!names.insert(tensor.name).second) return BadSpec("two tensors are called " + Quoted(tensor.name), "name them apart");
    DEVMEM_ASSIGN_OR_RETURN(const Glob glob, Glob::Compile(tensor.glob));
    DEVMEM_ASSIGN_OR_RETURN(std::vector<uint32_t> matched, Match(listing, data, glob, keep_on));
    if (matched.empty()) {
      return NothingMatches(store, listing, data,
                            "no object matches the glob '" + tensor.glob + "' of tensor '" + tensor.name + "'");
    }
    DEVMEM_RETURN_IF_ERROR(draft.AddColumn(std::move(tensor), std::move(matched)));
  }
  const Column& first = draft.columns.front();
  for (const Column& column : draft.columns) {
    if (column.objects.size() == first.objects.size()) continue;
    const auto side = [&](const Column& c) {
      return "tensor '" + c.wanted.name + "' ('" + c.wanted.glob + "') matches " + Describe(listing, c.objects);
    };
    return BadSpec(side(first) + ", but " + side(column) + ": they cannot be paired",
                   "every tensor needs the same number of shards");
  }
  return absl::OkStatus();
}

uint64_t Uses(const std::vector<Column>& columns) {
  uint64_t uses = 0;
  for (const Column& column : columns) uses += column.objects.size();
  return uses;
}

std::vector<uint32_t> UsedObjects(const std::vector<Column>& columns) {
  std::vector<uint32_t> used;
  used.reserve(Uses(columns));
  for (const Column& column : columns) used.insert(used.end(), column.objects.begin(), column.objects.end());
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  return used;
}

absl::Status FillRaw(ObjectTable& listing, Draft& draft) {
  for (size_t t = 0; t < draft.columns.size(); ++t) {
    const TensorOptions& wanted = draft.columns[t].wanted;
    const std::string who = "raw tensor '" + wanted.name + "'";
    if (!wanted.dtype.has_value() || !wanted.shape.has_value()) {
      return BadSpec(who + " has no dtype or no shape, and raw bytes do not tell",
                     "give the dtype and the shape of one sample");
    }
    const std::optional<uint64_t> row_bytes = ArrayBytes(*wanted.dtype, *wanted.shape);
    if (!row_bytes.has_value() || *row_bytes == 0) {
      return BadSpec(who + " has shape " + ShapeText(*wanted.shape) + ", which is no number of bytes",
                     "give positive dimensions");
    }
    for (size_t shard = 0; shard < draft.columns[t].objects.size(); ++shard) {
      const uint32_t index = draft.columns[t].objects[shard];
      const ObjectTable::Object object = listing[index];
      if (object.size % *row_bytes != 0) {
        DEVMEM_RETURN_IF_ERROR(draft.AddBad(
            index, MakeError(absl::StatusCode::kDataLoss,
                             std::to_string(object.size) + " bytes are not a whole number of samples of " +
                                 std::to_string(*row_bytes) + " bytes (" + Text(Schema{*wanted.dtype, *wanted.shape}) + ")",
                             {.object = std::string(object.name),
                              .cause = "size is no multiple of the sample",
                              .action = "check dtype and shape, or the object"})));
      }
      DEVMEM_RETURN_IF_ERROR(draft.SetRows(t, shard, 0, object.size / *row_bytes, {*wanted.dtype, *wanted.shape}));
    }
  }
  draft.objects = std::move(listing);
  DEVMEM_RETURN_IF_ERROR(draft.held.Add(draft.objects.size() * sizeof(uint32_t)));
  draft.listed.resize(draft.objects.size());
  std::iota(draft.listed.begin(), draft.listed.end(), 0);
  return absl::OkStatus();
}

absl::Status FillNpy(const ObjectStore& store, const ObjectTable& listing, Time deadline, const ProgressFn& progress,
                     Draft& draft) {
  struct Use {
    uint32_t object, tensor, shard;
    auto operator<=>(const Use&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees its hidden 0
  };
  std::vector<Use> uses;
  HeldMemory held(draft.held.account());
  const uint64_t all = Uses(draft.columns);
  DEVMEM_RETURN_IF_ERROR(held.Resize(all * sizeof(Use)));
  DEVMEM_RETURN_IF_ERROR(draft.held.Add(all * sizeof(uint32_t)));
  uses.reserve(all);
  for (uint32_t t = 0; t < draft.columns.size(); ++t) {
    for (uint32_t shard = 0; shard < draft.columns[t].objects.size(); ++shard) {
      uses.push_back({draft.columns[t].objects[shard], t, shard});
    }
  }
  std::sort(uses.begin(), uses.end());
  draft.listed = UsedObjects(draft.columns);
  const auto parse = [&](size_t position, std::string_view bytes, uint64_t size) -> absl::StatusOr<uint64_t> {
    const uint32_t index = draft.listed[position];
    const auto begin = std::lower_bound(uses.begin(), uses.end(), Use{index, 0, 0});
    NpyOptions options;
    for (auto use = begin; use != uses.end() && use->object == index; ++use) {
      options.bfloat16 |= draft.columns[use->tensor].wanted.dtype == DType::kBF16;
    }
    auto parsed = ParseNpyHeader(bytes, size, options);
    if (!parsed.ok()) {
      DEVMEM_RETURN_IF_ERROR(draft.AddBad(index, WithObject(parsed.status(), listing[index].name)));
      return 0;
    }
    if (const NeedBytes* need = std::get_if<NeedBytes>(&*parsed)) return need->bytes;
    const NpyHeader& header = std::get<NpyHeader>(*parsed);
    for (auto use = begin; use != uses.end() && use->object == index; ++use) {
      DEVMEM_RETURN_IF_ERROR(draft.SetRows(use->tensor, use->shard, header.data_offset, static_cast<uint64_t>(header.shape[0]),
                                           {header.dtype, {header.shape.begin() + 1, header.shape.end()}}));
    }
    return 0;
  };
  DEVMEM_ASSIGN_OR_RETURN(draft.objects, ReadHeaders(store, listing, draft.listed, kNpyFirstRead, deadline, progress, parse,
                                                     draft.Unreadable(draft.listed)));
  return absl::OkStatus();
}

// Which tensors of a safetensors file are asked for; decided by the first good file, and then every file's.
class SafetensorsSelection {
 public:
  SafetensorsSelection(const std::vector<TensorOptions>& wanted, const KeepOn& keep_on) : wanted_(wanted), keep_on_(keep_on) {}

  // One entry a tensor: the specification, its glob being the tensor's name in the file.
  [[nodiscard]] absl::StatusOr<std::vector<TensorOptions>> Choose(const SafetensorsHeader& header) const {
    std::vector<TensorOptions> chosen;
    // The file's order is that of its bytes; by name is what stays the same when a file is written again.
    std::vector<std::string> names;
    for (const SafetensorsTensor& tensor : header.tensors) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    std::set<std::string> unique;
    const std::vector<TensorOptions> all(1);
    for (const TensorOptions& wanted : wanted_.empty() ? all : wanted_) {
      const std::string& glob = wanted.glob.empty() ? wanted.name : wanted.glob;
      DEVMEM_ASSIGN_OR_RETURN(const Glob compiled, Glob::Compile(glob));
      const size_t before = chosen.size();
      for (size_t i = 0; i < names.size(); ++i) {
        if (i % kNamesAtOnce == 0) DEVMEM_RETURN_IF_ERROR(keep_on_());
        const std::string& name = names[i];
        if (!glob.empty() && name != glob && !compiled.Matches(name)) continue;
        if (!wanted.name.empty() && chosen.size() > before) {
          return BadSpec("tensor '" + wanted.name + "' has several sources, '" + chosen[before].glob + "' and '" + name + "'",
                         "give each a name, or none a name");
        }
        chosen.push_back(wanted);
        if (wanted.name.empty()) chosen.back().name = name;
        chosen.back().glob = name;
        if (!unique.insert(chosen.back().name).second) {
          return BadSpec("two tensors are called " + Quoted(chosen.back().name), "name them apart");
        }
      }
      std::string held = "its first file has ";
      for (size_t i = 0; i < std::min<size_t>(names.size(), 10); ++i) held += (i > 0 ? ", " : "") + Quoted(names[i]);
      if (names.size() > 10) held += ", …";
      if (names.empty()) held += "none";
      if (chosen.size() == before) {
        return BadSpec(glob.empty() ? "the data set has no tensors" : absl::StrCat("no tensor matches '", glob, "': ", held),
                       "name a tensor of the files");
      }
    }
    return chosen;
  }

  [[nodiscard]] bool all() const { return wanted_.empty(); }

 private:
  static constexpr size_t kNamesAtOnce = 16;  // a name of theirs can have megabytes

  const std::vector<TensorOptions>& wanted_;
  const KeepOn& keep_on_;
};

using TensorsByName = std::unordered_map<std::string_view, const SafetensorsTensor*>;

const SafetensorsTensor* Find(const TensorsByName& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : found->second;
}

absl::Status NotStreamed(const std::string& what, std::string_view cause, std::string_view action) {
  return MakeError(absl::StatusCode::kFailedPrecondition, what,
                   {.fault = Fault::kObjectMalformed, .cause = cause, .action = std::string(action)});
}

// Whether the tensors chosen can be columns: a type we stream, samples of some bytes, as many of each.
absl::Status CheckStreamable(const TensorsByName& tensors, const std::vector<TensorOptions>& chosen) {
  const SafetensorsTensor* first = nullptr;
  for (const TensorOptions& one : chosen) {
    const SafetensorsTensor* tensor = Find(tensors, one.glob);
    if (tensor == nullptr) continue;  // the caller compares files
    const std::string who = "tensor " + Quoted(tensor->name);
    constexpr std::string_view kAction = "name the tensors that are the data set";
    if (!tensor->dtype.has_value()) {
      return NotStreamed(who + " is of type " + Quoted(tensor->dtype_name) + ", which is not streamed", "unsupported dtype",
                         kAction);
    }
    if (tensor->shape.empty()) return NotStreamed(who + " is a scalar, and has no samples", "0-d tensor", kAction);
    const std::optional<uint64_t> row = ArrayBytes(*tensor->dtype, std::span(tensor->shape).subspan(1));
    if (!row.has_value() || *row == 0) {
      return NotStreamed(who + " has shape " + ShapeText(tensor->shape) + ", samples of no bytes", "empty samples", kAction);
    }
    if (first == nullptr) first = tensor;
    if (tensor->shape[0] != first->shape[0]) {
      return NotStreamed(who + " has " + std::to_string(tensor->shape[0]) + " rows, tensor " + Quoted(first->name) + " has " +
                             std::to_string(first->shape[0]),
                         "first dimensions differ", kAction);
    }
  }
  return absl::OkStatus();
}

absl::Status FillSafetensors(const ObjectStore& store, const DatasetOptions& options, const ObjectTable& listing,
                             std::span<const uint32_t> data, Time deadline, const ProgressFn& progress, const KeepOn& keep_on,
                             Draft& draft) {
  DEVMEM_ASSIGN_OR_RETURN(const Glob glob, Glob::Compile(kSafetensorsGlob));
  DEVMEM_ASSIGN_OR_RETURN(const std::vector<uint32_t> shards, Match(listing, data, glob, keep_on));
  if (shards.empty()) return NothingMatches(store, listing, data, "no object matches '" + std::string(kSafetensorsGlob) + "'");
  DEVMEM_RETURN_IF_ERROR(draft.held.Add(2 * shards.size() * sizeof(uint32_t)));
  draft.listed = shards;
  const SafetensorsSelection selection(options.tensors, keep_on);
  std::string_view reference;  // the file that decided
  const auto parse = [&](size_t shard, std::string_view bytes, uint64_t size) -> absl::StatusOr<uint64_t> {
    const uint32_t index = shards[shard];
    const std::string_view name = listing[index].name;
    // A tensor takes fifty bytes of JSON at least, and some 500 here: itself, its name in two sets, what is chosen of it.
    constexpr uint64_t kParsed = 16;
    HeldMemory parsing(draft.held.account());
    DEVMEM_RETURN_IF_ERROR(parsing.Resize(kParsed * bytes.size()));
    auto parsed = ParseSafetensorsHeader(bytes, size);
    if (!parsed.ok()) {
      DEVMEM_RETURN_IF_ERROR(draft.AddBad(index, WithObject(parsed.status(), name)));
      return 0;
    }
    if (const NeedBytes* need = std::get_if<NeedBytes>(&*parsed)) return need->bytes;
    const SafetensorsHeader& header = std::get<SafetensorsHeader>(*parsed);
    TensorsByName by_name;
    for (const SafetensorsTensor& tensor : header.tensors) by_name.emplace(tensor.name, &tensor);
    std::vector<TensorOptions> chosen;
    if (reference.empty()) {
      auto first = selection.Choose(header);
      if (!first.ok()) return WithObject(first.status(), name);
      chosen = std::move(*first);
    } else {
      for (const Column& column : draft.columns) chosen.push_back(column.wanted);
    }
    if (const absl::Status status = CheckStreamable(by_name, chosen); !status.ok()) {
      DEVMEM_RETURN_IF_ERROR(draft.AddBad(index, WithObject(status, name)));
      return 0;
    }
    if (reference.empty()) {
      reference = name;
      for (TensorOptions& one : chosen) DEVMEM_RETURN_IF_ERROR(draft.AddColumn(std::move(one), shards));
    }
    for (size_t t = 0; t < draft.columns.size(); ++t) {
      const SafetensorsTensor* tensor = Find(by_name, draft.columns[t].wanted.glob);
      if (tensor == nullptr) {
        return MakeError(
            absl::StatusCode::kInvalidArgument,
            "it has no tensor " + Quoted(draft.columns[t].wanted.glob) + ", which " + std::string(reference) + " has",
            {.object = std::string(name), .cause = "shards differ", .action = "name the tensors all shards have"});
      }
      DEVMEM_RETURN_IF_ERROR(draft.SetRows(t, shard, tensor->offset, static_cast<uint64_t>(tensor->shape[0]),
                                           {*tensor->dtype, {tensor->shape.begin() + 1, tensor->shape.end()}}));
    }
    if (selection.all() && header.tensors.size() != draft.columns.size()) {
      return MakeError(absl::StatusCode::kInvalidArgument,
                       "it has " + Counted(header.tensors.size(), "tensor") + ", and " + std::string(reference) + " has " +
                           std::to_string(draft.columns.size()),
                       {.object = std::string(name), .cause = "shards differ", .action = "name the tensors all shards have"});
    }
    return 0;
  };
  DEVMEM_ASSIGN_OR_RETURN(draft.objects, ReadHeaders(store, listing, shards, kSafetensorsFirstRead, deadline, progress, parse,
                                                     draft.Unreadable(shards)));
  if (draft.columns.empty()) return draft.AddColumn({}, shards);  // every file is bad: the one column carries them to the error
  return absl::OkStatus();
}

// Takes shards with a bad object out of every column, or fails for the first.
absl::StatusOr<std::vector<Dataset::Skipped>> DropBad(Draft& draft) {
  std::vector<Dataset::Skipped> skipped;
  if (draft.bad.empty()) return skipped;
  const absl::Status& first = draft.bad.begin()->second;
  if (!draft.skip) return first;
  const size_t shards = draft.columns.front().objects.size();
  std::set<uint32_t> listed;
  size_t kept = 0;
  for (size_t shard = 0; shard < shards; ++shard) {
    const Column* bad = nullptr;
    for (const Column& column : draft.columns) {
      if (draft.bad.contains(column.objects[shard])) bad = &column;
    }
    for (Column& column : draft.columns) {
      const uint32_t index = column.objects[shard];
      if (bad == nullptr) {
        column.objects[kept] = index;
        column.offsets[kept] = column.offsets[shard];
        column.counts[kept] = column.counts[shard];
        column.schemas[kept] = column.schemas[shard];
      } else if (listed.insert(index).second) {
        const auto own = draft.bad.find(index);
        const std::string name = draft.NameOf(index);
        skipped.push_back({name,
                           own != draft.bad.end()
                               ? own->second
                               : MakeError(absl::StatusCode::kFailedPrecondition,
                                           "left out with " + draft.NameOf(bad->objects[shard]) + ", which it is paired with",
                                           {.object = name, .fault = Fault::kObjectMalformed, .cause = "its pair is bad"}),
                           draft.objects[draft.PlaceOf(index)].size});
      }
    }
    kept += bad == nullptr ? 1 : 0;
  }
  if (kept == 0) {
    return MakeError(
        first.code(),
        (shards == 1 ? "the only shard is bad: " : "every shard is bad (" + std::to_string(shards) + "); the first: ") +
            devmem::Text(first),
        GetErrorInfo(first));
  }
  for (Column& column : draft.columns) {
    column.objects.resize(kept);
    column.offsets.resize(kept);
    column.counts.resize(kept);
    column.schemas.resize(kept);
  }
  return skipped;
}

absl::Status CheckSpec(const Draft& draft, const Column& column) {
  const Schema& schema = draft.schemas[column.schemas.front()];
  const TensorOptions& wanted = column.wanted;
  const bool dtype = !wanted.dtype.has_value() || *wanted.dtype == schema.dtype;
  const bool shape = !wanted.shape.has_value() || *wanted.shape == schema.shape;
  if (dtype && shape) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument,
                   "tensor '" + wanted.name + "' holds " + Text(schema) + " a sample, and " +
                       (dtype ? "shape " + ShapeText(*wanted.shape) : std::string(Name(*wanted.dtype))) + " was asked for",
                   {.object = draft.NameOf(column.objects.front()),
                    .cause = dtype ? "wrong shape" : "wrong dtype",
                    .action = "leave dtype and shape out, or correct them"});
}

absl::Status CheckAgreement(const Draft& draft) {
  const Column& first = draft.columns.front();
  for (const Column& column : draft.columns) {
    for (size_t shard = 0; shard < column.objects.size(); ++shard) {
      if (column.schemas[shard] != column.schemas[0]) {
        return MakeError(absl::StatusCode::kFailedPrecondition,
                         "holds " + Text(draft.schemas[column.schemas[shard]]) + " a sample, and " +
                             draft.NameOf(column.objects[0]) + " holds " + Text(draft.schemas[column.schemas[0]]),
                         {.object = draft.NameOf(column.objects[shard]),
                          .cause = "shards differ in dtype or shape",
                          .action = "choose the shards that agree with a glob"});
      }
      if (column.counts[shard] != first.counts[shard]) {
        return MakeError(absl::StatusCode::kFailedPrecondition,
                         "has " + Counted(column.counts[shard], "sample") + ", and " + draft.NameOf(first.objects[shard]) +
                             ", which it is paired with, has " + std::to_string(first.counts[shard]),
                         {.object = draft.NameOf(column.objects[shard]),
                          .cause = "paired shards differ in length",
                          .action = "check that the shards of all tensors have the same order by name"});
      }
    }
    DEVMEM_RETURN_IF_ERROR(CheckSpec(draft, column));
  }
  return absl::OkStatus();
}

absl::StatusOr<IndexedDataset> Finish(Draft draft) {
  IndexedDataset result;
  result.format = draft.format;
  Dataset& dataset = result.dataset;
  dataset.format = draft.format;
  DEVMEM_ASSIGN_OR_RETURN(dataset.skipped, DropBad(draft));
  dataset.skipped.insert(dataset.skipped.end(), std::make_move_iterator(draft.unnamable.begin()),
                         std::make_move_iterator(draft.unnamable.end()));
  DEVMEM_RETURN_IF_ERROR(CheckAgreement(draft));

  const uint64_t uses = Uses(draft.columns);
  DEVMEM_RETURN_IF_ERROR(
      draft.held.Add((draft.columns.front().counts.size() + 1) * sizeof(uint64_t) + uses * sizeof(uint32_t)));
  dataset.first_sample.reserve(draft.columns.front().counts.size() + 1);
  dataset.first_sample.push_back(0);
  for (const uint64_t count : draft.columns.front().counts) {
    if (count > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - dataset.samples()) {
      return BadSpec("the data set has more than 2^63 samples", "choose fewer shards");
    }
    dataset.first_sample.push_back(dataset.samples() + count);
  }

  const std::vector<uint32_t> used = UsedObjects(draft.columns);
  for (Column& column : draft.columns) {
    Schema& schema = draft.schemas[column.schemas.front()];
    for (uint32_t& object : column.objects) {
      object = static_cast<uint32_t>(std::lower_bound(used.begin(), used.end(), object) - used.begin());
    }
    dataset.tensors.push_back({.name = std::move(column.wanted.name),
                               .dtype = schema.dtype,
                               .shape = schema.shape,
                               .row_bytes = *ArrayBytes(schema.dtype, schema.shape),
                               .objects = std::move(column.objects),
                               .data_offsets = std::move(column.offsets)});
    result.globs.push_back(std::move(column.wanted.glob));
  }
  if (used.size() == draft.objects.size()) {
    dataset.objects = std::move(draft.objects);
  } else {
    dataset.objects = ObjectTable(draft.objects.account());
    for (const uint32_t index : used) {
      const ObjectTable::Object object = draft.objects[draft.PlaceOf(index)];
      DEVMEM_RETURN_IF_ERROR(dataset.objects.MakeRoom(object.name.size(), object.validator.size()));
      dataset.objects.Add(object.name, object.size, object.validator);
    }
  }
  dataset.fingerprint = Fingerprint(dataset.objects, dataset.skipped);
  dataset.memory = std::move(draft.held);
  DEVMEM_RETURN_IF_ERROR(dataset.memory.Resize(dataset.bytes()));
  return result;
}

// What of the bucket's data can be asked for, and what cannot.
struct Candidates {
  std::vector<uint32_t> data;
  std::vector<uint32_t> unnamable;
};
Candidates FindCandidates(const ObjectStore& store, const ObjectTable& listing) {
  Candidates found;
  for (uint32_t i = 0; i < listing.size(); ++i) {
    if (!IsDataObject(listing[i].name)) continue;
    (CheckObjectName(listing[i].name, store.uri()).ok() ? found.data : found.unnamable).push_back(i);
  }
  return found;
}

// Those of the unnamable that would have been chosen.
absl::Status CheckUnnamable(const ObjectStore& store, const DatasetOptions& options, const ObjectTable& listing,
                            const std::vector<uint32_t>& unnamable, const KeepOn& keep_on, Draft& draft) {
  if (unnamable.empty()) return absl::OkStatus();
  std::vector<Glob> globs;  // of safetensors a column's glob names tensors, not objects
  if (draft.format == DatasetFormat::kSafetensors) {
    DEVMEM_ASSIGN_OR_RETURN(globs.emplace_back(), Glob::Compile(kSafetensorsGlob));
  } else {
    for (const Column& column : draft.columns) {
      DEVMEM_ASSIGN_OR_RETURN(globs.emplace_back(), Glob::Compile(column.wanted.glob));
    }
  }
  for (const uint32_t index : unnamable) {
    DEVMEM_RETURN_IF_ERROR(keep_on());
    const std::string_view name = listing[index].name;
    if (std::none_of(globs.begin(), globs.end(), [name](const Glob& glob) { return glob.Matches(name); })) continue;
    const absl::Status refused = CheckObjectName(name, store.uri());
    if (!options.skip_bad_shards || draft.columns.size() > 1) return refused;
    draft.unnamable.push_back({std::string(name), refused, listing[index].size});
  }
  return absl::OkStatus();
}

ProgressFn Phase(std::string_view phase, const OpenProgressFn& progress) {
  if (progress == nullptr) return nullptr;
  return [phase, &progress](uint64_t done, uint64_t total) { return progress(phase, done, total); };
}

// The bucket's index, or nullopt if it has none that we may read; and when the store says it was written. What its bytes take
// is held in `memory`.
absl::StatusOr<std::optional<std::string>> FetchIndex(const ObjectStore& store, Time deadline, const ProgressFn& progress,
                                                      HeldMemory& memory, int64_t* modified) {
  // Longer than most, so that one request is enough; short enough to learn from how long the index claims to be.
  constexpr uint64_t kFirst = uint64_t{4} << 20;
  constexpr uint64_t kPiece = uint64_t{64} << 20;  // the longest SmallRead
  std::string bytes;
  std::string validator;
  uint64_t size = 1;
  while (bytes.size() < size) {
    SmallRead read{.object = std::string(kIndexName),
                   .offset = bytes.size(),
                   .length = bytes.empty() ? kFirst : kPiece,
                   .validator = validator};
    DEVMEM_RETURN_IF_ERROR(store.ReadSmall(std::span(&read, 1), 1, deadline, progress));
    // Stores that hide what may not be listed answer 403 for an object that is not there.
    const bool absent = absl::IsNotFound(read.status) || absl::IsPermissionDenied(read.status);
    if (absent && bytes.empty()) return std::nullopt;
    if (!read.status.ok()) return WithObject(read.status, kIndexName);
    size = read.object_size;
    validator = read.object_validator;
    *modified = read.object_modified;
    if (size > kLongestIndex || (read.bytes.empty() && bytes.size() < size)) {
      return MakeError(
          absl::StatusCode::kDataLoss,
          read.elsewhere ? "the index it was redirected to cannot be read"  // how long that is is nobody's business
                         : "index of " + std::to_string(size) + " bytes cannot be read",
          {.object = std::string(kIndexName), .cause = "damaged index", .action = "write the index again, or delete it"});
    }
    if (bytes.empty()) {
      if (absl::Status room = memory.Resize(size); !room.ok()) {
        if (!read.elsewhere) return WithObject(room, kIndexName);
        ErrorInfo info = GetErrorInfo(room);
        info.object = std::string(kIndexName);
        return MakeError(room.code(), "there is no memory for the index it was redirected to", info);
      }
      bytes.reserve(size);
    }
    bytes += read.bytes;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<IndexedDataset> ListDataset(const ObjectStore& store, const DatasetOptions& options, Time deadline,
                                           const OpenProgressFn& progress) {
  DEVMEM_ASSIGN_OR_RETURN(ObjectTable listing, store.List(deadline, Phase("listing", progress)));
  if (listing.size() > std::numeric_limits<uint32_t>::max()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "the bucket has more than 2^32 objects",
                     {.object = store.uri(), .cause = "too many objects", .action = "open a folder of it"});
  }
  HeldMemory held(options.memory);
  DEVMEM_RETURN_IF_ERROR(held.Resize(2 * listing.size() * sizeof(uint32_t)));  // of what is data, and of what a glob matches
  const auto [data, unnamable] = FindCandidates(store, listing);
  const Patience patience{store, deadline, progress};
  const KeepOn keep_on = [&] { return patience.Check(listing.size()); };
  Draft draft{.skip = options.skip_bad_shards, .held = HeldMemory(options.memory)};
  DEVMEM_ASSIGN_OR_RETURN(draft.format, FindFormat(store, options, listing, data, keep_on));
  const ProgressFn headers = Phase("headers", progress);
  if (draft.format == DatasetFormat::kSafetensors) {
    DEVMEM_RETURN_IF_ERROR(FillSafetensors(store, options, listing, data, deadline, headers, keep_on, draft));
    DEVMEM_RETURN_IF_ERROR(CheckUnnamable(store, options, listing, unnamable, keep_on, draft));
  } else {
    DEVMEM_RETURN_IF_ERROR(MatchTensors(store, options, listing, data, keep_on, draft));
    DEVMEM_RETURN_IF_ERROR(CheckUnnamable(store, options, listing, unnamable, keep_on, draft));
    if (draft.format == DatasetFormat::kRaw) {
      DEVMEM_RETURN_IF_ERROR(FillRaw(listing, draft));
    } else {
      DEVMEM_RETURN_IF_ERROR(FillNpy(store, listing, deadline, headers, draft));
    }
  }
  return Finish(std::move(draft));
}

absl::StatusOr<Dataset> BuildDataset(const ObjectStore& store, const DatasetOptions& options, Time deadline,
                                     const OpenProgressFn& progress) {
  HeldMemory memory(options.memory);
  int64_t modified = 0;
  DEVMEM_ASSIGN_OR_RETURN(std::optional<std::string> bytes,
                          FetchIndex(store, deadline, Phase("listing", progress), memory, &modified));
  if (!bytes.has_value()) {
    DEVMEM_ASSIGN_OR_RETURN(IndexedDataset listed, ListDataset(store, options, deadline, progress));
    return std::move(listed.dataset);
  }
  auto indexed = ReadIndex(*std::move(bytes), std::move(memory));
  if (!indexed.ok()) return WithObject(indexed.status(), kIndexName);
  const int64_t written = indexed->written != 0 ? indexed->written : modified;
  DEVMEM_ASSIGN_OR_RETURN(std::string differs, CompareWithFolder(store, *indexed, deadline, Phase("listing", progress)));
  const Patience patience{store, deadline, progress};
  const uint64_t objects = indexed->dataset.objects.size();
  DEVMEM_ASSIGN_OR_RETURN(Dataset dataset,
                          SelectFromIndex(*std::move(indexed), options, [&] { return patience.Check(objects); }));
  dataset.indexed = true;
  dataset.index_written = written;
  dataset.warnings.push_back(IndexNote(written));
  if (!differs.empty()) dataset.warnings.push_back(std::move(differs));
  return dataset;
}

}  // namespace devmem
