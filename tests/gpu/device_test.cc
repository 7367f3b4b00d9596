// SPDX-License-Identifier: Apache-2.0
// What gpu/device.h promises, of every device there is: the CPU always, cuda:0 where this machine has one. The CPU device is
// the reference: what it makes of the same bytes is what is expected. Sources, destinations and fragments are random;
// destinations are poisoned, so that a byte too many shows.
//
//   gpu_device_test                     all
//   gpu_device_test --import FD BYTES UUID SEED   the other process of OtherProcess.*: maps a slab by a descriptor it inherited
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "base/error.h"
#include "gpu/checksum.h"
#include "gpu/cpu_device.h"
#include "gpu/gather_cast.h"
#include "gpu/make_device.h"

extern char** environ;  // NOLINT: POSIX's

namespace devmem {
namespace {

// On a CUDA of our own (fake_cuda.cc) lanes run one after the other: less of everything.
#ifdef DEVMEM_FAKE_CUDA
constexpr int kLess = 6;
constexpr uint64_t kPoolBytes = uint64_t{64} << 20;
#else
constexpr int kLess = 1;
constexpr uint64_t kPoolBytes = uint64_t{4} << 30;
#endif

Time Soon() { return Clock::now() + std::chrono::seconds(60); }

std::vector<std::byte> RandomBytes(uint64_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (uint64_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  for (uint64_t i = size / 8 * 8; i < size; ++i) bytes[i] = static_cast<std::byte>(random());
  return bytes;
}

class DeviceTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto device = MakeDevice(GetParam());
    if (!device.ok()) {
      ASSERT_STRNE(GetParam(), "cpu") << device.status();
      GTEST_SKIP() << Text(device.status());
    }
    device_ = *std::move(device);
  }

  void Check(const absl::StatusOr<Event>& event) {
    ASSERT_TRUE(event.ok()) << event.status();
    const absl::Status done = event->Wait(Soon());
    ASSERT_TRUE(done.ok()) << done;
  }
  std::shared_ptr<DeviceMemory> Make(const std::vector<std::byte>& bytes, bool exportable = false) {
    auto memory = device_->Allocate(std::max<uint64_t>(1, bytes.size()), {.name = "test", .exportable = exportable});
    EXPECT_TRUE(memory.ok()) << memory.status();
    Check(device_->Poke({memory->get(), 0, bytes.size()}, bytes));
    return *memory;
  }
  std::vector<std::byte> Read(DeviceMemory& memory, uint64_t size) {
    std::vector<std::byte> bytes(size);
    Check(device_->Peek(bytes, {&memory, 0, size}));
    return bytes;
  }
  static void ExpectSame(const std::vector<std::byte>& got, const std::vector<std::byte>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    const auto [at, wanted] = std::mismatch(got.begin(), got.end(), expected.begin());
    ASSERT_TRUE(at == got.end()) << "byte " << at - got.begin() << " of " << got.size() << " is " << static_cast<int>(*at)
                                 << ", not " << static_cast<int>(*wanted);
  }
  // The same gather by the CPU, byte for byte.
  void ExpectGathers(const std::vector<Fragment>& fragments, uint64_t source_bytes, uint64_t destination_bytes, uint64_t seed) {
    const std::vector<std::byte> bytes = RandomBytes(source_bytes, seed);
    const std::vector<std::byte> poison(destination_bytes, std::byte{0xee});
    std::vector<std::byte> expected = poison;
    for (const Fragment& f : fragments) std::copy_n(bytes.begin() + f.source, f.bytes, expected.begin() + f.destination);
    const auto source = Make(bytes), destination = Make(poison);
    Check(device_->Gather(*destination, *source, fragments));
    ExpectSame(Read(*destination, destination_bytes), expected);
  }

