// SPDX-License-Identifier: Apache-2.0
#include "service/index.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "base/error.h"
#include "devmem_loader/v1/index.pb.h"
#include "service/digest.h"
#include "service/glob.h"

namespace devmem {
namespace {

using devmem_loader::v1::DatasetIndex;
using devmem_loader::v1::IndexColumn;

constexpr uint32_t kVersion = 1;
// The checksum is written last: its tag (field 9, 64 bits: 9 << 3 | 1) and 8 bytes. So it covers all bytes before.
constexpr char kChecksumTag = 9 << 3 | 1;
constexpr size_t kChecksumBytes = 9;
constexpr uint64_t kInt64Max = std::numeric_limits<int64_t>::max();

absl::Status Damaged(std::string_view what) {
  return MakeError(absl::StatusCode::kDataLoss, what,
                   {.cause = "damaged index", .action = "write the index again, or delete it"});
}

uint64_t Checksum(std::string_view bytes) {
  ShortDigest digest;
  digest.AddBytes(bytes);
  return digest.Finish();
}

// What a field's numbers take, each, once they are parsed; 0: it is bytes, or a message.
struct Field {
  uint32_t number = 0;
  uint64_t item = 0;
};
constexpr Field kIndexFields[] = {{4, sizeof(uint32_t)}, {5, sizeof(uint64_t)}, {7, sizeof(uint32_t)}};
constexpr Field kColumnFields[] = {{3, sizeof(int64_t)}, {5, sizeof(uint32_t)}, {6, sizeof(uint64_t)}, {7, sizeof(uint64_t)}};
constexpr uint32_t kColumns = 8;

std::optional<uint64_t> TakeVarint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// What the message in `bytes` takes when it is parsed, at most: a byte of it may become a number of 8, or two of them a column.
// nullopt: it is no message.
std::optional<uint64_t> ParsedBytes(std::string_view bytes, std::span<const Field> fields) {
  constexpr uint64_t kGrowth = 3;   // of an array that grows: the one it leaves, and twice as much
  constexpr uint64_t kOther = 128;  // a string, or a field that we do not know
  constexpr uint64_t kColumn = sizeof(IndexColumn) + 8 * sizeof(void*);
  const bool top = fields.data() == kIndexFields;
  uint64_t sum = 0;
  while (!bytes.empty()) {
    const std::optional<uint64_t> tag = TakeVarint(bytes);
    if (!tag.has_value()) return std::nullopt;
    const uint64_t number = *tag >> 3;
    const auto known = std::find_if(fields.begin(), fields.end(), [number](const Field& f) { return f.number == number; });
    const uint64_t item = known == fields.end() ? 0 : known->item * kGrowth;
    switch (*tag & 7) {
      case 0:
        if (!TakeVarint(bytes).has_value()) return std::nullopt;
        sum += std::max(item, kOther);
        continue;
      case 1:
      case 5: {
        const size_t size = (*tag & 7) == 1 ? 8 : 4;
        if (bytes.size() < size) return std::nullopt;
        bytes.remove_prefix(size);
        sum += kOther;
        continue;
      }
      case 2:
        break;
      default:
        return std::nullopt;
    }
    const std::optional<uint64_t> size = TakeVarint(bytes);
    if (!size.has_value() || *size > bytes.size()) return std::nullopt;
    const std::string_view inside = bytes.substr(0, *size);
    bytes.remove_prefix(*size);
    if (top && number == kColumns) {
      const std::optional<uint64_t> column = ParsedBytes(inside, kColumnFields);
      if (!column.has_value()) return std::nullopt;
      sum += kColumn + *column;
    } else if (item > 0) {  // a number ends where the highest bit is not set
      sum += item * static_cast<uint64_t>(std::count_if(inside.begin(), inside.end(), [](char c) { return (c & 0x80) == 0; }));
    } else {
      sum += kOther + inside.size();
    }
  }
  return sum;
}

// What Damaged() found in a column, with whose it is.
absl::Status InColumn(const std::string& name, const std::string& what) {
  return Damaged("index column " + Quoted(name) + " " + what);
}

// Moves the objects out of `message`, freeing its columns on the way.
absl::StatusOr<ObjectTable> TakeObjects(DatasetIndex& message, const std::shared_ptr<MemoryAccount>& account) {
  const int count = message.sizes_size();
  if (message.name_lengths_size() != count || message.validator_lengths_size() != count) {
    return Damaged("index has columns of different lengths");
  }
  const std::unique_ptr<std::string> names(message.release_names());
  const std::unique_ptr<std::string> validators(message.release_validators());
  google::protobuf::RepeatedField<uint32_t> name_lengths;
  google::protobuf::RepeatedField<uint32_t> validator_lengths;
  google::protobuf::RepeatedField<uint64_t> sizes;
  name_lengths.Swap(message.mutable_name_lengths());
  validator_lengths.Swap(message.mutable_validator_lengths());
  sizes.Swap(message.mutable_sizes());
  const std::string_view all_names = names == nullptr ? std::string_view() : *names;
  const std::string_view all_validators = validators == nullptr ? std::string_view() : *validators;

  ObjectTable objects(account);
  DEVMEM_RETURN_IF_ERROR(objects.Reserve(static_cast<size_t>(count), all_names.size(), all_validators.size()));
  size_t name_at = 0;
  size_t validator_at = 0;
  std::string_view before;
  for (int i = 0; i < count; ++i) {
    if (name_lengths[i] > all_names.size() - name_at || validator_lengths[i] > all_validators.size() - validator_at) {
      return Damaged("index has names or validators beyond their end");
    }
    const std::string_view name = all_names.substr(name_at, name_lengths[i]);
    name_at += name_lengths[i];
    const std::string_view validator = all_validators.substr(validator_at, validator_lengths[i]);
    validator_at += validator_lengths[i];
    if (name.empty() || (i > 0 && name <= before)) return Damaged("index has names that are empty, repeated or out of order");
    // A validator becomes a line of an HTTP request: nothing that could end it may be in it.
    const bool printable =
        std::all_of(validator.begin(), validator.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
    if (!printable) return Damaged("index has a validator that is none");
    if (sizes[i] > kInt64Max) return Damaged("index has an object of 2^63 bytes or more");
    objects.Add(name, sizes[i], validator);
    before = name;
  }
  if (name_at != all_names.size() || validator_at != all_validators.size()) {
    return Damaged("index has names or validators that belong to no object");
  }
  return objects;
}

absl::Status TakeSchema(const IndexColumn& column, TensorColumn& tensor) {
  if (column.dtype() < static_cast<int>(DType::kBool) || column.dtype() > static_cast<int>(DType::kF64)) {
    return InColumn(column.name(), "has an unknown dtype");
  }
  tensor.dtype = static_cast<DType>(column.dtype());
  tensor.shape.assign(column.shape().begin(), column.shape().end());
  const std::optional<uint64_t> row_bytes = ArrayBytes(tensor.dtype, tensor.shape);
  if (!row_bytes.has_value() || *row_bytes == 0) return InColumn(column.name(), "has shape " + ShapeText(tensor.shape));
  tensor.row_bytes = *row_bytes;
  return absl::OkStatus();
}

// Makes the tensor of `column`, and checks its rows against the objects. The first column's counts make first_sample;
// every later one's must be the same.
absl::Status TakeColumn(IndexColumn& column, Dataset& dataset) {
  TensorColumn tensor;
  tensor.name = column.name();
  DEVMEM_RETURN_IF_ERROR(TakeSchema(column, tensor));
  const int shards = column.counts_size();
  if (column.objects_size() != shards || column.data_offsets_size() != shards) {
    return InColumn(tensor.name, "has parts of different lengths");
  }
  const bool first = dataset.tensors.empty();
  if (first) {
    dataset.first_sample.reserve(static_cast<size_t>(shards) + 1);
    dataset.first_sample.push_back(0);
  } else if (dataset.shards() != static_cast<size_t>(shards)) {
    return InColumn(tensor.name, "has another number of shards than the first");
  }
  for (int shard = 0; shard < shards; ++shard) {
    const uint32_t object = column.objects(shard);
    const uint64_t offset = column.data_offsets(shard);
    const uint64_t count = column.counts(shard);
    if (object >= dataset.objects.size()) return InColumn(tensor.name, "names an object the index does not have");
    uint64_t end = 0;
    if (__builtin_mul_overflow(count, tensor.row_bytes, &end) || __builtin_add_overflow(end, offset, &end) ||
        end > dataset.objects[object].size) {
      return InColumn(tensor.name, "has rows beyond the end of " + Quoted(dataset.objects[object].name));
    }
    if (first) {
      if (count > kInt64Max - dataset.samples()) return InColumn(tensor.name, "has more than 2^63 rows");
      dataset.first_sample.push_back(dataset.samples() + count);
    } else if (dataset.first_sample[shard + 1] - dataset.first_sample[shard] != count) {
      return InColumn(tensor.name, "has other counts than the first");
    }
  }
  tensor.objects.assign(column.objects().begin(), column.objects().end());
  tensor.data_offsets.assign(column.data_offsets().begin(), column.data_offsets().end());
  dataset.tensors.push_back(std::move(tensor));
  return absl::OkStatus();
}

}  // namespace

std::string WriteIndex(const IndexedDataset& indexed) {
  const Dataset& dataset = indexed.dataset;
  DatasetIndex message;
  message.set_version(kVersion);
  message.set_format(static_cast<devmem_loader::v1::Format>(indexed.format));
  message.set_written_unix_seconds(indexed.written);
  for (size_t i = 0; i < dataset.objects.size(); ++i) {
    const ObjectTable::Object object = dataset.objects[i];
    message.mutable_names()->append(object.name);
    message.add_name_lengths(static_cast<uint32_t>(object.name.size()));
    message.add_sizes(object.size);
    message.mutable_validators()->append(object.validator);
    message.add_validator_lengths(static_cast<uint32_t>(object.validator.size()));
  }
  for (size_t t = 0; t < dataset.tensors.size(); ++t) {
    const TensorColumn& tensor = dataset.tensors[t];
    IndexColumn& column = *message.add_columns();
    column.set_name(tensor.name);
    column.set_dtype(static_cast<devmem_loader::v1::DType>(tensor.dtype));
    column.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    column.set_glob(indexed.globs[t]);
    column.mutable_objects()->Add(tensor.objects.begin(), tensor.objects.end());
    column.mutable_data_offsets()->Add(tensor.data_offsets.begin(), tensor.data_offsets.end());
    for (size_t shard = 0; shard < dataset.shards(); ++shard) {
      column.add_counts(dataset.first_sample[shard + 1] - dataset.first_sample[shard]);
    }
  }
  std::string bytes = message.SerializeAsString();
  const uint64_t checksum = Checksum(bytes);
  bytes.push_back(kChecksumTag);
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(checksum >> (8 * i)));
  return bytes;
}

absl::StatusOr<IndexedDataset> ReadIndex(std::string bytes, HeldMemory memory) {
  if (bytes.size() <= kChecksumBytes || bytes[bytes.size() - kChecksumBytes] != kChecksumTag) {
    return Damaged("index of " + std::to_string(bytes.size()) + " bytes does not end in its checksum");
  }
  const std::string_view covered = std::string_view(bytes).substr(0, bytes.size() - kChecksumBytes);
  uint64_t stated = 0;
  for (size_t i = bytes.size(); i-- > bytes.size() - 8;) stated = stated << 8 | static_cast<unsigned char>(bytes[i]);
  if (Checksum(covered) != stated) return Damaged("index does not match its checksum");
  if (bytes.size() > kLongestIndex) return Damaged("index is longer than 2 GiB");
  const std::optional<uint64_t> parsed = ParsedBytes(bytes, kIndexFields);
  if (!parsed.has_value()) return Damaged("index is not a DatasetIndex message");
  DEVMEM_RETURN_IF_ERROR(memory.Add(*parsed));
  DatasetIndex message;
  if (!message.ParseFromString(bytes)) return Damaged("index is not a DatasetIndex message");
  std::string().swap(bytes);  // the message is a copy, and memory is what 10^6 objects are short of
  DEVMEM_RETURN_IF_ERROR(memory.Resize(*parsed));
  if (message.version() != kVersion) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "index is of version " + std::to_string(message.version()),
                     {.cause = "unknown index version", .action = "write the index again with this release, or delete it"});
  }

  IndexedDataset result;
  if (message.format() < static_cast<int>(DatasetFormat::kRaw) ||
      message.format() > static_cast<int>(DatasetFormat::kSafetensors)) {
    return Damaged("index is of an unknown format");
  }
  result.format = result.dataset.format = static_cast<DatasetFormat>(message.format());
  result.written = message.written_unix_seconds();
  DEVMEM_ASSIGN_OR_RETURN(result.dataset.objects, TakeObjects(message, memory.account()));
  if (message.columns_size() == 0) return Damaged("index has no tensors");
  std::set<std::string> names;
  for (IndexColumn& column : *message.mutable_columns()) {
    if (column.name().empty() || !names.insert(column.name()).second) return InColumn(column.name(), "has no name of its own");
    if (column.name().size() > kLongestGlob || column.glob().size() > kLongestGlob) {  // as TensorSpec's
      return InColumn(column.name(), "has a name or a glob longer than 1024 bytes");
    }
    DEVMEM_RETURN_IF_ERROR(TakeColumn(column, result.dataset));
    result.globs.push_back(column.glob());
    column.Clear();
  }
  message.Clear();
  result.dataset.memory = std::move(memory);
  DEVMEM_RETURN_IF_ERROR(result.dataset.memory.Resize(result.dataset.bytes()));
  result.dataset.fingerprint = Fingerprint(result.dataset.objects, {});
  return result;
}

}  // namespace devmem
