// SPDX-License-Identifier: Apache-2.0
// Two halves. With tables of functions that stand in for NCCL and CUDA: what NcclFanout does when ranks die, fail or hang,
// which needs several GPUs otherwise. With the real ones, on one GPU: that NCCL takes what it is given; skipped where there is
// none.
#include "gpu/nccl/nccl_fanout.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gpu/cpu_device.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using ::testing::Each;
using ::testing::HasSubstr;

Time Far() { return Clock::now() + minutes(2); }

// --- stand-ins ------------------------------------------------------------------------------------------------
// A communicator whose collectives complete when all its ranks have begun them, and whose every call is in progress at first.

enum class Fault { kNone, kInit, kConnecting, kConnectingForever, kBegin, kBeginning, kRunning, kRunningForever };

struct FakeWorld {
  struct Part {
    const void* from;
    void* to;
    size_t bytes;
    int root;  // -1: all-gather
  };
  std::mutex mutex;
  // Guarded by mutex.
  Fault fault = Fault::kNone;
  int faulty = 0;  // rank
  int ids = 0;
  int communicators = 0, streams = 0, events = 0;  // alive
  int waits = 0;                                   // of a stream for an event
  std::map<std::string, std::map<int, Part>> parts;
};
FakeWorld world;

struct FakeStream {
  bool busy = false;  // guarded by world.mutex
};
struct FakeCommunicator {  // guarded by world.mutex
  std::string id;
  int rank, size;
  int asked = 0;
  FakeStream* stream = nullptr;  // that it has a collective on
};
FakeCommunicator* Fake(ncclComm_t communicator) { return reinterpret_cast<FakeCommunicator*>(communicator); }
FakeStream* Fake(cudaStream_t stream) { return reinterpret_cast<FakeStream*>(stream); }
bool Faulty(const FakeCommunicator& communicator, Fault fault) {
  return world.fault == fault && communicator.rank == world.faulty;
}

ncclResult_t FakeBegin(FakeCommunicator& communicator, FakeStream& stream, FakeWorld::Part part) {
  std::lock_guard lock(world.mutex);
  if (Faulty(communicator, Fault::kBegin)) return ncclInvalidUsage;
  communicator.asked = 0;
  communicator.stream = &stream;
  stream.busy = true;
  auto& parts = world.parts[communicator.id];
  if (Faulty(communicator, Fault::kRunningForever)) return ncclInProgress;
  parts[communicator.rank] = part;
  if (parts.size() < static_cast<size_t>(communicator.size)) return ncclInProgress;
  for (const auto& [to_rank, to] : parts) {
    for (const auto& [from_rank, from] : parts) {
      if (part.root >= 0 && from_rank != part.root) continue;
      std::memmove(static_cast<char*>(to.to) + (part.root >= 0 ? 0 : from_rank * part.bytes), from.from, part.bytes);
    }
  }
  parts.clear();
  return ncclInProgress;
}