  std::shared_ptr<Device> device_;
};

// Lengths one behind the other in the destination with gaps of up to `gap`, in another order and with gaps in the source.
struct Layout {
  std::vector<Fragment> fragments;
  uint64_t source_bytes = 0, destination_bytes = 0;
};
Layout Lay(const std::vector<uint64_t>& lengths, uint64_t gap, std::mt19937_64& random) {
  Layout layout;
  layout.fragments.resize(lengths.size());
  std::vector<uint32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (const uint32_t index : order) {
    layout.source_bytes += random() % 20;
    layout.fragments[index] = {.source = layout.source_bytes, .bytes = lengths[index]};
    layout.source_bytes += lengths[index];
  }
  for (Fragment& fragment : layout.fragments) {
    layout.destination_bytes += gap == 0 ? 0 : random() % gap;
    fragment.destination = layout.destination_bytes;
    layout.destination_bytes += fragment.bytes;
  }
  return layout;
}

TEST_P(DeviceTest, MemoryBeginsAsZeros) {
  for (const bool exportable : {false, true}) {
    auto memory = device_->Allocate(3 << 20, {.name = "zeros", .exportable = exportable});
    ASSERT_TRUE(memory.ok()) << memory.status();
    ExpectSame(Read(**memory, 3 << 20), std::vector<std::byte>(3 << 20));
    // What one stream leaves behind the next does not see.
    Check(device_->Poke({memory->get(), 0, 3 << 20}, RandomBytes(3 << 20, 1)));
    (*memory)->Retire();
  }
}

TEST_P(DeviceTest, GathersEveryPairOfAlignments) {
  for (const uint64_t length : {1, 3, 17, 64, 1448, 4096, 9000}) {
    std::vector<Fragment> fragments;
    for (uint64_t source = 0; source < 16; ++source) {
      for (uint64_t destination = 0; destination < 16; ++destination) {
        const uint64_t place = fragments.size() * (length + 48) / 16 * 16;
        fragments.push_back({.source = place + source, .destination = place + destination, .bytes = length});
      }
    }
    const uint64_t bytes = fragments.size() * (length + 48) + 64;
    ExpectGathers(fragments, bytes, bytes, length);
  }
}

TEST_P(DeviceTest, GathersRandomFragments) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 60 / kLess; ++round) {
    std::vector<uint64_t> lengths(1 + random() % 2000);
    const uint64_t most = uint64_t{1} << (random() % 15);
    for (uint64_t& length : lengths) length = random() % (most + 1);
    const Layout layout = Lay(lengths, round % 2 == 0 ? 0 : 20, random);
    ExpectGathers(layout.fragments, layout.source_bytes + 1, layout.destination_bytes + 1, random());
    if (HasFatalFailure()) return;
  }
}

TEST_P(DeviceTest, GathersAMillionFragments) {
  std::mt19937_64 random(3);
  const Layout layout = Lay(std::vector<uint64_t>(1000000 / kLess, 8), 3, random);
  ExpectGathers(layout.fragments, layout.source_bytes, layout.destination_bytes, 3);
}

TEST_P(DeviceTest, GathersOneHugeFragment) {
  const uint64_t bytes = (uint64_t{256} << 20) / kLess + 13;
  ExpectGathers({{.source = 5, .destination = 2, .bytes = bytes - 5}}, bytes, bytes, 4);
}

TEST_P(DeviceTest, GathersNothing) {
  ExpectGathers({}, 10, 10, 5);
  ExpectGathers({{.source = 10, .destination = 10, .bytes = 0}, {.source = 0, .destination = 0, .bytes = 0}}, 10, 10, 5);
}

