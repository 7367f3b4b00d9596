// SPDX-License-Identifier: Apache-2.0
#include "service/dataset_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/testing/counted_memory.h"
#include "net/file_store.h"
#include "service/data_object.h"

namespace devmem {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Shape = std::vector<int64_t>;

Time Soon() { return Clock::now() + std::chrono::seconds(30); }

// A bucket in memory, with the faults that a network has.
class MemoryStore : public ObjectStore {
 public:
  struct Stored {
    std::string bytes;
    std::string listed_validator;
    std::string validator;                 // what an answer to a GET says
    absl::Status fault;                    // of reads
    std::optional<uint64_t> listed_size;   // where the listing is out of date
    std::optional<uint64_t> claimed_size;  // by answers to reads
    bool elsewhere = false;                // where they come from
  };
  std::map<std::string, Stored> objects;
  mutable uint64_t reads = 0;
  mutable uint64_t longest_read = 0;
  mutable uint64_t listings = 0;
  std::optional<uint64_t> forbid_after;   // so many reads
  std::shared_ptr<MemoryAccount> memory;  // of listings

  void Put(const std::string& name, std::string bytes) {
    objects[name] = {.bytes = std::move(bytes), .validator = "\"" + name + "\""};
  }

  explicit MemoryStore(std::string uri = "memory://bucket/") : uri_(std::move(uri)) {}
  const std::string& uri() const override { return uri_; }
  absl::StatusOr<ObjectTable> List(Time, const ProgressFn& progress) const override {
    ++listings;
    if (progress != nullptr && !progress(0, 0)) return absl::CancelledError("cancelled");
    ObjectTable table(memory);
    for (const auto& [name, stored] : objects) {
      DEVMEM_RETURN_IF_ERROR(table.MakeRoom(name.size(), stored.listed_validator.size()));
      table.Add(name, stored.listed_size.value_or(stored.bytes.size()), stored.listed_validator);
    }
    return table;
  }
  absl::Status ReadSmall(std::span<SmallRead> batch, int, Time, const ProgressFn& progress) const override {
    uint64_t done = 0;
    for (SmallRead& read : batch) {
      ++reads;
      longest_read = std::max(longest_read, read.length);
      const auto at = objects.find(read.object);
      if (forbid_after.has_value() && reads > *forbid_after) {
        read.status = MakeError(absl::StatusCode::kPermissionDenied, "403", {.fault = devmem::Fault::kForbidden});
      } else if (at == objects.end()) {
        read.status = absl::NotFoundError("404");
      } else if (!at->second.fault.ok()) {
        read.status = at->second.fault;
      } else if (!read.validator.empty() && read.validator != at->second.validator) {
        read.status = absl::AbortedError("412");
      } else {
        read.object_size = at->second.claimed_size.value_or(at->second.bytes.size());
        read.object_validator = at->second.validator;
        read.elsewhere = at->second.elsewhere;
        if (read.offset < read.object_size) read.bytes = at->second.bytes.substr(read.offset, read.length);
      }
      if (progress != nullptr && !progress(++done, batch.size())) return absl::CancelledError("cancelled");
    }
    return absl::OkStatus();
  }
  absl::StatusOr<PayloadRequest> PrepareGet(std::string_view) const override { return absl::UnimplementedError("not here"); }