const NcclApi kFakeNccl = {
    .version = "0.0.0",
    .GetUniqueId =
        [](ncclUniqueId* id) {
          std::lock_guard lock(world.mutex);
          const std::string text = "communicator " + std::to_string(++world.ids);
          std::memcpy(id->internal, text.c_str(), text.size() + 1);
          return ncclSuccess;
        },
    .CommInitRankConfig =
        [](ncclComm_t* communicator, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
          std::lock_guard lock(world.mutex);
          EXPECT_EQ(config->blocking, 0);
          FakeCommunicator made{.id = id.internal, .rank = rank, .size = size};
          if (Faulty(made, Fault::kInit)) return ncclSystemError;
          *communicator = reinterpret_cast<ncclComm_t>(new FakeCommunicator(made));
          ++world.communicators;
          return ncclInProgress;
        },
    .CommGetAsyncError =
        [](ncclComm_t communicator, ncclResult_t* state) {
          std::lock_guard lock(world.mutex);
          FakeCommunicator& fake = *Fake(communicator);
          *state = ncclInProgress;
          const bool connecting = fake.stream == nullptr;
          if (connecting && Faulty(fake, Fault::kConnectingForever)) return ncclSuccess;
          if (++fake.asked < 3) return ncclSuccess;
          *state = ncclSuccess;
          if (connecting ? Faulty(fake, Fault::kConnecting) : Faulty(fake, Fault::kBeginning)) *state = ncclRemoteError;
          if (fake.asked > 5 && Faulty(fake, Fault::kRunning)) *state = ncclRemoteError;
          // The others' parts are awaited by the kernel. All there: it ends.
          if (!connecting && !world.parts[fake.id].contains(fake.rank) && !Faulty(fake, Fault::kRunningForever) &&
              !Faulty(fake, Fault::kRunning)) {
            fake.stream->busy = false;
          }
          return ncclSuccess;
        },
    .CommAbort =
        [](ncclComm_t communicator) {
          std::lock_guard lock(world.mutex);
          if (Fake(communicator)->stream != nullptr) Fake(communicator)->stream->busy = false;
          world.parts[Fake(communicator)->id].erase(Fake(communicator)->rank);
          delete Fake(communicator);
          --world.communicators;
          return ncclSuccess;
        },
    .AllGather =
        [](const void* from, void* to, size_t count, ncclDataType_t, ncclComm_t communicator, cudaStream_t stream) {
          return FakeBegin(*Fake(communicator), *Fake(stream), {from, to, count, -1});
        },
    .Broadcast =
        [](const void* from, void* to, size_t count, ncclDataType_t, int root, ncclComm_t communicator, cudaStream_t stream) {
          return FakeBegin(*Fake(communicator), *Fake(stream), {from, to, count, root});
        },
    .GetErrorString = [](ncclResult_t result) { return result == ncclSystemError ? "no route" : "gone wrong"; },
    .GetLastError = [](ncclComm_t) { return "said by NCCL"; },
};

const CudaApi kFakeCuda = {
    .SetDevice = [](int) { return cudaSuccess; },
    .StreamCreateWithFlags =
        [](cudaStream_t* stream, unsigned) {
          std::lock_guard lock(world.mutex);
          *stream = reinterpret_cast<cudaStream_t>(new FakeStream);
          ++world.streams;
          return cudaSuccess;
        },
    .StreamDestroy =
        [](cudaStream_t stream) {
          std::lock_guard lock(world.mutex);
          EXPECT_FALSE(Fake(stream)->busy);
          delete Fake(stream);
          --world.streams;
          return cudaSuccess;
        },
    .StreamQuery =
        [](cudaStream_t stream) {
          std::lock_guard lock(world.mutex);
          return Fake(stream)->busy ? cudaErrorNotReady : cudaSuccess;
        },
    .LaunchHostFunc =
        [](cudaStream_t stream, cudaHostFn_t call, void* data) {
          {
            std::lock_guard lock(world.mutex);
            EXPECT_FALSE(Fake(stream)->busy) << "asked to rest before its communicator was aborted";
          }
          call(data);
          return cudaSuccess;
        },
    .StreamWaitEvent =
        [](cudaStream_t, cudaEvent_t, unsigned) {
          std::lock_guard lock(world.mutex);
          ++world.waits;
          return cudaSuccess;
        },
    .EventCreateWithFlags =
        [](cudaEvent_t* event, unsigned) {
          std::lock_guard lock(world.mutex);
          *event = reinterpret_cast<cudaEvent_t>(new int);
          ++world.events;
          return cudaSuccess;
        },
    .EventRecord = [](cudaEvent_t, cudaStream_t) { return cudaSuccess; },
    .EventDestroy =
        [](cudaEvent_t event) {
          std::lock_guard lock(world.mutex);
          delete reinterpret_cast<int*>(event);
          --world.events;
          return cudaSuccess;
        },
};

class NcclFanoutTest : public testing::Test {
 protected:
  static constexpr uint32_t kSize = 4;
  static constexpr uint64_t kBytes = 1237;

