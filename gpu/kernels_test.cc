// SPDX-License-Identifier: Apache-2.0
// The kernels' own source, run lane by lane on the CPU (gpu/simt/), against the CPU device: random fragments, every pair of
// alignments, destinations that would show a byte too many.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gpu/cast.h"
#include "gpu/checksum.h"
#include "gpu/gather_cast.h"
#include "gpu/kernels/cast_kernels.h"
#include "gpu/kernels/checksum_tables.h"
#include "gpu/kernels/gather.h"
#include "gpu/kernels/gather_checksum.h"
#include "gpu/simt/simt.h"
#include "gpu/work_plan.h"

namespace devmem {
namespace {

// Whole words of 16 bytes, as device memory is: a kernel may read such a word if one byte of it is its own, and
// AddressSanitizer sees it if it reads the next. `shift`: the first byte's place within its word.
class Bytes {
 public:
  explicit Bytes(uint64_t size, uint64_t shift = 0) : size_(size), shift_(shift % 16) {
    const uint64_t whole = (size + shift_ + 15) / 16 * 16;
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(16, std::max<uint64_t>(16, whole))));
    std::memset(data_.get(), 0xee, std::max<uint64_t>(16, whole));
  }
  static Bytes Random(uint64_t size, uint64_t shift, std::mt19937_64& random) {
    Bytes bytes(size, shift);
    for (uint64_t i = 0; i < size; ++i) bytes.data()[i] = static_cast<uint8_t>(random());
    return bytes;
  }
  [[nodiscard]] uint8_t* data() const { return data_.get() + shift_; }
  [[nodiscard]] uint64_t address() const { return reinterpret_cast<uint64_t>(data()); }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] std::vector<uint8_t> copy() const { return {data(), data() + size_}; }

 private:
  struct Free {
    void operator()(uint8_t* pointer) const { std::free(pointer); }
  };
  uint64_t size_, shift_;
  std::unique_ptr<uint8_t, Free> data_;
};

uint32_t BlocksFor(uint32_t tiles) { return (tiles + kBlockWarps - 1) / kBlockWarps; }

void RunGather(const WorkPlan& plan, uint64_t seed, bool in_launch) {
  if (in_launch) {
    InlineGatherTask task{};
    FillInline(plan, &task);
    simt::Launch({.blocks = BlocksFor(task.count), .seed = seed}, [&] { lane::InlineGatherBody(task); });
    return;
  }
  const GatherTask task{plan.runs.data(), plan.tiles.data(), plan.tile_count()};
  simt::Launch({.blocks = BlocksFor(task.count), .seed = seed}, [&] { lane::GatherBody(task); });
}

// Fragments of `lengths` at random places of a source, with room between them in the destination, or none.
struct Layout {
  std::vector<Fragment> fragments;
  uint64_t source_bytes = 0, destination_bytes = 0;
};
Layout Lay(const std::vector<uint64_t>& lengths, std::mt19937_64& random, bool gaps) {
  Layout layout;
  std::vector<size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  layout.fragments.resize(lengths.size());
  for (const size_t index : order) {  // the source in another order than the destination
    layout.source_bytes += random() % 20;
    layout.fragments[index] = {.source = layout.source_bytes, .bytes = lengths[index]};
    layout.source_bytes += lengths[index];
  }
  for (Fragment& fragment : layout.fragments) {
    layout.destination_bytes += gaps ? random() % 20 : 0;
    fragment.destination = layout.destination_bytes;
    layout.destination_bytes += fragment.bytes;
  }
  return layout;
}