 private:
  const std::string uri_;
};

std::string Npy(const std::string& descr, const Shape& shape, size_t item, size_t padding = 0) {
  const std::string dict =
      "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + ShapeText(shape) + ", }" + std::string(padding, ' ');
  size_t bytes = item;
  for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
  std::string file("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(dict.size());
  file += static_cast<char>(dict.size() >> 8);
  return file + dict + std::string(bytes, 'd');
}

std::string Safetensors(const std::string& json, size_t bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(json.size() >> (8 * i));
  return file + json + std::string(bytes, 'd');
}

// x: rows of 2 float32; y: int64 scalars.
std::string Pair(uint64_t rows, const std::string& more = "") {
  const auto n = [](uint64_t v) { return std::to_string(v); };
  return Safetensors(R"({"y":{"dtype":"I64","shape":[)" + n(rows) + R"(],"data_offsets":[)" + n(8 * rows) + "," + n(16 * rows) +
                         R"(]},"x":{"dtype":"F32","shape":[)" + n(rows) + R"(,2],"data_offsets":[0,)" + n(8 * rows) + "]}" +
                         more + "}",
                     16 * rows);
}

std::vector<std::string> Names(const Dataset& data) {
  std::vector<std::string> names;
  for (size_t i = 0; i < data.objects.size(); ++i) names.emplace_back(data.objects[i].name);
  return names;
}

std::string Fault(const absl::StatusOr<Dataset>& data, absl::StatusCode code) {
  EXPECT_EQ(data.status().code(), code) << data.status();
  return data.ok() ? "" : Text(data.status());
}

TensorOptions Raw(DType dtype, Shape shape) { return {.dtype = dtype, .shape = std::move(shape)}; }

TEST(DataObjectTest, WhatIsData) {
  for (const char* name : {"a", "a/b.npy", "_train/x.npy", "SUCCESS", "a.b/c", "x/_data"})
    EXPECT_TRUE(IsDataObject(name)) << name;
  for (const char* name : {"", "a/", ".devmem-index", ".hidden", "a/.git/config", "a/.b", "_SUCCESS", "a/_SUCCESS",
                           "_committed_1", "x/_started_1"}) {
    EXPECT_FALSE(IsDataObject(name)) << name;
  }
}

TEST(DatasetBuilderTest, NpyPairsByOrderOfNames) {
  MemoryStore store;
  store.Put("image/0.npy", Npy("|u1", {3, 4, 5}, 1));
  store.Put("image/1.npy", Npy("|u1", {2, 4, 5}, 1, 500));
  store.Put("label/a.npy", Npy("<i8", {3}, 8));
  store.Put("label/b.npy", Npy("<i8", {2}, 8));
  store.Put("README.md", "text");
  store.Put("_SUCCESS", "");
  const DatasetOptions options{.tensors = {{.name = "image", .glob = "image/*.npy"}, {.name = "label", .glob = "label/*"}}};
  const auto data = BuildDataset(store, options, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_THAT(data->first_sample, ElementsAre(0, 3, 5));
  EXPECT_THAT(Names(*data), ElementsAre("image/0.npy", "image/1.npy", "label/a.npy", "label/b.npy"));
  ASSERT_EQ(data->tensors.size(), 2u);
  EXPECT_EQ(data->tensors[0].name, "image");
  EXPECT_EQ(data->tensors[0].dtype, DType::kU8);
  EXPECT_THAT(data->tensors[0].shape, ElementsAre(4, 5));
  EXPECT_EQ(data->tensors[0].row_bytes, 20u);
  EXPECT_THAT(data->tensors[1].shape, IsEmpty());
  EXPECT_THAT(data->tensors[1].objects, ElementsAre(2, 3));
  const Dataset::Extent extent = data->Locate(0, 1, 4);
  EXPECT_EQ(extent.offset + extent.bytes, data->objects[extent.object].size);
  EXPECT_EQ(data->objects[0].validator, "\"image/0.npy\"");
}

TEST(DatasetBuilderTest, DefaultsByFormat) {
  MemoryStore npy;
  npy.Put("x.npy", Npy("<f4", {3}, 4));
  npy.Put("notes.txt", "text");
  auto data = BuildDataset(npy, {}, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->tensors[0].name, "data");
  EXPECT_THAT(Names(*data), ElementsAre("x.npy"));

  MemoryStore raw;
  raw.Put("x.bin", std::string(40, 'x'));
  raw.Put("y/z", std::string(20, 'x'));
  raw.Put(".hidden", "x");
  data = BuildDataset(raw, {.format = DatasetFormat::kRaw, .tensors = {Raw(DType::kU16, {5})}}, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_THAT(data->first_sample, ElementsAre(0, 4, 6));
  EXPECT_THAT(Names(*data), ElementsAre("x.bin", "y/z"));
  EXPECT_EQ(data->tensors[0].name, "data");
}

TEST(DatasetBuilderTest, SafetensorsColumns) {
  MemoryStore store;
  store.Put("a.safetensors", Pair(3));
  store.Put("b.safetensors", Pair(0));
  store.Put("c.safetensors", Pair(2));
  const auto all = BuildDataset(store, {}, Soon(), nullptr);
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->tensors.size(), 2u);
  EXPECT_EQ(all->tensors[0].name, "x");
  EXPECT_EQ(all->tensors[1].name, "y");
  EXPECT_THAT(all->first_sample, ElementsAre(0, 3, 3, 5));
  const Dataset::Extent last = all->Locate(1, 2, 4);
  EXPECT_EQ(last.offset + last.bytes, all->objects[2].size);

  const auto one = BuildDataset(store, {.tensors = {{.name = "label", .glob = "y"}}}, Soon(), nullptr);
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_EQ(one->tensors.size(), 1u);
  EXPECT_EQ(one->tensors[0].name, "label");
  EXPECT_EQ(one->tensors[0].dtype, DType::kI64);
  EXPECT_THAT(Fault(BuildDataset(store, {.tensors = {{.name = "z"}}}, Soon(), nullptr), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("a.safetensors"), HasSubstr("no tensor matches 'z'"), HasSubstr("\"x\", \"y\"")));
}

TEST(DatasetBuilderTest, SafetensorsThatCannotBeADataset) {
  const auto fault = [](const std::string& more, size_t bytes, absl::StatusCode code, const DatasetOptions& options = {}) {
    MemoryStore store;
    store.Put("a.safetensors", Pair(3, more) + std::string(bytes, 'd'));
    return Fault(BuildDataset(store, options, Soon(), nullptr), code);
  };
  constexpr auto kUnusable = absl::StatusCode::kFailedPrecondition;
  const std::string f8 = R"(,"q":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[48,51]})";
  EXPECT_THAT(fault(f8, 3, kUnusable), AllOf(HasSubstr("a.safetensors"), HasSubstr("F8_E4M3")));
  EXPECT_EQ(fault(f8, 3, absl::StatusCode::kOk, {.tensors = {{.name = "x"}}}), "");  // not asked for
  EXPECT_THAT(fault(R"(,"q":{"dtype":"U8","shape":[],"data_offsets":[48,49]})", 1, kUnusable), HasSubstr("scalar"));
  EXPECT_THAT(fault(R"(,"q":{"dtype":"U8","shape":[3,0],"data_offsets":[48,48]})", 0, kUnusable), HasSubstr("no bytes"));
  EXPECT_THAT(fault(R"(,"q":{"dtype":"U8","shape":[4],"data_offsets":[48,52]})", 4, kUnusable),
              AllOf(HasSubstr("\"x\" has 3 rows"), HasSubstr("\"q\" has 4")));
}

TEST(DatasetBuilderTest, SafetensorsShardsMustHaveTheSameTensors) {
  MemoryStore store;
  store.Put("a.safetensors", Pair(3));
  store.Put("b.safetensors", Pair(3, R"(,"q":{"dtype":"U8","shape":[3],"data_offsets":[48,51]})") + "ddd");
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("a.safetensors has 2"), HasSubstr("b.safetensors: it has 3 tensors")));
  EXPECT_TRUE(BuildDataset(store, {.tensors = {{.name = "x"}, {.name = "y"}}}, Soon(), nullptr).ok());
  EXPECT_THAT(Fault(BuildDataset(store, {.tensors = {{.glob = "[q]"}, {.glob = "x"}}}, Soon(), nullptr),
                    absl::StatusCode::kInvalidArgument),
              HasSubstr("a.safetensors"));
}