TEST_P(DeviceTest, CompactsInPlace) {
  std::mt19937_64 random(6);
  const std::vector<std::byte> bytes = RandomBytes(50 << 20, 6);
  std::vector<Fragment> fragments;
  uint64_t to = 3;
  for (uint64_t from = 7; from < bytes.size() - (2 << 20);) {
    const uint64_t length = random() % (1 << 20);
    fragments.push_back({.source = from, .destination = to, .bytes = length});
    to += length;
    from += length + random() % 100000;
  }
  std::vector<std::byte> expected = bytes;
  for (const Fragment& f : fragments) std::memmove(expected.data() + f.destination, expected.data() + f.source, f.bytes);
  const auto memory = Make(bytes);
  Check(device_->Gather(*memory, *memory, fragments));
  ExpectSame(Read(*memory, bytes.size()), expected);
}

TEST_P(DeviceTest, RefusesWhatLeavesItsMemory) {
  const auto source = Make(RandomBytes(100, 7)), destination = Make(std::vector<std::byte>(100));
  const Fragment bad_source[] = {{.source = 90, .destination = 0, .bytes = 11}};
  const Fragment bad_destination[] = {{.source = 0, .destination = UINT64_MAX, .bytes = 2}};
  EXPECT_EQ(device_->Gather(*destination, *source, bad_source).status().code(), absl::StatusCode::kOutOfRange);
  // VMM and pages round up: within the allocation, but beyond what was asked for, may be allowed.
  EXPECT_EQ(device_->Gather(*destination, *source, bad_destination).status().code(), absl::StatusCode::kOutOfRange);
  std::vector<std::byte> host(101);
  EXPECT_EQ(device_->Peek(host, {source.get(), 0, 100}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device_->Poke({nullptr, 0, 101}, host).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(DeviceTest, CastsEveryPair) {
  std::mt19937_64 random(8);
  for (int from = 1; from <= 13; ++from) {
    for (int to = 10; to <= 13; ++to) {
      for (const double scale : {1.0, 1.0 / 255}) {
        GatherCastSpec spec{.cast = {.from = static_cast<DType>(from), .to = static_cast<DType>(to), .scale = scale}};
        spec.channels = 1 + random() % 4;
        const uint64_t pixels = 1 + random() % 300, samples = 1 + random() % 20;
        spec.cast.count = pixels * samples * spec.channels;
        if (random() % 2 == 0) spec.pixels = pixels;
        if (random() % 2 == 0) {
          spec.mean.assign(spec.channels, 0.45);
          spec.deviation.assign(spec.channels, 0.225);
        }
        const uint64_t stored = spec.cast.count * ItemSize(spec.cast.from);
        std::vector<uint64_t> lengths;
        for (uint64_t at = 0; at < stored;) {
          lengths.push_back(std::min<uint64_t>(stored - at, random() % (random() % 2 == 0 ? 20 : 2000)));
          at += lengths.back();
        }
        const Layout layout = Lay(lengths, 0, random);
        const std::vector<std::byte> bytes = RandomBytes(layout.source_bytes, random());
        std::vector<std::byte> expected(spec.cast.count * ItemSize(spec.cast.to));
        GatherCastElements(spec, layout.fragments, bytes.data(), expected.data());
        const auto source = Make(bytes), destination = Make(std::vector<std::byte>(expected.size(), std::byte{0xee}));
        Check(device_->GatherCast({destination.get(), 0, expected.size()}, *source, layout.fragments, spec));
        ExpectSame(Read(*destination, expected.size()), expected);
        if (HasFatalFailure()) {
          FAIL() << Name(spec.cast.from) << " to " << Name(spec.cast.to) << ", " << spec.channels << " channels, "
                 << spec.pixels << " pixels";
        }
      }
    }
  }
}

TEST_P(DeviceTest, ChecksumsEveryFragment) {
  std::mt19937_64 random(9);
  for (const Checksum kind : {Checksum::kCrc32c, Checksum::kCrc64Nvme}) {
    for (int round = 0; round < 20 / kLess; ++round) {
      std::vector<uint64_t> lengths(1 + random() % 500);
      const uint64_t most = uint64_t{1} << (random() % 16);
      for (uint64_t& length : lengths) length = random() % (most + 1);
      const Layout layout = Lay(lengths, 20, random);
      const std::vector<std::byte> bytes = RandomBytes(layout.source_bytes + 1, random());
      std::vector<std::byte> expected(layout.destination_bytes + 1, std::byte{0xee});
      for (const Fragment& f : layout.fragments)
        std::copy_n(bytes.begin() + f.source, f.bytes, expected.begin() + f.destination);
      const auto source = Make(bytes), destination = Make(std::vector<std::byte>(expected.size(), std::byte{0xee}));
      std::vector<uint64_t> sums(lengths.size(), 1);
      Check(device_->GatherChecksum(*destination, *source, layout.fragments, kind, sums));
      ExpectSame(Read(*destination, expected.size()), expected);
      for (size_t i = 0; i < lengths.size(); ++i) {
        ASSERT_EQ(sums[i], ChecksumOf(kind, {bytes.data() + layout.fragments[i].source, lengths[i]})) << i;
      }
    }
  }
}

TEST_P(DeviceTest, PokesAndPeeksManyPieces) {
  std::mt19937_64 random(10);
  for (const uint64_t most : {200, 100000}) {  // through one launch, and by the copy engines
    const std::vector<std::byte> bytes = RandomBytes(40 * most, 10);
    const auto memory = Make(std::vector<std::byte>(bytes.size()));
    auto staging = device_->AllocateStaging(bytes.size(), "staging");
    ASSERT_TRUE(staging.ok()) << staging.status();
    const auto host = (*staging)->HostSpan(0, bytes.size());
    ASSERT_TRUE(host.has_value());
    std::copy(bytes.begin(), bytes.end(), host->begin());
    for (const bool pinned : {false, true}) {
      std::vector<PokePiece> pokes;
      std::vector<PeekPiece> peeks;
      std::vector<std::byte> back(bytes.size());
      for (uint64_t at = 0; at < bytes.size();) {
        const uint64_t size = std::min<uint64_t>(bytes.size() - at, random() % (most + 1));
        const std::byte* const from = pinned ? host->data() : bytes.data();
        pokes.push_back({.to = {memory.get(), at, size}, .from = {from + at, size}});
        peeks.push_back({.to = {back.data() + at, size}, .from = {memory.get(), at, size}});
        at += size;
      }
      Check(device_->Poke(pokes));
      Check(device_->Peek(peeks));
      ExpectSame(back, bytes);
    }
  }
}

TEST_P(DeviceTest, ThreadsDoNotMix) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 20; ++t) {  // more than there are streams
    threads.emplace_back([this, t] {
      std::mt19937_64 random(t);
      for (int round = 0; round < 12 / kLess; ++round) {
        const Layout layout = Lay(std::vector<uint64_t>(50, 700), 9, random);
        ExpectGathers(layout.fragments, layout.source_bytes, layout.destination_bytes, random());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(DeviceTest, TellsWhenDone) {
  const auto source = Make(RandomBytes(64 << 20, 11)), destination = Make(std::vector<std::byte>(64 << 20));
  const Fragment whole{.source = 0, .destination = 0, .bytes = 64 << 20};
  auto event = device_->Gather(*destination, *source, {&whole, 1});
  ASSERT_TRUE(event.ok());
  std::mutex mutex;
  std::condition_variable changed;
  int told = 0;
  for (int i = 0; i < 3; ++i) {
    event->WhenDone([&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      std::lock_guard lock(mutex);
      ++told;
      changed.notify_all();
    });
  }
  std::unique_lock lock(mutex);
  ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(30), [&] { return told == 3; }));
  EXPECT_TRUE(event->Done());
  EXPECT_TRUE(event->Wait(Time::min()).ok()) << "a deadline that has passed does not matter any more";
  Check(device_->After(nullptr));
}

TEST_P(DeviceTest, AnotherProcessSeesTheBytes) {
  constexpr uint64_t kSeed = 12;
  const std::vector<std::byte> bytes = RandomBytes(8 << 20, kSeed);
  const auto memory = Make(bytes, true);
  auto handle = memory->ExportHandle();
  ASSERT_TRUE(handle.ok()) << handle.status();
  EXPECT_EQ(::fcntl(handle->fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  ASSERT_EQ(::fcntl(handle->fd.get(), F_SETFD, 0), 0);
  std::string arguments[] = {"/proc/self/exe",
                             "--import",
                             GetParam(),
                             std::to_string(handle->fd.get()),
                             std::to_string(handle->bytes),
                             handle->device_uuid,
                             std::to_string(bytes.size()),
                             std::to_string(kSeed)};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  ASSERT_EQ(::posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, argv.data(), environ), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  // And what it wrote is here.
  std::vector<std::byte> expected = bytes;
  std::fill_n(expected.begin(), 100, std::byte{0x42});
  ExpectSame(Read(*memory, bytes.size()), expected);
}

TEST_P(DeviceTest, RefusesForeignHandles) {
  const auto memory = Make(RandomBytes(1 << 20, 13), true);
  const auto refused = [&](auto change) {
    auto handle = memory->ExportHandle();
    EXPECT_TRUE(handle.ok()) << handle.status();
    change(*handle);
    return device_->Import(*std::move(handle), "foreign").status();
  };
  EXPECT_EQ(refused([](ExportedHandle& h) { h.version = 9; }).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status other = refused([](ExportedHandle& h) { h.device_uuid = "GPU-of-another-node"; });
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(other), testing::HasSubstr("GPU-of-another-node"));
  EXPECT_EQ(refused([](ExportedHandle& h) { h.fd = UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(DeviceTest, ExportsADmaBufOfALargePool) {
  auto pool = device_->Allocate(kPoolBytes, {.name = "landing-pool", .dma_buf = true, .prefault = false});
  if (!pool.ok()) GTEST_SKIP() << Text(pool.status());
  auto buffer = (*pool)->ExportDmaBuf();
  if (!buffer.ok() && std::strcmp(GetParam(), "cpu") == 0) GTEST_SKIP() << Text(buffer.status());
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_EQ(::lseek(buffer->get(), 0, SEEK_END), static_cast<off_t>(kPoolBytes));
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceTest, testing::Values("cpu", "cuda:0"),
                         [](const auto& of) { return std::string(of.param) == "cpu" ? "Cpu" : "Cuda"; });

int ImportAndCheck(char** argv) {
  auto device = MakeDevice(argv[2]);
  if (!device.ok()) return 2;
  const uint64_t size = std::strtoull(argv[6], nullptr, 10), seed = std::strtoull(argv[7], nullptr, 10);
  ExportedHandle handle{.kind = std::string(argv[2]) == "cpu" ? ExportedHandle::Kind::kMemfd : ExportedHandle::Kind::kCudaVmm,
                        .bytes = std::strtoull(argv[4], nullptr, 10),
                        .device_uuid = argv[5],
                        .fd = UniqueFd(static_cast<int>(std::strtol(argv[3], nullptr, 10)))};
  auto memory = (*device)->Import(std::move(handle), "slab");
  if (!memory.ok()) {
    std::fprintf(stderr, "%s\n", Text(memory.status()).c_str());
    return 3;
  }
  std::vector<std::byte> got(size);
  auto peeked = (*device)->Peek(got, {memory->get(), 0, size});
  if (!peeked.ok() || !peeked->Wait(Soon()).ok() || got != RandomBytes(size, seed)) return 4;
  const std::vector<std::byte> mark(100, std::byte{0x42});
  auto poked = (*device)->Poke({memory->get(), 0, mark.size()}, mark);
  return poked.ok() && poked->Wait(Soon()).ok() ? 0 : 5;
}

}  // namespace
}  // namespace devmem

int main(int argc, char** argv) {
  if (argc == 8 && std::string(argv[1]) == "--import") return devmem::ImportAndCheck(argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