void ExpectGathers(const Layout& layout, uint64_t source_shift, uint64_t destination_shift, std::mt19937_64& random,
                   uint32_t most_tiles, bool in_launch = false) {
  const Bytes source = Bytes::Random(layout.source_bytes, source_shift, random);
  const Bytes got(layout.destination_bytes, destination_shift);
  std::vector<uint8_t> expected(layout.destination_bytes, 0xee);
  for (const Fragment& fragment : layout.fragments) {
    std::copy_n(source.data() + fragment.source, fragment.bytes, expected.data() + fragment.destination);
  }
  WorkPlan plan;
  PlanGather(source.address(), got.address(), layout.fragments, {.most_tiles = most_tiles}, &plan);
  ASSERT_TRUE(!in_launch || FitsInline(plan));
  RunGather(plan, random(), in_launch);
  const std::vector<uint8_t> bytes = got.copy();
  const auto [at, wanted] = std::mismatch(bytes.begin(), bytes.end(), expected.begin());
  ASSERT_TRUE(at == bytes.end()) << "byte " << at - bytes.begin() << " of " << bytes.size() << ": " << int{*at} << ", not "
                                 << int{*wanted} << "; shifts " << source_shift << " " << destination_shift;
}

TEST(GatherKernel, EveryPairOfAlignments) {
  std::mt19937_64 random(1);
  for (uint64_t source = 0; source < 16; ++source) {
    for (uint64_t destination = 0; destination < 16; ++destination) {
      for (const uint64_t length : {1, 15, 33, 47, 700, 2100}) {
        const Layout layout{.fragments = {{0, 0, length}}, .source_bytes = length, .destination_bytes = length};
        ExpectGathers(layout, source, destination, random, 3);
      }
    }
  }
}

TEST(GatherKernel, EveryLengthUpTo100) {
  std::mt19937_64 random(2);
  std::vector<uint64_t> lengths(101);
  std::iota(lengths.begin(), lengths.end(), 0);
  for (uint64_t round = 0; round < 4; ++round) {
    std::shuffle(lengths.begin(), lengths.end(), random);
    ExpectGathers(Lay(lengths, random, round % 2 == 0), round, 3 * round, random, 7);
  }
}

TEST(GatherKernel, RandomFragments) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 40; ++round) {
    std::vector<uint64_t> lengths(1 + random() % 90);
    const uint64_t most = uint64_t{1} << (1 + random() % 13);
    for (uint64_t& length : lengths) length = random() % most;
    ExpectGathers(Lay(lengths, random, random() % 2 == 0), random(), random(), random, 1 + random() % 64, round % 4 == 0);
  }
}

TEST(GatherKernel, ManyTinyOnes) {
  std::mt19937_64 random(4);
  ExpectGathers(Lay(std::vector<uint64_t>(20000, 8), random, true), 1, 5, random, 50);
}

TEST(GatherKernel, NothingAtAll) {
  WorkPlan plan;
  PlanGather(0, 0, {}, {}, &plan);
  EXPECT_EQ(plan.tile_count(), 0U);
  const Fragment empty[] = {{0, 0, 0}, {5, 5, 0}};
  PlanGather(0, 0, empty, {}, &plan);
  EXPECT_EQ(plan.tile_count(), 0U);
}

TEST(WorkPlan, MergesWhatFollows) {
  const Fragment fragments[] = {{0, 100, 10}, {10, 110, 10}, {20, 120, 0}, {20, 121, 10}, {31, 131, 10}};
  WorkPlan plan;
  PlanGather(1000, 2000, fragments, {}, &plan);
  ASSERT_EQ(plan.runs.size(), 3U);
  EXPECT_EQ(plan.runs[0].source, 1000U);
  EXPECT_EQ(plan.runs[0].destination, 2100U);
  EXPECT_EQ(plan.runs[0].bytes, 20U);
  EXPECT_EQ(plan.bytes, 40U);
}

// No tile has much more than its share, however one-sided the lengths.
TEST(WorkPlan, TilesAreEven) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<Fragment> fragments;
    uint64_t at = 0;
    for (uint64_t i = 0; i < 1 + random() % 500; ++i) {
      const uint64_t bytes = random() % (random() % 10 == 0 ? 1 << 20 : 100);
      fragments.push_back({.source = 2 * at, .destination = at, .bytes = bytes});
      at += bytes;
    }
    WorkPlan plan;
    const uint32_t most = 1 + random() % 1000;
    PlanGather(0, 0, fragments, {.most_tiles = most}, &plan);
    const uint64_t share = std::max<uint64_t>(1024, ((plan.bytes + plan.runs.size() * 64) / most) + 1);
    uint64_t total = 0;
    for (uint32_t tile = 0; tile < plan.tile_count(); ++tile) {
      const Tile from = plan.tiles[tile], to = plan.tiles[tile + 1];
      uint64_t bytes = 0;
      for (uint64_t run = from.run; run <= to.run && run < plan.runs.size(); ++run) {
        const uint64_t begin = run == from.run ? from.offset : 0, end = run == to.run ? to.offset : plan.runs[run].bytes;
        bytes += end - begin;
      }
      EXPECT_LE(bytes, share + 16);
      total += bytes;
    }
    EXPECT_EQ(total, plan.bytes);
    EXPECT_LE(plan.tile_count(), most + most / 8 + 2);
  }
}