TEST(DatasetBuilderTest, EmptyAndUnmatched) {
  MemoryStore store;
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kNotFound),
              AllOf(HasSubstr("memory://bucket/"), HasSubstr("0 objects")));
  store.Put("_SUCCESS", "");
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kNotFound), HasSubstr("and 1 hidden"));
  for (const char* name : {"a.npy", "b.npy"}) store.Put(name, Npy("<f4", {3}, 4));
  EXPECT_THAT(Fault(BuildDataset(store, {.tensors = {{.name = "x", .glob = "train/*.npy"}}}, Soon(), nullptr),
                    absl::StatusCode::kNotFound),
              AllOf(HasSubstr("'train/*.npy'"), HasSubstr("2 objects (a.npy, b.npy)")));
  EXPECT_THAT(Fault(BuildDataset(store, {.format = DatasetFormat::kSafetensors}, Soon(), nullptr), absl::StatusCode::kNotFound),
              HasSubstr("*.safetensors"));
}

TEST(DatasetBuilderTest, FormatThatCannotBeTold) {
  MemoryStore store;
  store.Put("a.bin", "xxxx");
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kInvalidArgument), HasSubstr("a.bin"));
  store.Put("a.npy", Npy("<f4", {3}, 4));
  store.Put("a.safetensors", Pair(1));
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kInvalidArgument), HasSubstr("both"));
  EXPECT_TRUE(BuildDataset(store, {.tensors = {{.glob = "*.npy"}}}, Soon(), nullptr).ok());
  EXPECT_TRUE(BuildDataset(store, {.format = DatasetFormat::kSafetensors}, Soon(), nullptr).ok());
}

TEST(DatasetBuilderTest, ShardsMustAgree) {
  MemoryStore store;
  store.Put("x/0.npy", Npy("<f4", {3, 2}, 4));
  store.Put("x/1.npy", Npy("<f4", {3, 3}, 4));
  store.Put("y/0.npy", Npy("<f4", {3, 2}, 4));
  store.Put("y/1.npy", Npy("<f4", {2, 2}, 4));
  store.Put("z/0.npy", Npy("<f8", {3, 2}, 8));
  const auto open = [&](std::vector<TensorOptions> tensors) {
    return BuildDataset(store, {.tensors = std::move(tensors)}, Soon(), nullptr);
  };
  EXPECT_THAT(Fault(open({{.name = "x", .glob = "x/*"}}), absl::StatusCode::kFailedPrecondition),
              AllOf(HasSubstr("x/0.npy"), HasSubstr("x/1.npy"), HasSubstr("(3,)"), HasSubstr("(2,)")));
  EXPECT_THAT(
      Fault(open({{.name = "a", .glob = "y/*"}, {.name = "b", .glob = "[xy]/0*"}}), absl::StatusCode::kFailedPrecondition),
      AllOf(HasSubstr("y/0.npy: has 3 samples"), HasSubstr("y/1.npy"), HasSubstr("has 2")));
  EXPECT_THAT(Fault(open({{.name = "a", .glob = "y/*"}, {.name = "b", .glob = "z/*"}}), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("2 objects"), HasSubstr("1 object"), HasSubstr("'y/*'"), HasSubstr("'z/*'")));
}

TEST(DatasetBuilderTest, SpecificationMustMatch) {
  MemoryStore store;
  store.Put("x.npy", Npy("<f4", {3, 2}, 4));
  const auto open = [&](TensorOptions tensor) {
    return BuildDataset(store, {.tensors = {std::move(tensor)}}, Soon(), nullptr);
  };
  EXPECT_TRUE(open({.glob = "*", .dtype = DType::kF32, .shape = Shape{2}}).ok());
  EXPECT_THAT(Fault(open({.glob = "*", .dtype = DType::kF64}), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("x.npy"), HasSubstr("float32"), HasSubstr("float64")));
  EXPECT_THAT(Fault(open({.glob = "*", .shape = Shape{3}}), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("(2,)"), HasSubstr("(3,)")));
  store.objects.clear();
  store.Put("b.npy", Npy("<V2", {3, 2}, 2));
  EXPECT_TRUE(open({.glob = "*", .dtype = DType::kBF16}).ok());
  EXPECT_THAT(Fault(open({.glob = "*"}), absl::StatusCode::kFailedPrecondition), HasSubstr("bfloat16"));
}

