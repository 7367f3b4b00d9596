// SPDX-License-Identifier: Apache-2.0
// NCCL knows neither deadlines nor who died: between GPUs of a node a kernel whose peer is gone spins forever. So
//
//  1. communicators do not block: every call of NCCL's returns at once, and is asked after until it is through;
//  2. while it is asked after, the attempt's failure wakes this rank, and its deadline is kept;
//  3. whatever goes wrong, the communicator is aborted, which ends its kernels, and is never used again: the next attempt has
//     another one, with another unique id.
#include "gpu/nccl/nccl_fanout.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

std::byte* AddressOf(const DeviceSpan& span) { return span.memory == nullptr ? nullptr : span.memory->address() + span.offset; }

// NCCL tells nobody when it is through or has failed; it must be asked. Small collectives take tens of microseconds.
constexpr Duration kFirstPause = std::chrono::microseconds(20);
constexpr Duration kLongestPause = std::chrono::milliseconds(1);
// An aborted kernel looks at its flag every few microseconds.
constexpr Duration kRest = std::chrono::seconds(10);

class NcclFanout final : public FanoutSteps {
 public:
  NcclFanout(const FanoutMember& member, std::unique_ptr<Rendezvous::Seat> seat, const NcclFanoutOptions& options)
      : FanoutSteps(member, std::move(seat)), options_(options) {}
  NcclFanout(const NcclFanout&) = delete;
  NcclFanout& operator=(const NcclFanout&) = delete;

  ~NcclFanout() override {
    if (cuda_ == nullptr) return;
    // Nothing is under way on it, and unlike ncclCommDestroy this waits for no peer. What fails here has nobody left to tell.
    AbortCommunicator();
    if (event_ != nullptr) (void)cuda_->EventDestroy(event_);
    if (stream_ != nullptr) (void)cuda_->StreamDestroy(stream_);
  }

  absl::Status Meet(Time deadline) {
    absl::Status status = TryMeet(deadline);
    if (status.ok()) return status;
    return Settle(seat_->Fail(std::move(status)));
  }

 protected:
  absl::Status Move(const Collective& collective, const std::vector<FanoutCard>& /*cards*/, Time deadline) override {
    DEVMEM_RETURN_IF_ERROR(Cuda(cuda_->SetDevice(options_.device), "cudaSetDevice"));
    std::byte* const to = AddressOf(collective.destination);
    const std::byte* const from = collective.broadcast ? to : AddressOf(collective.source);
    if (options_.after != nullptr) {
      DEVMEM_RETURN_IF_ERROR(Cuda(cuda_->EventRecord(event_, options_.after), "cudaEventRecord"));
      DEVMEM_RETURN_IF_ERROR(Cuda(cuda_->StreamWaitEvent(stream_, event_, 0), "cudaStreamWaitEvent"));
    }
    const ncclResult_t begun = collective.broadcast
                                   ? nccl_->Broadcast(from, to, collective.destination.bytes, ncclUint8,
                                                      static_cast<int>(collective.root), comm_, stream_)
                                   : nccl_->AllGather(from, to, collective.source.bytes, ncclUint8, comm_, stream_);
    DEVMEM_RETURN_IF_ERROR(Begun(begun, collective.broadcast ? "ncclBroadcast" : "ncclAllGather"));
    // Before NCCL is through, the stream may be idle only because nothing is on it yet.
    DEVMEM_RETURN_IF_ERROR(Poll("beginning a collective", deadline, [this] { return Ready("beginning a collective"); }));
    return Poll("a collective", deadline, [this]() -> absl::StatusOr<bool> {
      DEVMEM_RETURN_IF_ERROR(Ready("a collective").status());
      return Idle();
    });
  }

  absl::Status Settle(absl::Status status) override {
    if (status.ok()) return status;
    AbortCommunicator();
    if (stream_ == nullptr) return status;
    auto* const rest = new std::promise<void>;  // the device's, which may come to it after we are gone
    const std::future<void> came = rest->get_future();
    const auto tell = [](void* promise) {
      static_cast<std::promise<void>*>(promise)->set_value();
      delete static_cast<std::promise<void>*>(promise);
    };
    if (cuda_->LaunchHostFunc(stream_, tell, rest) != cudaSuccess) {
      delete rest;  // the context is lost, and nothing runs in it any more
    } else if (came.wait_for(kRest) != std::future_status::ready) {
      return Error(absl::StatusCode::kInternal, "the GPU did not come to rest after: " + Text(status), "GPU stuck",
                   "end this process; do not use the memory again");
    }
    return status;
  }