// --- casts --------------------------------------------------------------------------------------------------------

// The bytes [0, size) in pieces, out of order in the source.
Layout Pieces(uint64_t size, uint64_t most, std::mt19937_64& random) {
  std::vector<uint64_t> lengths;
  for (uint64_t at = 0; at < size;) {
    lengths.push_back(std::min(size - at, random() % (most + 1)));
    at += lengths.back();
  }
  return Lay(lengths, random, false);
}

void CastOnCpu(const CastPath& path, const CastTask& task, lane::CastConstants* shared) {
  WithCastKernel(path, task, [&](auto kernel) { decltype(kernel)::Body(task, shared); });
}

void ExpectCasts(const GatherCastSpec& spec, uint64_t most_piece, std::mt19937_64& random) {
  const uint64_t stored = spec.cast.count * ItemSize(spec.cast.from);
  const Layout layout = Pieces(stored, most_piece, random);
  const Bytes source = Bytes::Random(layout.source_bytes, random(), random);
  const uint64_t bytes = spec.cast.count * ItemSize(spec.cast.to);
  const uint64_t shift = random() % 4 == 0 ? random() : 0;
  const Bytes got(bytes, shift);
  std::vector<std::byte> expected(bytes);
  ASSERT_TRUE(CheckGatherCast(spec, layout.fragments, source.size(), bytes).ok());
  GatherCastElements(spec, layout.fragments, reinterpret_cast<const std::byte*>(source.data()), expected.data());

  const CastPath path = ChooseCastPath(spec);
  WorkPlan plan;
  CastTask task;
  PlanCast(spec, path, source.address(), got.address(), layout.fragments, 1 + random() % 20, &plan, &task);
  task.runs = plan.runs.data();
  task.tiles = plan.tiles.data();
  lane::CastConstants shared;
  simt::Launch({.blocks = BlocksFor(task.count), .seed = random()}, [&] { CastOnCpu(path, task, &shared); });
  for (uint64_t i = 0; i < bytes; ++i) {
    ASSERT_EQ(got.data()[i], static_cast<uint8_t>(expected[i]))
        << Name(spec.cast.from) << " to " << Name(spec.cast.to) << ", byte " << i << " of " << bytes << ", " << spec.channels
        << " channels, " << spec.pixels << " pixels, float " << path.in_float << ", kernel " << static_cast<int>(path.kernel);
  }
}

