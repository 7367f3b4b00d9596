// SPDX-License-Identifier: Apache-2.0
#include "service/index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>

#include <functional>

#include "base/clock.h"
#include "base/error.h"
#include "base/testing/counted_memory.h"
#include "devmem_loader/v1/index.pb.h"
#include "service/digest.h"

namespace devmem {
namespace {

using devmem_loader::v1::DatasetIndex;
using ::testing::HasSubstr;

// Two tensors, three shards of 3, 0 and 5 samples.
IndexedDataset Small() {
  IndexedDataset indexed;
  indexed.format = DatasetFormat::kNpy;
  indexed.globs = {"image/*.npy", "label/*.npy"};
  Dataset& data = indexed.dataset;
  data.objects.Add("image/0.npy", 128 + 3 * 12, "\"a\"");
  data.objects.Add("image/1.npy", 128, "\"b\"");
  data.objects.Add("image/2.npy", 256 + 5 * 12, "");
  data.objects.Add("label/0.npy", 128 + 3 * 8, "Sun, 22 Nov 2026 16:00:00 GMT");
  data.objects.Add("label/1.npy", 128, "\"e\"");
  data.objects.Add("label/2.npy", 128 + 5 * 8, "\"f\"");
  data.first_sample = {0, 3, 3, 8};
  data.tensors.push_back({.name = "image",
                          .dtype = DType::kF32,
                          .shape = {3},
                          .row_bytes = 12,
                          .objects = {0, 1, 2},
                          .data_offsets = {128, 128, 256}});
  data.tensors.push_back({.name = "label",
                          .dtype = DType::kI64,
                          .shape = {},
                          .row_bytes = 8,
                          .objects = {3, 4, 5},
                          .data_offsets = {128, 128, 128}});
  data.fingerprint = Fingerprint(data.objects, {});
  return indexed;
}

void ExpectSame(const IndexedDataset& a, const IndexedDataset& b) {
  EXPECT_EQ(a.format, b.format);
  EXPECT_EQ(a.globs, b.globs);
  EXPECT_EQ(a.dataset.fingerprint, b.dataset.fingerprint);
  EXPECT_EQ(a.dataset.first_sample, b.dataset.first_sample);
  ASSERT_EQ(a.dataset.objects.size(), b.dataset.objects.size());
  for (size_t i = 0; i < a.dataset.objects.size(); ++i) {
    EXPECT_EQ(a.dataset.objects[i].name, b.dataset.objects[i].name);
    EXPECT_EQ(a.dataset.objects[i].size, b.dataset.objects[i].size);
    EXPECT_EQ(a.dataset.objects[i].validator, b.dataset.objects[i].validator);
  }
  ASSERT_EQ(a.dataset.tensors.size(), b.dataset.tensors.size());
  for (size_t t = 0; t < a.dataset.tensors.size(); ++t) {
    EXPECT_EQ(a.dataset.tensors[t].name, b.dataset.tensors[t].name);
    EXPECT_EQ(a.dataset.tensors[t].dtype, b.dataset.tensors[t].dtype);
    EXPECT_EQ(a.dataset.tensors[t].shape, b.dataset.tensors[t].shape);
    EXPECT_EQ(a.dataset.tensors[t].row_bytes, b.dataset.tensors[t].row_bytes);
    EXPECT_EQ(a.dataset.tensors[t].objects, b.dataset.tensors[t].objects);
    EXPECT_EQ(a.dataset.tensors[t].data_offsets, b.dataset.tensors[t].data_offsets);
  }
}

TEST(IndexTest, ComesBackAsItWas) {
  const auto again = ReadIndex(WriteIndex(Small()));
  ASSERT_TRUE(again.ok()) << again.status();
  ExpectSame(*again, Small());
  EXPECT_EQ(again->written, 0) << "as of a release that did not say";
  IndexedDataset dated = Small();
  dated.written = 1'764'590'400;
  EXPECT_EQ(ReadIndex(WriteIndex(dated))->written, 1'764'590'400);
}

TEST(IndexTest, EveryDamagedByteIsSeen) {
  const std::string bytes = WriteIndex(Small());
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_EQ(ReadIndex(damaged).status().code(), absl::StatusCode::kDataLoss) << "byte " << at;
    EXPECT_EQ(ReadIndex(bytes.substr(0, at)).status().code(), absl::StatusCode::kDataLoss) << "cut at " << at;
  }
  EXPECT_FALSE(ReadIndex(bytes + bytes).ok());
}

// A forger can make the checksum right: what it covers is checked all the same.
std::string Seal(const DatasetIndex& message) {
  std::string bytes = message.SerializeAsString();
  ShortDigest digest;
  digest.AddBytes(bytes);
  const uint64_t checksum = digest.Finish();
  bytes.push_back(9 << 3 | 1);
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(checksum >> (8 * i)));
  return bytes;
}

TEST(IndexTest, UntrustedInputIsChecked) {
  DatasetIndex good;
  const std::string bytes = WriteIndex(Small());
  ASSERT_TRUE(good.ParseFromArray(bytes.data(), static_cast<int>(bytes.size() - 9)));
  ASSERT_TRUE(ReadIndex(Seal(good)).ok());

  struct Row {
    const char* description;
    std::function<void(DatasetIndex&)> change;
    const char* message;
  };
  const Row rows[] = {
      {"version", [](DatasetIndex& m) { m.set_version(2); }, "version 2"},
      {"no format", [](DatasetIndex& m) { m.clear_format(); }, "unknown format"},
      {"format 99", [](DatasetIndex& m) { m.set_format(static_cast<devmem_loader::v1::Format>(99)); }, "unknown format"},
      {"fewer sizes", [](DatasetIndex& m) { m.mutable_sizes()->RemoveLast(); }, "different lengths"},
      {"fewer names", [](DatasetIndex& m) { m.mutable_name_lengths()->RemoveLast(); }, "different lengths"},
      {"fewer validators", [](DatasetIndex& m) { m.mutable_validator_lengths()->RemoveLast(); }, "different lengths"},
      {"names too short", [](DatasetIndex& m) { m.mutable_names()->pop_back(); }, "beyond their end"},
      {"names too long", [](DatasetIndex& m) { m.mutable_names()->push_back('x'); }, "belong to no object"},
      {"validators too short", [](DatasetIndex& m) { m.mutable_validators()->pop_back(); }, "beyond their end"},
      {"validators too long", [](DatasetIndex& m) { m.mutable_validators()->push_back('x'); }, "belong to no object"},
      {"name length 2^32-1", [](DatasetIndex& m) { m.set_name_lengths(1, 0xffffffff); }, "beyond their end"},
      {"empty name", [](DatasetIndex& m) { m.set_name_lengths(0, 0); }, "empty, repeated or out of order"},
      {"same name twice", [](DatasetIndex& m) { (*m.mutable_names())[6 + 11] = '0'; }, "empty, repeated or out of order"},
      {"names out of order", [](DatasetIndex& m) { (*m.mutable_names())[0] = 'z'; }, "empty, repeated or out of order"},
      {"header in a validator", [](DatasetIndex& m) { (*m.mutable_validators())[1] = '\n'; }, "validator"},
      {"object of 2^63", [](DatasetIndex& m) { m.set_sizes(0, uint64_t{1} << 63); }, "2^63 bytes"},
      {"no columns", [](DatasetIndex& m) { m.clear_columns(); }, "no tensors"},
      {"column without name", [](DatasetIndex& m) { m.mutable_columns(0)->clear_name(); }, "name of its own"},
      {"columns of one name", [](DatasetIndex& m) { m.mutable_columns(1)->set_name("image"); }, "name of its own"},
      {"dtype 0", [](DatasetIndex& m) { m.mutable_columns(0)->clear_dtype(); }, "dtype"},
      {"dtype 14", [](DatasetIndex& m) { m.mutable_columns(0)->set_dtype(static_cast<devmem_loader::v1::DType>(14)); },
       "dtype"},
      {"dtype 257", [](DatasetIndex& m) { m.mutable_columns(0)->set_dtype(static_cast<devmem_loader::v1::DType>(257)); },
       "dtype"},
      {"negative shape", [](DatasetIndex& m) { m.mutable_columns(0)->set_shape(0, -3); }, "has shape (-3,)"},
      {"empty rows", [](DatasetIndex& m) { m.mutable_columns(0)->set_shape(0, 0); }, "has shape (0,)"},
      {"2^63 shape", [](DatasetIndex& m) { m.mutable_columns(0)->set_shape(0, int64_t{1} << 61); }, "has shape"},
      {"object out of range", [](DatasetIndex& m) { m.mutable_columns(0)->set_objects(2, 6); }, "does not have"},
      {"offset past the end", [](DatasetIndex& m) { m.mutable_columns(0)->set_data_offsets(0, 129); },
       "beyond the end of \"image/0.npy\""},
      {"offset that wraps", [](DatasetIndex& m) { m.mutable_columns(0)->set_data_offsets(0, ~uint64_t{0} - 35); },
       "beyond the end"},
      {"count past the end", [](DatasetIndex& m) { m.mutable_columns(0)->set_counts(0, 4); }, "beyond the end"},
      {"count that wraps", [](DatasetIndex& m) { m.mutable_columns(1)->set_counts(0, uint64_t{1} << 61); }, "beyond the end"},
      {"counts differ", [](DatasetIndex& m) { m.mutable_columns(1)->set_counts(0, 2); }, "other counts"},
      {"fewer counts", [](DatasetIndex& m) { m.mutable_columns(0)->mutable_counts()->RemoveLast(); },
       "parts of different lengths"},
      {"fewer offsets", [](DatasetIndex& m) { m.mutable_columns(0)->mutable_data_offsets()->RemoveLast(); },
       "parts of different lengths"},
      {"fewer shards",
       [](DatasetIndex& m) {
         m.mutable_columns(1)->mutable_counts()->RemoveLast();
         m.mutable_columns(1)->mutable_objects()->RemoveLast();
         m.mutable_columns(1)->mutable_data_offsets()->RemoveLast();
       },
       "another number of shards"},
      {"nothing at all", [](DatasetIndex& m) { m.Clear(); }, "does not end in its checksum"},
  };
  for (const Row& row : rows) {
    DatasetIndex message = good;
    row.change(message);
    const auto read = ReadIndex(Seal(message));
    ASSERT_FALSE(read.ok()) << row.description;
    EXPECT_THAT(Text(read.status()), HasSubstr(row.message)) << row.description;
    EXPECT_NE(GetErrorInfo(read.status()).action, "") << row.description;
  }
}

TEST(IndexTest, GarbageWithAGoodChecksumIsDamaged) {
  DatasetIndex message;
  message.set_names(std::string(50, 'x'));
  std::string bytes = Seal(message);
  bytes[0] = 0x0f;  // a tag of wire type 7, which there is not
  std::string covered = bytes.substr(0, bytes.size() - 9);
  ShortDigest digest;
  digest.AddBytes(covered);
  const uint64_t checksum = digest.Finish();
  for (int i = 0; i < 8; ++i) bytes[bytes.size() - 8 + static_cast<size_t>(i)] = static_cast<char>(checksum >> (8 * i));
  EXPECT_THAT(Text(ReadIndex(bytes).status()), HasSubstr("not a DatasetIndex"));
}

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
std::string Sealed(std::string bytes) {
  ShortDigest digest;
  digest.AddBytes(bytes);
  const uint64_t checksum = digest.Finish();
  bytes.push_back(9 << 3 | 1);
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(checksum >> (8 * i)));
  return bytes;
}