 private:
  absl::Status TryMeet(Time deadline) {
    if (options_.nccl == nullptr) {
      DEVMEM_ASSIGN_OR_RETURN(nccl_, LoadNccl());
    } else {
      nccl_ = options_.nccl;
    }
    cuda_ = options_.cuda == nullptr ? &StaticCuda() : options_.cuda;
    DEVMEM_RETURN_IF_ERROR(Cuda(cuda_->SetDevice(options_.device), "cudaSetDevice"));
    DEVMEM_RETURN_IF_ERROR(Cuda(cuda_->StreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
    DEVMEM_RETURN_IF_ERROR(Cuda(cuda_->EventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"));

    ncclUniqueId id{};
    if (member_.rank == 0) DEVMEM_RETURN_IF_ERROR(Begun(nccl_->GetUniqueId(&id), "ncclGetUniqueId"));
    DEVMEM_ASSIGN_OR_RETURN(const FanoutCards cards, Agree({.step = "join",
                                                            .implementation = "nccl " + nccl_->version,
                                                            .specification = member_.specification,
                                                            .payload = std::string(id.internal, sizeof(id.internal))},
                                                           deadline));
    const std::string& first = cards->front().payload;
    if (first.size() != sizeof(id.internal)) {
      return Error(absl::StatusCode::kInternal, "rank 0's unique id has " + std::to_string(first.size()) + " bytes",
                   "bad unique id", "report a bug with this message");
    }
    std::memcpy(id.internal, first.data(), first.size());
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const auto size = static_cast<int>(member_.group.size);
    DEVMEM_RETURN_IF_ERROR(
        Begun(nccl_->CommInitRankConfig(&comm_, size, id, static_cast<int>(member_.rank), &config), "ncclCommInitRankConfig"));
    return Poll("connecting", deadline, [this] { return Ready("connecting"); });
  }

  // Asks `done` until it says so, the attempt fails, or the deadline passes.
  absl::Status Poll(std::string_view what, Time deadline, const std::function<absl::StatusOr<bool>()>& done) {
    for (Duration pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
      DEVMEM_ASSIGN_OR_RETURN(const bool through, done());
      if (through) return absl::OkStatus();
      const Time now = Clock::now();
      if (now >= deadline) {
        return Error(absl::StatusCode::kDeadlineExceeded,
                     "rank " + std::to_string(member_.rank) + " waited until its deadline for NCCL: " + std::string(what),
                     "NCCL late", "look at what the other ranks' GPUs do; then join again");
      }
      DEVMEM_RETURN_IF_ERROR(seat_->Watch(std::min(deadline, now + pause)));
    }
  }

  absl::StatusOr<bool> Ready(std::string_view what) {
    ncclResult_t state = ncclSuccess;
    DEVMEM_RETURN_IF_ERROR(Begun(nccl_->CommGetAsyncError(comm_, &state), "ncclCommGetAsyncError"));
    DEVMEM_RETURN_IF_ERROR(Begun(state, what));
    return state != ncclInProgress;
  }

  absl::StatusOr<bool> Idle() {
    const cudaError_t state = cuda_->StreamQuery(stream_);
    if (state == cudaErrorNotReady) return false;
    DEVMEM_RETURN_IF_ERROR(Cuda(state, "cudaStreamQuery"));
    return true;
  }

  void AbortCommunicator() {
    if (comm_ != nullptr) (void)nccl_->CommAbort(std::exchange(comm_, nullptr));
  }

  absl::Status Begun(ncclResult_t result, std::string_view what) const {
    if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
    return NcclError(*nccl_, result, Mine(what), Object());
  }
  absl::Status Cuda(cudaError_t error, std::string_view what) const {
    return error == cudaSuccess ? absl::OkStatus() : CudaError(error, Mine(what), Object());
  }
  absl::Status Error(absl::StatusCode code, const std::string& message, std::string cause, std::string action) const {
    return MakeError(code, message, {.object = Object(), .cause = std::move(cause), .action = std::move(action)});
  }
  std::string Mine(std::string_view what) const { return "rank " + std::to_string(member_.rank) + ": " + std::string(what); }
  std::string Object() const { return "fan-out group " + member_.group.id; }

  const NcclFanoutOptions options_;
  const NcclApi* nccl_ = nullptr;
  const CudaApi* cuda_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
  ncclComm_t comm_ = nullptr;  // null once aborted
};

}  // namespace

absl::StatusOr<std::unique_ptr<Fanout>> MakeNcclFanout(Rendezvous& rendezvous, const FanoutMember& member,
                                                       const NcclFanoutOptions& options, Time deadline) {
  DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<Rendezvous::Seat> seat, rendezvous.Join(member.group, member.rank));
  auto fanout = std::make_unique<NcclFanout>(member, std::move(seat), options);
  DEVMEM_RETURN_IF_ERROR(fanout->Meet(deadline));
  return std::unique_ptr<Fanout>(std::move(fanout));
}

}  // namespace devmem