TEST(CastKernel, EveryPairOfTypes) {
  std::mt19937_64 random(6);
  for (int from = 1; from <= 13; ++from) {
    for (int to = 10; to <= 13; ++to) {
      for (const double scale : {1.0, 1.0 / 255, 0.0, -3e300}) {
        for (const uint64_t piece : {5, 3000}) {
          const GatherCastSpec spec{
              .cast = {
                  .from = static_cast<DType>(from), .to = static_cast<DType>(to), .scale = scale, .count = 600 + random() % 9}};
          ExpectCasts(spec, piece, random);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(CastKernel, ChannelsAndPlanes) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 160; ++round) {
    const DType from = round % 2 == 0 ? DType::kU8 : static_cast<DType>(1 + random() % 13);
    GatherCastSpec spec{.cast = {.from = from, .to = static_cast<DType>(10 + random() % 4), .scale = 1.0 / 255}};
    spec.channels = 1 + random() % 5;
    const uint64_t pixels = 1 + random() % 90, samples = 1 + random() % 5;
    spec.cast.count = spec.channels * pixels * samples;
    if (random() % 4 != 0) spec.pixels = pixels;
    if (random() % 2 == 0) {
      for (uint32_t c = 0; c < spec.channels; ++c) {
        spec.mean.push_back(0.4 + 0.01 * c);
        spec.deviation.push_back(0.2 + 0.01 * c);
      }
    }
    ExpectCasts(spec, random() % 2 == 0 ? 10 : 1448, random);
    if (HasFatalFailure()) return;
  }
}

// Every value of the 8 and 16-bit sources, by the kernel that is used for images.
TEST(CastKernel, EveryValue) {
  for (const DType from : {DType::kU8, DType::kU16, DType::kF16, DType::kBF16}) {
    const uint64_t values = uint64_t{1} << (8 * ItemSize(from));
    std::vector<std::byte> stored(values * ItemSize(from));
    for (uint64_t i = 0; i < values; ++i) std::memcpy(stored.data() + (i * ItemSize(from)), &i, ItemSize(from));
    for (const DType to : {DType::kF16, DType::kBF16, DType::kF32}) {
      const GatherCastSpec spec{.cast = {.from = from, .to = to, .scale = 1.0 / 255, .count = values}};
      const Fragment whole{0, 0, stored.size()};
      std::vector<std::byte> expected(values * ItemSize(to));
      GatherCastElements(spec, {&whole, 1}, stored.data(), expected.data());
      const Bytes source(stored.size()), got(expected.size());
      std::memcpy(source.data(), stored.data(), stored.size());
      const CastPath path = ChooseCastPath(spec);
      WorkPlan plan;
      CastTask task;
      PlanCast(spec, path, source.address(), got.address(), {&whole, 1}, 8, &plan, &task);
      task.runs = plan.runs.data();
      task.tiles = plan.tiles.data();
      lane::CastConstants shared;
      simt::Launch({.blocks = BlocksFor(task.count)}, [&] { CastOnCpu(path, task, &shared); });
      EXPECT_EQ(std::memcmp(got.data(), expected.data(), expected.size()), 0) << Name(from) << " to " << Name(to);
    }
  }
}

// Doubles at the middle between two 16-bit numbers, and a hair to either side: what a rounding through binary32 gets wrong.
TEST(CastKernel, MiddlesAndTheirNeighbours) {
  std::mt19937_64 random(11);
  for (const DType to : {DType::kF16, DType::kBF16}) {
    std::vector<double> values;
    while (values.size() < 3000) {
      const auto bits = static_cast<uint16_t>(random());
      const auto value = [to](uint16_t of) -> double { return to == DType::kF16 ? HalfToFloat(of) : BFloat16ToFloat(of); };
      const double middle = (value(bits) + value(static_cast<uint16_t>(bits + 1))) / 2;
      for (const double hair : {-0x1p-40, 0.0, 0x1p-40}) values.push_back(middle * (1 + hair));
    }
    const GatherCastSpec spec{.cast = {.from = DType::kF64, .to = to, .count = values.size()}};
    const Fragment whole{0, 0, values.size() * 8};
    std::vector<std::byte> expected(values.size() * 2);
    GatherCastElements(spec, {&whole, 1}, reinterpret_cast<const std::byte*>(values.data()), expected.data());
    const Bytes source(whole.bytes), got(expected.size());
    std::memcpy(source.data(), values.data(), whole.bytes);
    WorkPlan plan;
    CastTask task;
    const CastPath path = ChooseCastPath(spec);
    PlanCast(spec, path, source.address(), got.address(), {&whole, 1}, 8, &plan, &task);
    task.runs = plan.runs.data();
    task.tiles = plan.tiles.data();
    lane::CastConstants shared;
    simt::Launch({.blocks = BlocksFor(task.count)}, [&] { CastOnCpu(path, task, &shared); });
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), expected.size()), 0) << Name(to);
  }
}