TEST(DatasetBuilderTest, BadSpecifications) {
  MemoryStore store;
  store.Put("x.bin", "xxxx");
  const auto raw = [&](std::vector<TensorOptions> tensors) {
    return Fault(BuildDataset(store, {.format = DatasetFormat::kRaw, .tensors = std::move(tensors)}, Soon(), nullptr),
                 absl::StatusCode::kInvalidArgument);
  };
  EXPECT_THAT(raw({}), HasSubstr("no dtype"));
  EXPECT_THAT(raw({{.dtype = DType::kU8}}), HasSubstr("no shape"));
  EXPECT_THAT(raw({Raw(DType::kU8, {0})}), HasSubstr("no number of bytes"));
  EXPECT_THAT(raw({Raw(DType::kU8, {-1})}), HasSubstr("no number of bytes"));
  EXPECT_THAT(raw({Raw(DType::kF64, {int64_t{1} << 60})}), HasSubstr("no number of bytes"));
  EXPECT_THAT(raw({{.name = "a"}, {.name = "b"}}), HasSubstr("each needs a name and a glob"));
  EXPECT_THAT(raw({{.name = "a", .glob = "*"}, {.name = "a", .glob = "*"}}), HasSubstr("two tensors"));
}

TEST(DatasetBuilderTest, BadShardsAreSkippedOnRequestOnly) {
  MemoryStore store;
  for (int i = 0; i < 4; ++i) {
    store.Put("x/" + std::to_string(i) + ".npy", Npy("<f4", {i + 1, 2}, 4));
    store.Put("y/" + std::to_string(i) + ".npy", Npy("<i4", {i + 1}, 4));
  }
  store.objects["y/2.npy"].bytes.pop_back();
  DatasetOptions options{.tensors = {{.name = "x", .glob = "x/*"}, {.name = "y", .glob = "y/*"}}};
  EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kDataLoss), HasSubstr("y/2.npy"));
  options.skip_bad_shards = true;
  const auto data = BuildDataset(store, options, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_THAT(data->first_sample, ElementsAre(0, 1, 3, 7));
  EXPECT_THAT(Names(*data), ElementsAre("x/0.npy", "x/1.npy", "x/3.npy", "y/0.npy", "y/1.npy", "y/3.npy"));
  ASSERT_EQ(data->skipped.size(), 2u);
  EXPECT_EQ(data->skipped[0].object, "x/2.npy");
  EXPECT_THAT(Text(data->skipped[0].status), HasSubstr("y/2.npy"));
  EXPECT_EQ(data->skipped[1].object, "y/2.npy");
  EXPECT_EQ(data->skipped[1].status.code(), absl::StatusCode::kDataLoss);

  for (auto& [name, stored] : store.objects) stored.bytes = "not npy at all";
  EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kDataLoss),
              AllOf(HasSubstr("every shard is bad (4)"), HasSubstr("x/0.npy")));
}

TEST(DatasetBuilderTest, SkipsBadSafetensorsAndRawShards) {
  MemoryStore store;
  store.Put("a.safetensors", "broken, and the first");
  store.Put("b.safetensors", Pair(2));
  const auto data = BuildDataset(store, {.skip_bad_shards = true}, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->samples(), 2u);
  EXPECT_EQ(data->skipped.at(0).object, "a.safetensors");
  store.objects.erase("b.safetensors");
  EXPECT_THAT(Fault(BuildDataset(store, {.skip_bad_shards = true}, Soon(), nullptr), absl::StatusCode::kDataLoss),
              HasSubstr("the only shard is bad"));

  MemoryStore raw;
  raw.Put("a", "12345");
  raw.Put("b", "1234");
  DatasetOptions options{.format = DatasetFormat::kRaw, .tensors = {Raw(DType::kU32, {})}};
  EXPECT_THAT(Fault(BuildDataset(raw, options, Soon(), nullptr), absl::StatusCode::kDataLoss),
              AllOf(HasSubstr("a: 5 bytes"), HasSubstr("4 bytes")));
  options.skip_bad_shards = true;
  EXPECT_EQ(BuildDataset(raw, options, Soon(), nullptr)->skipped.at(0).object, "a");
}

// A name that cannot be asked for spoils nothing but itself, and is never left out in silence.
TEST(DatasetBuilderTest, NamesThatCannotBeAskedFor) {
  struct Row {
    std::string name;
    const char* says;
  };
  for (const Row& row : {Row{"/x/2.npy", "it is absolute"}, Row{std::string("x/2\0.npy", 8), "x/2\\x00.npy"},
                         Row{"x/" + std::string(5000, 'a') + ".npy", "longer than 4096"}}) {
    MemoryStore store;
    for (int i = 0; i < 2; ++i) {
      store.Put("x/" + std::to_string(i) + ".npy", Npy("<f4", {i + 1, 2}, 4));
      store.Put("y/" + std::to_string(i) + ".npy", Npy("<i4", {i + 1}, 4));
    }
    store.Put(row.name, Npy("<f4", {1, 2}, 4));
    DatasetOptions options{.tensors = {{.name = "y", .glob = "y/*.npy"}}};
    auto data = BuildDataset(store, options, Soon(), nullptr);
    ASSERT_TRUE(data.ok()) << "not chosen: " << data.status();
    EXPECT_THAT(data->skipped, IsEmpty());

    options.tensors = {{.name = "x", .glob = "*x/*.npy"}};
    EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kInvalidArgument), HasSubstr(row.says));
    options.skip_bad_shards = true;
    data = BuildDataset(store, options, Soon(), nullptr);
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_THAT(Names(*data), ElementsAre("x/0.npy", "x/1.npy"));
    ASSERT_EQ(data->skipped.size(), 1u);
    EXPECT_EQ(data->skipped[0].object, row.name);

    options.tensors.push_back({.name = "y", .glob = "y/*.npy"});  // pairs would shift
    EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kInvalidArgument), HasSubstr(row.says));
  }
}