  // Joins, gathers and broadcasts: every byte is checked where all went well.
  absl::Status Share(uint32_t rank, Time deadline) {
    const auto memory = *MakeCpuDevice()->Allocate(kSize * kBytes, {.name = "fanout test"});
    const std::span<std::byte> all = *memory->HostSpan(0, kSize * kBytes);
    std::ranges::fill(all, std::byte{0xa5});
    std::ranges::fill(all.subspan(rank * kBytes, kBytes), static_cast<std::byte>(rank));
    FakeStream after;
    auto fanout = MakeNcclFanout(*rendezvous_, {.group = {"weights", kSize}, .rank = rank},
                                 {.device = static_cast<int>(rank),
                                  .after = reinterpret_cast<cudaStream_t>(&after),
                                  .nccl = &kFakeNccl,
                                  .cuda = &kFakeCuda},
                                 deadline);
    if (!fanout.ok()) return fanout.status();
    absl::Status status =
        (*fanout)->AllGather({memory.get(), 0, kSize * kBytes}, {memory.get(), rank * kBytes, kBytes}, deadline);
    if (!status.ok()) {
      EXPECT_EQ((*fanout)->Broadcast({}, 0, Far()), status) << "spent";
      return status;
    }
    for (uint64_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<std::byte>(i / kBytes)) << i;
    status = (*fanout)->Broadcast({memory.get(), 5, 2 * kBytes}, 3, deadline);
    if (!status.ok()) return status;
    EXPECT_EQ(all[5], std::byte{0}) << "rank 3's, which rank 0 gave it";
    return (*fanout)->AllGather({}, {}, deadline);  // no bytes, which NCCL need not hear of
  }

  std::vector<absl::Status> OnAllRanks(Time deadline) {
    std::vector<absl::Status> statuses(kSize);
    {
      std::vector<std::jthread> threads;
      for (uint32_t rank = 0; rank < kSize; ++rank) {
        threads.emplace_back([&, rank] { statuses[rank] = Share(rank, deadline); });
      }
    }
    EXPECT_EQ(world.communicators, 0);
    EXPECT_EQ(world.streams, 0);
    EXPECT_EQ(world.events, 0);
    return statuses;
  }

  const std::unique_ptr<Rendezvous> rendezvous_ = MakeLocalRendezvous();
};

TEST_F(NcclFanoutTest, SharesAfterWhatIsOnTheCallersStream) {
  world.waits = 0;
  EXPECT_THAT(OnAllRanks(Far()), Each(absl::OkStatus()));
  EXPECT_EQ(world.waits, 2 * kSize);
}

TEST_F(NcclFanoutTest, OneRanksFaultEndsItForAllAndARetryDelivers) {
  struct Row {
    Fault fault;
    const char* message;  // empty: all wait until their deadline
  };
  const Row rows[] = {
      {Fault::kInit, "rank 2: ncclCommInitRankConfig: NCCL: no route (said by NCCL)"},
      {Fault::kConnecting, "rank 2: connecting: NCCL: gone wrong"},
      {Fault::kConnectingForever, ""},
      {Fault::kBegin, "rank 2: ncclAllGather: NCCL: gone wrong"},
      {Fault::kBeginning, "rank 2: beginning a collective: NCCL: gone wrong"},
      {Fault::kRunning, "rank 2: a collective: NCCL: gone wrong"},
      {Fault::kRunningForever, ""},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(static_cast<int>(row.fault));
    world.fault = row.fault;
    world.faulty = 2;
    const bool late = *row.message == '\0';
    const auto statuses = OnAllRanks(late ? Clock::now() + milliseconds(100) : Far());
    for (const absl::Status& status : statuses) {
      EXPECT_THAT(status.ToString(), HasSubstr(late ? "until its deadline" : row.message));
    }
    world.fault = Fault::kNone;
    EXPECT_THAT(OnAllRanks(Far()), Each(absl::OkStatus()));
  }
}

// --- the real ones --------------------------------------------------------------------------------------------

TEST(NcclShimTest, LoadsTheLibraryOrSaysWhyNot) {
  const auto nccl = LoadNccl();
  if (!nccl.ok()) {
    EXPECT_EQ(nccl.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(nccl.status().message()), HasSubstr("libnccl.so.2"));
    GTEST_SKIP() << nccl.status();
  }
  std::cout << "NCCL " << (*nccl)->version << "\n";
  EXPECT_THAT((*nccl)->version, testing::StartsWith("2."));
  EXPECT_STREQ((*nccl)->GetErrorString(ncclSuccess), "no error");
}

class OneGpuTest : public testing::Test {
 protected:
  static constexpr uint64_t kBytes = 1'000'003;
  class Memory final : public DeviceMemory {
   public:
    Memory() { EXPECT_EQ(cudaMalloc(&data, kBytes), cudaSuccess); }
    ~Memory() override { (void)cudaFree(data); }
    uint64_t bytes() const override { return kBytes; }
    std::byte* address() const override { return static_cast<std::byte*>(data); }
    std::optional<std::span<std::byte>> HostSpan(uint64_t, uint64_t) override { return std::nullopt; }
    absl::StatusOr<ExportedHandle> ExportHandle() override { return absl::UnimplementedError("a test's"); }
    absl::StatusOr<UniqueFd> ExportDmaBuf() override { return absl::UnimplementedError("a test's"); }
    void Retire() override {}
    void* data = nullptr;
  };