TEST(CastPath, FloatWhereItIsProved) {
  const auto path = [](DType from, DType to, double scale) {
    return ChooseCastPath({.cast = {.from = from, .to = to, .scale = scale, .count = 1}});
  };
  EXPECT_TRUE(path(DType::kU8, DType::kBF16, 1.0 / 255).in_float);
  EXPECT_TRUE(path(DType::kU8, DType::kF32, 1.0).in_float);
  EXPECT_FALSE(path(DType::kU8, DType::kF32, 1.0 / 255).in_float) << "1/255 is no float: its products are others";
  EXPECT_FALSE(path(DType::kF32, DType::kBF16, 1.0).in_float) << "too many values to try";
  EXPECT_EQ(path(DType::kI64, DType::kF32, 1.0).kernel, CastPath::Kernel::kAny);
}

// --- checksums ----------------------------------------------------------------------------------------------------

template <typename Crc>
void ExpectSums(const Layout& layout, Checksum kind, std::mt19937_64& random, uint32_t most_tiles, uint32_t blocks) {
  const Bytes source = Bytes::Random(layout.source_bytes, random(), random);
  const Bytes got(layout.destination_bytes, random());
  WorkPlan plan;
  PlanGather(source.address(), got.address(), layout.fragments, {.most_tiles = most_tiles, .merge = false}, &plan);
  static const auto tables = MakeChecksumTables<Crc>();
  std::vector<uint64_t> sums(layout.fragments.size());
  const ChecksumTask task{plan.runs.data(), plan.tiles.data(), plan.tile_count(), tables.get(), sums.data()};
  auto shared = std::make_unique<lane::ChecksumTables<Crc>>();
  simt::Launch({.blocks = blocks, .seed = random()}, [&] { lane::ChecksumBody<Crc>(task, shared.get()); });
  const SumsTask finish{plan.runs.data(), plan.runs.size(), tables.get(), sums.data()};
  simt::Launch({.blocks = static_cast<uint32_t>((plan.runs.size() / kBlockThreads) + 1), .seed = random()},
               [&] { lane::SumsBody<Crc>(finish); });
  std::vector<uint8_t> expected(layout.destination_bytes, 0xee);
  for (size_t i = 0; i < layout.fragments.size(); ++i) {
    const Fragment& fragment = layout.fragments[i];
    std::copy_n(source.data() + fragment.source, fragment.bytes, expected.data() + fragment.destination);
    ASSERT_EQ(sums[i], ChecksumOf(kind, std::as_bytes(std::span(source.data() + fragment.source, fragment.bytes))))
        << "fragment " << i << " of " << fragment.bytes << " bytes";
  }
  ASSERT_EQ(got.copy(), expected);
}

TEST(ChecksumKernel, RandomFragments) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 30; ++round) {
    std::vector<uint64_t> lengths(1 + random() % 40);
    const uint64_t most = uint64_t{1} << (1 + random() % 13);
    for (uint64_t& length : lengths) length = random() % most;
    const Layout layout = Lay(lengths, random, random() % 2 == 0);
    const uint32_t most_tiles = 1 + random() % 40, blocks = 1 + random() % 4;
    if (round % 2 == 0) {
      ExpectSums<Crc32c>(layout, Checksum::kCrc32c, random, most_tiles, blocks);
    } else {
      ExpectSums<Crc64Nvme>(layout, Checksum::kCrc64Nvme, random, most_tiles, blocks);
    }
    if (HasFatalFailure()) return;
  }
}

TEST(ChecksumKernel, OneLongRunInManyTiles) {
  std::mt19937_64 random(9);
  ExpectSums<Crc32c>(Lay({100003}, random, true), Checksum::kCrc32c, random, 30, 2);
}

TEST(ChecksumKernel, AllLengthsUpTo40) {
  std::mt19937_64 random(10);
  std::vector<uint64_t> lengths(41);
  std::iota(lengths.begin(), lengths.end(), 0);
  ExpectSums<Crc32c>(Lay(lengths, random, true), Checksum::kCrc32c, random, 5, 1);
  ExpectSums<Crc64Nvme>(Lay(lengths, random, false), Checksum::kCrc64Nvme, random, 5, 1);
}

}  // namespace
}  // namespace devmem