TEST(DatasetBuilderTest, NamesThatAreNotUtf8AreNamesAsAnyOther) {
  MemoryStore store;
  store.Put("caf\xe9.npy", Npy("<f4", {3}, 4));
  const auto data = BuildDataset(store, {.tensors = {{.name = "x", .glob = "caf*.npy"}}}, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_THAT(Names(*data), ElementsAre("caf\xe9.npy"));
  EXPECT_THAT(
      Fault(BuildDataset(store, {.tensors = {{.name = "x", .glob = "no"}}}, Soon(), nullptr), absl::StatusCode::kNotFound),
      HasSubstr("1 object (caf\\xe9.npy)"));
}

// What the network or the store does is never a reason to skip; what an object is, is one where skipping was asked for.
TEST(DatasetBuilderTest, WhatCannotBeReadIsSkippedIfItIsTheObjectsFault) {
  MemoryStore store;
  store.Put("a.npy", Npy("<f4", {3}, 4));
  store.Put("b.npy", Npy("<f4", {3}, 4));
  const DatasetOptions skip{.skip_bad_shards = true};
  auto& b = store.objects["b.npy"];
  const auto refused = [&](devmem::Fault fault, absl::StatusCode code) {
    b.fault = MakeError(code, "the server answered", {.fault = fault});
    EXPECT_THAT(Fault(BuildDataset(store, skip, Soon(), nullptr), code), HasSubstr("b.npy"));
  };
  const auto skipped = [&](devmem::Fault fault) {
    EXPECT_FALSE(BuildDataset(store, {}, Soon(), nullptr).ok()) << Name(fault);
    const auto data = BuildDataset(store, skip, Soon(), nullptr);
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_THAT(Names(*data), ElementsAre("a.npy"));
    ASSERT_EQ(data->skipped.size(), 1u);
    EXPECT_EQ(data->skipped[0].object, "b.npy");
    EXPECT_EQ(FaultOf(data->skipped[0].status), fault);
    EXPECT_EQ(ScopeOf(data->skipped[0].status), Scope::kObject);
  };
  refused(devmem::Fault::kServerError, absl::StatusCode::kUnavailable);
  refused(devmem::Fault::kCredentials, absl::StatusCode::kPermissionDenied);
  b.fault =
      MakeError(absl::StatusCode::kNotFound, "no such bucket", {.fault = devmem::Fault::kObjectGone, .scope = Scope::kStore});
  EXPECT_FALSE(BuildDataset(store, skip, Soon(), nullptr).ok());
  b.fault = absl::NotFoundError("404");
  skipped(devmem::Fault::kObjectGone);
  b.fault = MakeError(absl::StatusCode::kPermissionDenied, "403", {.fault = devmem::Fault::kForbidden});
  skipped(devmem::Fault::kForbidden);
  b.fault = absl::OkStatus();
  b.listed_size = 99;
  skipped(devmem::Fault::kObjectChanged);
}

// A store that forbids one object and then all others has turned away who asks: nothing is the objects' fault.
TEST(DatasetBuilderTest, AStoreThatForbidsAllIsNotSkipped) {
  MemoryStore store;
  for (const char* name : {"a.npy", "b.npy", "c.npy"}) store.Put(name, Npy("<f4", {3}, 4));
  store.forbid_after = 2;  // the index, of which there is none, and a
  const DatasetOptions skip{.skip_bad_shards = true};
  EXPECT_THAT(Fault(BuildDataset(store, skip, Soon(), nullptr), absl::StatusCode::kPermissionDenied), HasSubstr("b.npy"));
  EXPECT_EQ(store.reads, 5u) << "a, which could be read, is asked for again";
  store.forbid_after = 0;
  EXPECT_THAT(Fault(BuildDataset(store, skip, Soon(), nullptr), absl::StatusCode::kPermissionDenied), HasSubstr("a.npy"));
}

TEST(DatasetBuilderTest, LongHeadersTakeASecondReadAndShortOnesDoNot) {
  MemoryStore store;
  for (int i = 0; i < 10; ++i) store.Put(std::to_string(i) + ".npy", Npy("<f4", {3000}, 4));
  ASSERT_TRUE(BuildDataset(store, {}, Soon(), nullptr).ok());
  EXPECT_EQ(store.reads, 11u);  // one tries the index
  store.Put("5.npy", Npy("<f4", {3000}, 4, 20'000));
  store.reads = 0;
  const auto data = BuildDataset(store, {}, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(store.reads, 12u);
  EXPECT_GT(data->tensors[0].data_offsets[5], 20'000u);
}

// More objects than one wave, with an empty one among them and one whose header is long.
TEST(DatasetBuilderTest, ManyWaves) {
  MemoryStore store;
  char name[32];
  for (int i = 0; i < 5000; ++i) {
    std::snprintf(name, sizeof(name), "%05d.npy", i);
    store.Put(name, Npy("<f4", {i % 7}, 4, i == 2047 ? 9000 : 0));
  }
  store.Put("03000.npy", "");
  uint64_t last = 0;
  uint64_t total = 0;
  const auto progress = [&](std::string_view phase, uint64_t done, uint64_t all) {
    if (phase != "headers") return true;
    EXPECT_GE(done, last);
    last = done;
    total = all;
    return true;
  };
  const auto data = BuildDataset(store, {.skip_bad_shards = true}, Soon(), progress);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->shards(), 4999u);
  EXPECT_EQ(data->skipped.at(0).object, "03000.npy");
  EXPECT_EQ(last, 5000u);
  EXPECT_EQ(total, 5000u);
  for (size_t shard = 0; shard < data->shards(); ++shard) {
    EXPECT_EQ(data->objects[shard].validator, "\"" + std::string(data->objects[shard].name) + "\"");
  }
}

TEST(DatasetBuilderTest, ProgressCancels) {
  MemoryStore store;
  store.Put("a.npy", Npy("<f4", {3}, 4));
  for (const std::string_view at : {"listing", "headers"}) {
    const auto data = BuildDataset(store, {}, Soon(), [&](std::string_view phase, uint64_t, uint64_t) { return phase != at; });
    EXPECT_EQ(data.status().code(), absl::StatusCode::kCancelled) << at;
  }
}

TEST(DatasetBuilderTest, FingerprintTellsAChangedListing) {
  MemoryStore store;
  store.Put("a.npy", Npy("<f4", {3}, 4));
  store.Put("b.npy", Npy("<f4", {3}, 4));
  const auto print = [&] { return BuildDataset(store, {}, Soon(), nullptr)->fingerprint; };
  const uint64_t before = print();
  EXPECT_EQ(print(), before);
  store.objects["b.npy"].validator = "\"other\"";
  EXPECT_NE(print(), before);
  store.objects["b.npy"].validator = "\"b.npy\"";
  EXPECT_EQ(print(), before);
  store.Put("c.npy", Npy("<f4", {3}, 4));
  EXPECT_NE(print(), before);
  store.objects.erase("c.npy");
  store.Put(".hidden", "x");
  EXPECT_EQ(print(), before);
}

TEST(DatasetBuilderTest, StrongETagsArePreferredToDates) {
  struct Row {
    const char *listed, *learnt, *kept;
  };
  for (const Row& row : {Row{"date", "\"e\"", "\"e\""}, Row{"\"e\"", "date", "\"e\""}, Row{"\"e\"", "", "\"e\""},
                         Row{"date", "", "date"}, Row{"", "date", "date"}, Row{"old date", "date", "date"}, Row{"", "", ""}}) {
    MemoryStore store;
    store.Put("a.npy", Npy("<f4", {3}, 4));
    store.objects["a.npy"].listed_validator = row.listed;
    store.objects["a.npy"].validator = row.learnt;
    EXPECT_EQ(BuildDataset(store, {}, Soon(), nullptr)->objects[0].validator, row.kept) << row.listed << " " << row.learnt;
  }
}

TEST(DatasetBuilderTest, AnIndexStandsForTheListing) {
  MemoryStore store;
  for (const char* name : {"x/0.npy", "x/1.npy"}) store.Put(name, Npy("<f4", {3, 2}, 4));
  for (const char* name : {"y/0.npy", "y/1.npy"}) store.Put(name, Npy("<i8", {3}, 8));
  const DatasetOptions both{.tensors = {{.name = "x", .glob = "x/*"}, {.name = "y", .glob = "y/*"}}};
  const auto plain = BuildDataset(store, both, Soon(), nullptr);
  const DatasetOptions only_y{.tensors = {{.name = "y", .glob = "y/*"}}};
  const auto plain_y = BuildDataset(store, only_y, Soon(), nullptr);
  const auto listed = ListDataset(store, both, Soon(), nullptr);
  ASSERT_TRUE(plain.ok() && plain_y.ok() && listed.ok()) << listed.status();
  store.Put(std::string(kIndexName), WriteIndex(*listed));
  store.reads = store.listings = 0;

  const auto opened = BuildDataset(store, both, Soon(), nullptr);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(store.reads, 1u);
  EXPECT_EQ(store.listings, 0u);
  EXPECT_TRUE(opened->indexed);
  EXPECT_THAT(opened->warnings, ElementsAre(HasSubstr("from the bucket's index of an unknown date")));
  EXPECT_THAT(plain->warnings, IsEmpty());
  EXPECT_EQ(opened->fingerprint, plain->fingerprint);  // a cursor of before the index holds after it
  EXPECT_EQ(opened->first_sample, plain->first_sample);
  EXPECT_EQ(BuildDataset(store, {}, Soon(), nullptr)->tensors.size(), 2u);
  const auto y = BuildDataset(store, only_y, Soon(), nullptr);
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_EQ(y->fingerprint, plain_y->fingerprint);
  EXPECT_THAT(Names(*y), ElementsAre("y/0.npy", "y/1.npy"));
  EXPECT_THAT(y->tensors[0].objects, ElementsAre(0, 1));

  const auto fault = [&](TensorOptions tensor, DatasetFormat format = DatasetFormat::kAuto) {
    return Fault(BuildDataset(store, {.format = format, .tensors = {std::move(tensor)}}, Soon(), nullptr),
                 absl::StatusCode::kInvalidArgument);
  };
  EXPECT_THAT(fault({.name = "z"}),
              AllOf(HasSubstr("no tensor 'z'"), HasSubstr("'x' ('x/*'), 'y' ('y/*')"), HasSubstr("devmem-loader index")));
  EXPECT_THAT(fault({.name = "x", .glob = "train/*"}), HasSubstr("from 'x/*', not 'train/*'"));
  EXPECT_THAT(fault({.name = "x", .dtype = DType::kI8}), HasSubstr("as float32, not int8"));
  EXPECT_THAT(fault({.name = "x", .shape = Shape{3}}), HasSubstr("with shape (2,), not (3,)"));
  EXPECT_THAT(fault({.name = "x"}, DatasetFormat::kRaw), HasSubstr("format npy, not raw"));

  // A new index is made of the bucket, not of the old index.
  store.Put("x/2.npy", Npy("<f4", {3, 2}, 4));
  store.Put("y/2.npy", Npy("<i8", {3}, 8));
  EXPECT_EQ(ListDataset(store, both, Soon(), nullptr)->dataset.shards(), 3u);
}

TEST(DatasetBuilderTest, ADamagedIndexIsAnErrorAndAHiddenOneIsNone) {
  MemoryStore store;
  store.Put("a.npy", Npy("<f4", {3}, 4));
  store.Put(std::string(kIndexName), "garbage");
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kDataLoss),
              AllOf(HasSubstr(std::string(kIndexName)), HasSubstr("write the index again")));
  store.Put(std::string(kIndexName), "");
  EXPECT_EQ(BuildDataset(store, {}, Soon(), nullptr).status().code(), absl::StatusCode::kDataLoss);
  store.objects[std::string(kIndexName)].fault = absl::UnavailableError("503");
  EXPECT_EQ(BuildDataset(store, {}, Soon(), nullptr).status().code(), absl::StatusCode::kUnavailable);
  store.objects[std::string(kIndexName)].fault = absl::PermissionDeniedError("403");
  EXPECT_TRUE(BuildDataset(store, {}, Soon(), nullptr).ok());
}

TEST(DatasetBuilderTest, AnS3PrefixThatLooksEncodedIsNotAndThatIsSaid) {
  const auto said = [](const char* uri) {
    return Fault(BuildDataset(MemoryStore(uri), {}, Soon(), nullptr), absl::StatusCode::kNotFound);
  };
  EXPECT_THAT(said("s3://b/pre%20fix/"), HasSubstr("a blank is a blank there, and not %20"));
  for (const char* uri : {"s3://b/pre fix/", "http://h/pre%20fix/"}) EXPECT_THAT(said(uri), testing::Not(HasSubstr("a blank")));
}

TEST(DatasetBuilderTest, HowLongATargetIsIsNotSaid) {
  MemoryStore store;
  store.Put("a.npy", Npy("<f4", {3}, 4));
  MemoryStore::Stored& object = store.objects["a.npy"];
  object.claimed_size = 4242;
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kAborted), HasSubstr("4242 bytes"));
  object.elsewhere = true;
  EXPECT_THAT(Fault(BuildDataset(store, {}, Soon(), nullptr), absl::StatusCode::kAborted),
              testing::AllOf(HasSubstr("where it was redirected to"), testing::Not(HasSubstr("4242"))));

  CountedMemory memory(64 << 20);
  const DatasetOptions options{.memory = memory.Account()};
  MemoryStore::Stored& index = store.objects[std::string(kIndexName)];
  index.bytes = std::string(1 << 20, 'i');
  index.elsewhere = true;
  index.claimed_size = 5555555555;
  EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kDataLoss),
              testing::Not(HasSubstr("5555555555")));
  index.claimed_size = 333333333;
  EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kResourceExhausted),
              testing::Not(HasSubstr("3333333")));
}

