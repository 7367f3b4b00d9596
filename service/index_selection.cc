// SPDX-License-Identifier: Apache-2.0
#include "service/index_selection.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "service/data_object.h"
#include "service/digest.h"

namespace devmem {
namespace {

constexpr size_t kColumnsAtOnce = 64;

std::string Held(const IndexedDataset& indexed) {
  std::string text = "it has ";
  constexpr size_t kNamed = 10;
  for (size_t i = 0; i < std::min(indexed.globs.size(), kNamed); ++i) {
    if (i > 0) text += ", ";
    text += "'" + indexed.dataset.tensors[i].name + "' ('" + indexed.globs[i] + "')";
  }
  if (indexed.globs.size() > kNamed) text += ", …";
  return text;
}

absl::Status Contradicts(const std::string& what, std::string_view cause) {
  return MakeError(
      absl::StatusCode::kInvalidArgument, "the bucket's index " + what,
      {.object = std::string(kIndexName),
       .cause = std::string(cause),
       .action = "correct the specification, or write the index again with it (devmem-loader index), or delete it"});
}

absl::Status CheckColumn(const IndexedDataset& indexed, size_t column, const TensorOptions& wanted, const Glob& glob) {
  const TensorColumn& tensor = indexed.dataset.tensors[column];
  const std::string who = "has tensor '" + tensor.name + "' ";
  const bool named_inside = indexed.format == DatasetFormat::kSafetensors;
  if (!wanted.glob.empty() && wanted.glob != indexed.globs[column] && !(named_inside && glob.Matches(indexed.globs[column]))) {
    return Contradicts(who + "from '" + indexed.globs[column] + "', not '" + wanted.glob + "'; " + Held(indexed), "other glob");
  }
  if (wanted.dtype.has_value() && *wanted.dtype != tensor.dtype) {
    return Contradicts(who + "as " + std::string(Name(tensor.dtype)) + ", not " + std::string(Name(*wanted.dtype)),
                       "wrong dtype");
  }
  if (wanted.shape.has_value() && *wanted.shape != tensor.shape) {
    return Contradicts(who + "with shape " + ShapeText(tensor.shape) + ", not " + ShapeText(*wanted.shape), "wrong shape");
  }
  return absl::OkStatus();
}

// The columns one TensorOptions means, by its name; without a name (safetensors) by its glob.
absl::StatusOr<std::vector<size_t>> Columns(const IndexedDataset& indexed, const TensorOptions& wanted, const KeepOn& keep_on) {
  DEVMEM_ASSIGN_OR_RETURN(const Glob glob, Glob::Compile(wanted.glob));
  std::vector<size_t> columns;
  const bool unnamed = wanted.name.empty() && indexed.format == DatasetFormat::kSafetensors;
  const std::string name = wanted.name.empty() ? "data" : wanted.name;
  for (size_t i = 0; i < indexed.globs.size(); ++i) {
    if (i % kColumnsAtOnce == 0) DEVMEM_RETURN_IF_ERROR(keep_on());
    const bool meant =
        unnamed ? wanted.glob.empty() || glob.Matches(indexed.globs[i]) : indexed.dataset.tensors[i].name == name;
    if (meant) columns.push_back(i);
  }
  if (columns.empty()) {
    const std::string what = unnamed ? "matching '" + wanted.glob + "'" : "'" + name + "'";
    return Contradicts("has no tensor " + what + ": " + Held(indexed), "no such tensor");
  }
  for (const size_t column : columns) DEVMEM_RETURN_IF_ERROR(CheckColumn(indexed, column, wanted, glob));
  return columns;
}

// Leaves only the objects that the tensors use, so that the fingerprint is a listing's for the same specification.
absl::Status Prune(Dataset& dataset) {
  HeldMemory held(dataset.objects.account());
  DEVMEM_RETURN_IF_ERROR(held.Resize(dataset.objects.size() * (sizeof(uint32_t) + 1)));
  std::vector<bool> used(dataset.objects.size());
  for (const TensorColumn& tensor : dataset.tensors) {
    for (const uint32_t object : tensor.objects) used[object] = true;
  }
  if (std::find(used.begin(), used.end(), false) == used.end()) return absl::OkStatus();
  std::vector<uint32_t> moved(used.size());
  ObjectTable kept(dataset.objects.account());
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) continue;
    moved[i] = static_cast<uint32_t>(kept.size());
    const ObjectTable::Object object = dataset.objects[i];
    DEVMEM_RETURN_IF_ERROR(kept.MakeRoom(object.name.size(), object.validator.size()));
    kept.Add(object.name, object.size, object.validator);
  }
  for (TensorColumn& tensor : dataset.tensors) {
    for (uint32_t& object : tensor.objects) object = moved[object];
  }
  dataset.objects = std::move(kept);
  dataset.fingerprint = Fingerprint(dataset.objects, dataset.skipped);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Dataset> SelectFromIndex(IndexedDataset indexed, const DatasetOptions& options, const KeepOn& keep_on) {
  if (options.format != DatasetFormat::kAuto && options.format != indexed.format) {
    return Contradicts("is of format " + std::string(Name(indexed.format)) + ", not " + std::string(Name(options.format)),
                       "other format");
  }
  Dataset& dataset = indexed.dataset;
  if (options.tensors.empty()) return std::move(dataset);
  std::vector<size_t> chosen;
  for (const TensorOptions& wanted : options.tensors) {
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<size_t> columns, Columns(indexed, wanted, keep_on));
    chosen.insert(chosen.end(), columns.begin(), columns.end());
  }
  if (std::set<size_t>(chosen.begin(), chosen.end()).size() != chosen.size()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "a tensor is asked for twice",
                     {.object = std::string(kIndexName), .cause = "bad specification", .action = "name each once"});
  }
  std::vector<TensorColumn> tensors;
  tensors.reserve(chosen.size());
  for (const size_t column : chosen) tensors.push_back(std::move(dataset.tensors[column]));
  dataset.tensors = std::move(tensors);
  DEVMEM_RETURN_IF_ERROR(Prune(dataset));
  DEVMEM_RETURN_IF_ERROR(dataset.memory.Resize(dataset.bytes()));
  return std::move(dataset);
}

}  // namespace devmem