// Two bytes can become a column of hundreds: what is parsed is counted before it is.
TEST(IndexTest, WhatItComesToIsCountedBeforeItIsThere) {
  constexpr size_t kMiB = 1 << 20;
  const std::string zeros(kMiB, '\0');
  std::string columns, numbers;
  while (columns.size() < kMiB) columns += std::string("\x42\x00", 2);
  while (numbers.size() < kMiB) numbers += std::string("\x28\x01", 2);
  std::string unknown, strings;
  while (unknown.size() < kMiB) unknown += std::string("\x78\x01", 2);
  while (strings.size() < kMiB) strings += std::string("\x7a\x00", 2);
  const struct {
    const char* description;
    std::string bytes;
  } rows[] = {
      {"columns of nothing", columns},
      {"sizes of one byte", "\x2a" + Varint(zeros.size()) + zeros},
      {"sizes, each a field", numbers},
      {"counts in a column",
       "\x42" + Varint(zeros.size() + 1 + Varint(zeros.size()).size()) + "\x3a" + Varint(zeros.size()) + zeros},
      {"numbers we do not know", unknown},
      {"strings we do not know", strings},
  };
  for (const auto& row : rows) {
    // Refused where it does not fit: without an account it is read, and found to be nonsense.
    CountedMemory memory(4 << 20);
    HeldMemory held(memory.Account());
    ASSERT_TRUE(held.Resize(row.bytes.size()).ok());
    const absl::Status refused = ReadIndex(Sealed(row.bytes), std::move(held)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << row.description << ": " << refused;
    EXPECT_EQ(memory.used(), 0u) << row.description;
    // And what is counted is no less than what a parser takes.
    CountedMemory enough(uint64_t{4} << 30);
    HeldMemory counted(enough.Account());
    ASSERT_TRUE(counted.Resize(row.bytes.size()).ok());
    EXPECT_FALSE(ReadIndex(Sealed(row.bytes), std::move(counted)).ok()) << row.description;
    DatasetIndex message;
    const size_t before = ::mallinfo2().uordblks + ::mallinfo2().hblkhd;
    ASSERT_TRUE(message.ParseFromString(row.bytes)) << row.description;
    const size_t taken = ::mallinfo2().uordblks + ::mallinfo2().hblkhd - before;
    EXPECT_GE(enough.most(), taken) << row.description;
  }
}

TEST(IndexTest, ADatasetIsCountedWhileItLives) {
  CountedMemory memory(1 << 20);
  std::string bytes = WriteIndex(Small());
  {
    HeldMemory held(memory.Account());
    ASSERT_TRUE(held.Resize(bytes.size()).ok());
    const auto read = ReadIndex(std::move(bytes), std::move(held));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(memory.used(), read->dataset.bytes() + read->dataset.objects.bytes());
    EXPECT_GT(memory.used(), 0u);
  }
  EXPECT_EQ(memory.used(), 0u);
}

TEST(IndexTest, NamesAndGlobsHaveALimit) {
  IndexedDataset indexed = Small();
  indexed.globs[0] = std::string(1025, '*');
  EXPECT_THAT(Text(ReadIndex(WriteIndex(indexed)).status()), HasSubstr("longer than 1024"));
}

// 10^9 samples in 10^6 objects: right at every shard's edge. Time and memory are printed; the peak is of reading alone
// only where the kernel lets the high-water mark be reset.
TEST(IndexTest, AMillionObjects) {
  constexpr uint32_t kObjects = 1'000'000;
  constexpr uint64_t kRows = 1000;
  std::string bytes;
  uint64_t fingerprint = 0;
  {
    IndexedDataset indexed;
    indexed.format = DatasetFormat::kNpy;
    indexed.globs = {"*.npy"};
    Dataset& data = indexed.dataset;
    TensorColumn column{.name = "data", .dtype = DType::kU8, .shape = {64}, .row_bytes = 64};
    data.first_sample.push_back(0);
    char text[64];
    for (uint32_t i = 0; i < kObjects; ++i) {
      std::snprintf(text, sizeof(text), "train/%07u.npy", i);
      const std::string name = text;
      std::snprintf(text, sizeof(text), "\"6740a1c0-%x\"", i);
      data.objects.Add(name, 128 + kRows * 64, text);
      data.first_sample.push_back(data.first_sample.back() + kRows);
      column.objects.push_back(i);
      column.data_offsets.push_back(128);
    }
    data.tensors.push_back(std::move(column));
    fingerprint = Fingerprint(data.objects, {});
    bytes = WriteIndex(indexed);
  }
  ::malloc_trim(0);
  const auto peak_mib = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
  };
  if (FILE* clear = std::fopen("/proc/self/clear_refs", "w"); clear != nullptr) {
    std::fputs("5", clear);
    std::fclose(clear);
  }
  const size_t size = bytes.size();
  const Time begin = Clock::now();
  const auto read = ReadIndex(std::move(bytes));
  const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  ASSERT_TRUE(read.ok()) << read.status();
  std::printf("index of %zu bytes, 10^6 objects: read in %.0f ms, peak RSS %ld MiB\n", size, ms, peak_mib());

  const Dataset& data = read->dataset;
  EXPECT_EQ(data.fingerprint, fingerprint);
  EXPECT_EQ(data.samples(), kObjects * kRows);
  ASSERT_EQ(data.shards(), kObjects);
  size_t hint = 0;
  for (uint32_t i = 0; i < kObjects; ++i) {
    ASSERT_EQ(data.ShardOf(i * kRows, hint), i);
    ASSERT_EQ(data.ShardOf(i * kRows + kRows - 1, hint), i);
    const Dataset::Extent last = data.Locate(0, i, i * kRows + kRows - 1);
    ASSERT_EQ(last.object, i);
    ASSERT_EQ(last.offset + last.bytes, data.objects[i].size);
  }
  EXPECT_EQ(data.objects[999'999].name, "train/0999999.npy");
  EXPECT_EQ(data.objects[999'999].validator, "\"6740a1c0-f423f\"");
}

}  // namespace
}  // namespace devmem