TEST(DatasetBuilderTest, AnIndexIsNoLongerThanItMayBeAndThereIsRoomFor) {
  MemoryStore store;
  store.Put("a.npy", Npy("<f4", {3}, 4));
  CountedMemory memory(64 << 20);
  const DatasetOptions options{.memory = memory.Account()};
  MemoryStore::Stored& index = store.objects[std::string(kIndexName)];
  index.bytes = std::string(8 << 20, 'i');
  index.claimed_size = uint64_t{8} << 30;
  EXPECT_THAT(Fault(BuildDataset(store, options, Soon(), nullptr), absl::StatusCode::kDataLoss), HasSubstr("8589934592 bytes"));
  EXPECT_EQ(store.reads, 1u) << "its claim was enough";
  EXPECT_LE(store.longest_read, 4u << 20);
  index.claimed_size = uint64_t{1} << 30;
  const absl::Status refused = BuildDataset(store, options, Soon(), nullptr).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(GetErrorInfo(refused).object, kIndexName);
  EXPECT_EQ(store.reads, 2u);
  EXPECT_EQ(memory.most(), 0u);
}

TEST(DatasetBuilderTest, WhatIsBuiltIsCountedWhileItLives) {
  CountedMemory memory(64 << 20);
  const DatasetOptions options{.memory = memory.Account()};
  for (const bool indexed : {false, true}) {
    MemoryStore store;
    store.memory = memory.Account();
    for (int i = 0; i < 2000; ++i) store.Put("train/" + std::to_string(10000 + i) + ".npy", Npy("<f4", {3, 2}, 4));
    if (indexed) store.Put(std::string(kIndexName), WriteIndex(*ListDataset(store, options, Soon(), nullptr)));
    ASSERT_EQ(memory.used(), 0u);
    {
      const auto data = BuildDataset(store, options, Soon(), nullptr);
      ASSERT_TRUE(data.ok()) << data.status();
      EXPECT_EQ(memory.used(), data->bytes() + data->objects.bytes());
      EXPECT_GE(memory.used(), 2000u * (8 + 12 + 24 + 15));
    }
    EXPECT_EQ(memory.used(), 0u);
  }
}