  void SetUp() override {
    const absl::Status status = Make({}).status();
    if (absl::IsFailedPrecondition(status)) GTEST_SKIP() << status;
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaStreamCreateWithFlags(&after_, cudaStreamNonBlocking), cudaSuccess);
  }
  void TearDown() override {
    if (after_ != nullptr) (void)cudaStreamDestroy(after_);
  }

  absl::StatusOr<std::unique_ptr<Fanout>> Make(const NcclFanoutOptions& options) {
    return MakeNcclFanout(*rendezvous_, {.group = {"one", 1}, .rank = 0}, options, Far());
  }
  // Holds up `after_` until the gate opens.
  void Close(std::promise<void>& gate) {
    ASSERT_EQ(cudaLaunchHostFunc(
                  after_, [](void* data) { static_cast<std::promise<void>*>(data)->get_future().wait(); }, &gate),
              cudaSuccess);
  }

  const std::unique_ptr<Rendezvous> rendezvous_ = MakeLocalRendezvous();
  cudaStream_t after_ = nullptr;
};

// Opened by the function that a test replaced in NCCL's table; null then.
std::promise<void>* gate_to_open = nullptr;
void Open() {
  if (gate_to_open != nullptr) std::exchange(gate_to_open, nullptr)->set_value();
}

TEST_F(OneGpuTest, GathersWhatTheCallersStreamWroteBefore) {
  NcclApi nccl = **LoadNccl();
  nccl.AllGather = [](const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t communicator,
                      cudaStream_t stream) {
    const ncclResult_t result = (*LoadNccl())->AllGather(from, to, count, type, communicator, stream);
    Open();  // only now: it had to be held up by the stream's order
    return result;
  };
  auto fanout = Make({.after = after_, .nccl = &nccl});
  ASSERT_TRUE(fanout.ok()) << fanout.status();
  Memory source;
  Memory destination;
  ASSERT_EQ(cudaMemset(source.data, 0, kBytes), cudaSuccess);
  ASSERT_EQ(cudaMemset(destination.data, 0, kBytes), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::promise<void> gate;
  gate_to_open = &gate;
  Close(gate);
  EXPECT_EQ(cudaMemsetAsync(source.data, 0x5a, kBytes, after_), cudaSuccess);
  const absl::Status status = (*fanout)->AllGather({&destination, 1, kBytes - 1}, {&source, 1, kBytes - 1}, Far());
  Open();  // also where it failed before
  EXPECT_EQ(status, absl::OkStatus());
  std::vector<unsigned char> seen(kBytes);
  ASSERT_EQ(cudaMemcpy(seen.data(), destination.data, kBytes, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(seen[0], 0);
  EXPECT_EQ(std::ranges::count(seen, 0x5a), kBytes - 1);
  EXPECT_EQ((*fanout)->Broadcast({&destination, 0, kBytes}, 0, Far()), absl::OkStatus());
}

TEST_F(OneGpuTest, ADeadlineAbortsAndANewOneWorks) {
  NcclApi nccl = **LoadNccl();
  nccl.CommAbort = [](ncclComm_t communicator) {
    Open();
    return (*LoadNccl())->CommAbort(communicator);
  };
  Memory source;
  Memory destination;
  std::promise<void> gate;
  {
    auto fanout = Make({.after = after_, .nccl = &nccl});
    ASSERT_TRUE(fanout.ok()) << fanout.status();
    gate_to_open = &gate;
    Close(gate);
    const absl::Status status =
        (*fanout)->AllGather({&destination, 0, kBytes}, {&source, 0, kBytes}, Clock::now() + milliseconds(100));
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_EQ(gate_to_open, nullptr) << "it was not aborted";
    Open();
  }
  auto fanout = Make({.after = after_});
  ASSERT_TRUE(fanout.ok()) << fanout.status();
  EXPECT_EQ((*fanout)->AllGather({&destination, 0, kBytes}, {&source, 0, kBytes}, Far()), absl::OkStatus());
}

}  // namespace
}  // namespace devmem
