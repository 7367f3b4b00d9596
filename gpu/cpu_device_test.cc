// SPDX-License-Identifier: Apache-2.0
#include "gpu/cpu_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

constexpr std::byte kPoison{0xa5};

class CpuDeviceTest : public testing::Test {
 protected:
  std::shared_ptr<DeviceMemory> Make(uint64_t bytes, bool exportable = false) {
    auto memory = device_->Allocate(bytes, {.name = "test", .exportable = exportable});
    EXPECT_TRUE(memory.ok()) << memory.status();
    return memory.ok() ? *memory : nullptr;
  }
  static std::span<std::byte> Bytes(DeviceMemory& memory) { return *memory.HostSpan(0, memory.bytes()); }
  static void FillRandom(std::span<std::byte> bytes, std::mt19937_64& random) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  }

  std::unique_ptr<Device> device_ = MakeCpuDevice();
};

TEST_F(CpuDeviceTest, Names) {
  EXPECT_EQ(device_->name(), "cpu");
  EXPECT_EQ(device_->uuid(), "cpu");
}

TEST_F(CpuDeviceTest, MemoryIsZeroAndWritableAndOutlivesTheDevice) {
  for (const bool exportable : {false, true}) {
    for (const bool prefault : {false, true}) {
      std::unique_ptr<Device> device = MakeCpuDevice();
      auto memory = device->Allocate(100'001, {.name = "m", .exportable = exportable, .prefault = prefault});
      ASSERT_TRUE(memory.ok()) << memory.status();
      device.reset();
      EXPECT_EQ((*memory)->bytes(), 100'001U);
      for (const std::byte byte : Bytes(**memory)) ASSERT_EQ(byte, std::byte{0});
      Bytes(**memory)[100'000] = std::byte{1};
      EXPECT_FALSE((*memory)->HostSpan(100'000, 2).has_value());
      EXPECT_FALSE((*memory)->HostSpan(~uint64_t{0}, 2).has_value());
      EXPECT_TRUE((*memory)->HostSpan(100'001, 0).has_value());
    }
  }
}

TEST_F(CpuDeviceTest, TooMuchMemoryIsResourceExhausted) {
  for (const bool exportable : {false, true}) {
    for (const uint64_t bytes : {uint64_t{1} << 46, uint64_t{1} << 62, ~uint64_t{0}}) {
      auto memory = device_->Allocate(bytes, {.name = "huge", .exportable = exportable});
      ASSERT_FALSE(memory.ok());
      EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted) << memory.status();
      EXPECT_THAT(Text(memory.status()), testing::HasSubstr(std::to_string(bytes)));
      EXPECT_THAT(Text(memory.status()), testing::HasSubstr("available"));
      EXPECT_EQ(GetErrorInfo(memory.status()).object, "huge");
    }
  }
  EXPECT_EQ(device_->Allocate(0, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CpuDeviceTest, ExportedHandleMapsTheSameBytes) {
  auto memory = Make(1 << 20, true);
  auto handle = memory->ExportHandle();
  ASSERT_TRUE(handle.ok()) << handle.status();
  EXPECT_EQ(handle->kind, ExportedHandle::Kind::kMemfd);
  EXPECT_EQ(handle->version, ExportedHandle::kVersion);
  EXPECT_EQ(handle->bytes, 1U << 20);
  EXPECT_EQ(handle->device_uuid, "cpu");
  EXPECT_NE(::fcntl(handle->fd.get(), F_GETFD) & FD_CLOEXEC, 0);

  void* mapped = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, handle->fd.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(mapped);
  Bytes(*memory)[777] = std::byte{7};
  EXPECT_EQ(bytes[777], std::byte{7});
  bytes[778] = std::byte{8};
  EXPECT_EQ(Bytes(*memory)[778], std::byte{8});
  ::munmap(mapped, 1 << 20);
}

TEST_F(CpuDeviceTest, AHolderOfTheHandleCannotResizeOrReseal) {
  auto memory = Make(1 << 20, true);
  auto handle = memory->ExportHandle();
  ASSERT_TRUE(handle.ok());
  const int fd = handle->fd.get();
  const int seals = ::fcntl(fd, F_GET_SEALS);
  EXPECT_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  EXPECT_EQ(::ftruncate(fd, 4096), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(fd, 2 << 20), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_EQ(errno, EPERM);
  // Nor does it share its file offset with us or with other holders.
  auto other = memory->ExportHandle();
  ASSERT_TRUE(other.ok());
  ASSERT_EQ(::lseek(fd, 100, SEEK_SET), 100);
  EXPECT_EQ(::lseek(other->fd.get(), 0, SEEK_CUR), 0);
}

TEST_F(CpuDeviceTest, MemoryThatIsNotExportableSaysSo) {
  auto handle = Make(4096)->ExportHandle();
  EXPECT_EQ(handle.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CpuDeviceTest, RetiredMemoryIsGoneThoughAHandleIsKept) {
  auto memory = Make(4 << 20, true);
  auto handle = memory->ExportHandle();
  ASSERT_TRUE(handle.ok());
  struct stat info = {};
  ASSERT_EQ(::fstat(handle->fd.get(), &info), 0);
  EXPECT_EQ(info.st_blocks, (4 << 20) / 512);  // prefaulted
  memory->Retire();
  memory.reset();
  ASSERT_EQ(::fstat(handle->fd.get(), &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
  EXPECT_EQ(info.st_size, 4 << 20);  // a peer that still maps it reads zeros and gets no SIGBUS
}

TEST_F(CpuDeviceTest, RetiredAnonymousMemoryReadsZero) {
  auto memory = Make(1 << 16);
  Bytes(*memory)[5] = std::byte{5};
  memory->Retire();
  EXPECT_EQ(Bytes(*memory)[5], std::byte{0});
}

TEST_F(CpuDeviceTest, GatherOfRandomFragmentsWritesThoseBytesAndNoOthers) {
  constexpr uint64_t kBytes = 1 << 16;
  std::mt19937_64 random(1);
  auto source = Make(kBytes);
  auto destination = Make(kBytes, true);
  FillRandom(Bytes(*source), random);
  for (int round = 0; round < 200; ++round) {
    std::memset(Bytes(*destination).data(), static_cast<int>(kPoison), kBytes);
    std::vector<std::byte> want(kBytes, kPoison);
    std::vector<Fragment> fragments;
    for (uint64_t at = random() % 64; at < kBytes;) {
      const uint64_t length = std::min<uint64_t>(random() % 3 == 0 ? random() % 5000 : random() % 40, kBytes - at);
      const uint64_t from = random() % (kBytes - length + 1);
      fragments.push_back({.source = from, .destination = at, .bytes = length});
      std::memcpy(want.data() + at, Bytes(*source).data() + from, length);
      at += length + (random() % 50);
    }
    std::shuffle(fragments.begin(), fragments.end(), random);
    auto event = device_->Gather(*destination, *source, fragments);
    ASSERT_TRUE(event.ok()) << event.status();
    EXPECT_TRUE(event->Done());
    ASSERT_TRUE(event->Wait(Clock::now()).ok());
    ASSERT_EQ(0, std::memcmp(want.data(), Bytes(*destination).data(), kBytes)) << "round " << round;
  }
}

TEST_F(CpuDeviceTest, GatherWorksAtEveryAlignment) {
  std::mt19937_64 random(2);
  auto source = Make(256);
  auto destination = Make(256);
  FillRandom(Bytes(*source), random);
  for (uint64_t from = 0; from < 16; ++from) {
    for (uint64_t to = 0; to < 16; ++to) {
      for (const uint64_t length : {0, 1, 15, 16, 17, 64, 200}) {
        std::memset(Bytes(*destination).data(), static_cast<int>(kPoison), 256);
        const Fragment fragment{.source = from, .destination = to, .bytes = length};
        ASSERT_TRUE(device_->Gather(*destination, *source, {&fragment, 1}).ok());
        for (uint64_t i = 0; i < 256; ++i) {
          const bool inside = i >= to && i < to + length;
          ASSERT_EQ(Bytes(*destination)[i], inside ? Bytes(*source)[from + i - to] : kPoison);
        }
      }
    }
  }
}

TEST_F(CpuDeviceTest, GatherCompactsInPlace) {
  constexpr uint64_t kBytes = 10'000;
  std::mt19937_64 random(3);
  auto memory = Make(kBytes);
  for (int round = 0; round < 100; ++round) {
    FillRandom(Bytes(*memory), random);
    const std::vector<std::byte> before(Bytes(*memory).begin(), Bytes(*memory).end());
    std::vector<std::byte> want;
    std::vector<Fragment> fragments;
    for (uint64_t at = random() % 10; at < kBytes;) {
      const uint64_t length = std::min<uint64_t>(1 + (random() % 300), kBytes - at);
      fragments.push_back({.source = at, .destination = want.size(), .bytes = length});
      want.insert(want.end(), before.begin() + static_cast<ptrdiff_t>(at),
                  before.begin() + static_cast<ptrdiff_t>(at + length));
      at += length + (random() % 20);  // by less than the fragment, so that source and destination overlap
    }
    ASSERT_TRUE(device_->Gather(*memory, *memory, fragments).ok());
    ASSERT_EQ(0, std::memcmp(want.data(), Bytes(*memory).data(), want.size())) << "round " << round;
  }
}

TEST_F(CpuDeviceTest, GatherChecksEveryFragmentBeforeCopyingAny) {
  auto source = Make(100);
  auto destination = Make(50);
  std::memset(Bytes(*destination).data(), static_cast<int>(kPoison), 50);
  for (const Fragment bad :
       {Fragment{.source = 91, .destination = 0, .bytes = 10}, Fragment{.source = 0, .destination = 41, .bytes = 10},
        Fragment{.source = ~uint64_t{0}, .destination = 0, .bytes = 2},
        Fragment{.source = 0, .destination = ~uint64_t{0} - 3, .bytes = 10},
        Fragment{.source = 1, .destination = 1, .bytes = ~uint64_t{0}}}) {
    const std::vector<Fragment> fragments = {{.source = 0, .destination = 0, .bytes = 10}, bad};
    EXPECT_EQ(device_->Gather(*destination, *source, fragments).status().code(), absl::StatusCode::kOutOfRange);
    for (const std::byte byte : Bytes(*destination)) ASSERT_EQ(byte, kPoison);
  }
}

TEST_F(CpuDeviceTest, CastsASpanOfOneMemoryIntoAnother) {
  auto source = Make(64);
  auto destination = Make(1024);
  for (size_t i = 0; i < 64; ++i) Bytes(*source)[i] = static_cast<std::byte>(i * 4);
  std::memset(Bytes(*destination).data(), static_cast<int>(kPoison), 1024);
  auto event = device_->Cast({destination.get(), 3, 40}, {source.get(), 5, 10},
                             {.from = DType::kU8, .to = DType::kF32, .scale = 0.25, .count = 10});
  ASSERT_TRUE(event.ok()) << event.status();
  for (size_t i = 0; i < 10; ++i) {
    float value = 0;
    std::memcpy(&value, Bytes(*destination).data() + 3 + (i * 4), 4);
    EXPECT_EQ(value, static_cast<float>(i + 5));
  }
  EXPECT_EQ(Bytes(*destination)[2], kPoison);
  EXPECT_EQ(Bytes(*destination)[43], kPoison);
}

TEST_F(CpuDeviceTest, CastRefusesWhatDoesNotFitOrOverlapsOrIsNotThere) {
  auto source = Make(64);
  auto destination = Make(64);
  const CastSpec spec{.from = DType::kU8, .to = DType::kF32, .count = 10};
  const auto code = [&](DeviceSpan to, DeviceSpan from, const CastSpec& cast) {
    return device_->Cast(to, from, cast).status().code();
  };
  EXPECT_EQ(code({destination.get(), 0, 39}, {source.get(), 0, 10}, spec), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code({destination.get(), 0, 40}, {source.get(), 0, 9}, spec), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code({destination.get(), 30, 40}, {source.get(), 0, 10}, spec), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code({destination.get(), 0, 40}, {source.get(), 60, 10}, spec), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code({destination.get(), 0, 40}, {nullptr, 0, 10}, spec), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({source.get(), 0, 40}, {source.get(), 39, 10}, spec), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({source.get(), 0, 40}, {source.get(), 40, 10}, spec), absl::StatusCode::kOk);
  EXPECT_EQ(code({destination.get(), 0, 40}, {source.get(), 0, 10}, {.from = DType::kF32, .to = DType::kU8, .count = 2}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({destination.get(), 0, 64}, {source.get(), 0, 64},
                 {.from = DType::kF64, .to = DType::kF64, .count = uint64_t{1} << 61}),
            absl::StatusCode::kOutOfRange);
}

TEST_F(CpuDeviceTest, ExportsADmaBuf) {
  auto plain = Make(4096);
  EXPECT_EQ(plain->ExportDmaBuf().status().code(), absl::StatusCode::kFailedPrecondition);
  auto memory = device_->Allocate(5000, {.name = "landing", .dma_buf = true});
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ((*memory)->bytes(), 8192u);
  auto buffer = (*memory)->ExportDmaBuf();
  if (::access("/dev/udmabuf", R_OK | W_OK) != 0) {
    EXPECT_EQ(CauseText(buffer.status()), "no udmabuf");
    GTEST_SKIP() << "no /dev/udmabuf here; tests/guest has it";
  }
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  // The same memory, seen by the dma-buf.
  (*memory)->HostSpan(0, 8192)->data()[4097] = std::byte{77};
  void* const seen = ::mmap(nullptr, 8192, PROT_READ, MAP_SHARED, buffer->get(), 0);
  ASSERT_NE(seen, MAP_FAILED);
  EXPECT_EQ(static_cast<const char*>(seen)[4097], 77);
  ::munmap(seen, 8192);
}

TEST_F(CpuDeviceTest, HugePagesOrAClearAnswer) {
  auto memory = device_->Allocate(1, {.name = "landing", .dma_buf = true, .huge_pages = true});
  if (memory.ok()) {
    EXPECT_EQ((*memory)->bytes(), uint64_t{2} << 20);
  } else {
    EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Text(memory.status()), testing::HasSubstr("vm.nr_hugepages"));
  }
}

TEST_F(CpuDeviceTest, ImportsWhatAnotherExported) {
  auto memory = Make(100'001, true);
  auto handle = memory->ExportHandle();
  ASSERT_TRUE(handle.ok()) << handle.status();
  auto imported = MakeCpuDevice()->Import(*std::move(handle), "imported");
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ((*imported)->bytes(), 100'001u);
  Bytes(*memory)[100'000] = std::byte{7};
  EXPECT_EQ(Bytes(**imported)[100'000], std::byte{7});
  memory.reset();  // it outlives who allocated it
  EXPECT_EQ(Bytes(**imported)[100'000], std::byte{7});
  auto again = (*imported)->ExportHandle();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(device_->Import(*std::move(again), "again").ok());
}

TEST_F(CpuDeviceTest, ImportRefusesWhatItIsNot) {
  const auto refused = [this](const std::function<void(ExportedHandle&)>& spoil) {
    auto handle = Make(8192, true)->ExportHandle();
    EXPECT_TRUE(handle.ok()) << handle.status();
    spoil(*handle);
    const absl::Status status = device_->Import(*std::move(handle), "landing").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(GetErrorInfo(status).object, "landing");
    return Text(status);
  };
  EXPECT_THAT(refused([](ExportedHandle& handle) { handle.kind = ExportedHandle::Kind::kCudaVmm; }),
              testing::HasSubstr("kind"));
  EXPECT_THAT(refused([](ExportedHandle& handle) { handle.version += 1; }), testing::HasSubstr("version"));
  EXPECT_THAT(refused([](ExportedHandle& handle) { handle.device_uuid = "GPU-1"; }), testing::HasSubstr("GPU-1"));
  EXPECT_THAT(refused([](ExportedHandle& handle) { handle.bytes = 4096; }), testing::HasSubstr("8192"));
  EXPECT_THAT(refused([](ExportedHandle& handle) { handle.fd.Reset(); }), testing::HasSubstr("sealed"));
  EXPECT_THAT(refused([](ExportedHandle& handle) {
                handle.fd = UniqueFd(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
                EXPECT_EQ(::ftruncate(handle.fd.get(), 8192), 0);
              }),
              testing::HasSubstr("sealed"));
}

TEST_F(CpuDeviceTest, PeekAndPoke) {
  auto memory = Make(100);
  const std::vector<std::byte> in = {std::byte{1}, std::byte{2}, std::byte{3}};
  ASSERT_TRUE(device_->Poke({memory.get(), 97, 3}, in).ok());
  std::vector<std::byte> out(4);
  ASSERT_TRUE(device_->Peek(out, {memory.get(), 96, 4}).ok());
  EXPECT_THAT(out, testing::ElementsAre(std::byte{0}, std::byte{1}, std::byte{2}, std::byte{3}));
  EXPECT_EQ(device_->Peek(out, {memory.get(), 97, 4}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(device_->Poke({memory.get(), 98, 3}, in).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(device_->Peek(out, {memory.get(), 0, 3}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device_->Poke({memory.get(), 0, 4}, in).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(device_->Peek({}, {memory.get(), 100, 0}).ok());
}

}  // namespace
}  // namespace devmem