// A header that names many tensors, and many shards: their product is what columns take.
TEST(DatasetBuilderTest, ColumnsThatDoNotFitAreRefused) {
  MemoryStore store;
  std::string json = "{";
  for (int i = 0; i < 2000; ++i) {
    json += (i > 0 ? "," : "") + ("\"t" + std::to_string(i)) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
            std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  const std::string file = Safetensors(json + "}", 2000);
  for (int i = 0; i < 500; ++i) store.Put(std::to_string(1000 + i) + ".safetensors", i == 0 ? file : "x");
  CountedMemory memory(16 << 20);
  const auto data = BuildDataset(store, {.memory = memory.Account()}, Soon(), nullptr);
  EXPECT_EQ(data.status().code(), absl::StatusCode::kResourceExhausted) << data.status();
  EXPECT_EQ(memory.used(), 0u);
}

TEST(DatasetBuilderTest, MatchingGlobsIsCancelledAndHasADeadline) {
  MemoryStore store;
  for (int i = 0; i < 20'000; ++i) store.Put(std::string(200, 'a') + std::to_string(i), "x");
  std::string glob;
  while (glob.size() < 1000) glob += "*a*?";
  const DatasetOptions options{.format = DatasetFormat::kRaw,
                               .tensors = {{.glob = glob + "*b", .dtype = DType::kU8, .shape = Shape{1}}}};
  int asked = 0;
  const auto cancelled = BuildDataset(store, options, Soon(),
                                      [&](std::string_view, uint64_t listed, uint64_t) { return listed == 0 || ++asked < 3; });
  EXPECT_EQ(cancelled.status().code(), absl::StatusCode::kCancelled) << cancelled.status();
  EXPECT_EQ(asked, 3);
  const auto late = ListDataset(store, options, Clock::now() - std::chrono::seconds(1), nullptr);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded) << late.status();
  EXPECT_EQ(FaultOf(late.status()), Fault::kTimeout);
}

TEST(DatasetBuilderTest, OverTheFileStore) {
  char folder[] = "/tmp/dataset_builder_test.XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::filesystem::path root(folder);
  const auto write = [&](const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories((root / name).parent_path());
    std::ofstream(root / name, std::ios::binary) << bytes;
  };
  write("train/0.npy", Npy("<f4", {3, 2}, 4, 9000));
  write("train/1.npy", Npy("<f4", {2, 2}, 4));
  write(".git/x.npy", "not data");
  auto uri = ParseStoreUri("file://" + root.string());
  ASSERT_TRUE(uri.ok()) << uri.status();
  const auto store = MakeFileStore(*uri);
  const auto data = BuildDataset(*store, {}, Soon(), nullptr);
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_THAT(Names(*data), ElementsAre("train/0.npy", "train/1.npy"));
  EXPECT_THAT(data->first_sample, ElementsAre(0, 3, 5));
  EXPECT_THAT(data->objects[0].validator, Not(IsEmpty()));
  write(std::string(kIndexName), WriteIndex(*ListDataset(*store, {}, Soon(), nullptr)));
  const auto opened = BuildDataset(*store, {}, Soon(), nullptr);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->fingerprint, data->fingerprint);
  EXPECT_GT(opened->index_written, 0) << "as the file's date says";
  EXPECT_EQ(opened->warnings.size(), 1u) << "nothing differs";

  // The index's own word counts more than the file's date. And what differs from the folder is said, but for what is no data.
  auto dated = ListDataset(*store, {}, Soon(), nullptr);
  dated->written = 1'764'590'400;
  write(std::string(kIndexName), WriteIndex(*dated));
  write("train/2.npy", Npy("<f4", {2, 2}, 4));
  write("train/.3.npy", Npy("<f4", {2, 2}, 4));
  write("README", "no shard of the index's globs");
  write("train/1.npy", Npy("<f4", {9, 2}, 4));
  std::filesystem::remove(root / "train/0.npy");
  const auto stale = BuildDataset(*store, {}, Soon(), nullptr);
  ASSERT_TRUE(stale.ok()) << stale.status();
  EXPECT_EQ(stale->index_written, 1'764'590'400);
  EXPECT_EQ(stale->samples(), 5u) << "of the index";
  EXPECT_THAT(stale->warnings,
              ElementsAre(HasSubstr("index of 2025-12-01 12:00:00 UTC"),
                          HasSubstr("1 new (train/2.npy), 1 missing (train/0.npy), 1 of another size (train/1.npy)")));
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace devmem
