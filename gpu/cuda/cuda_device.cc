// SPDX-License-Identifier: Apache-2.0
// What a call comes to:
//
//   1. The checks of gpu/check.h, on the CPU, before anything is touched.
//   2. A plan (gpu/work_plan.h): runs and tiles, in absolute addresses.
//   3. A small gather: one launch, with the plan in it. Otherwise: the plan into pinned memory, one copy to the device, one
//   launch.
//   4. An event behind it; the stream's completer tells who waits, and gives the buffers back.
#include "gpu/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/trace.h"
#include "gpu/cast.h"
#include "gpu/check.h"
#include "gpu/cuda/completer.h"
#include "gpu/cuda/driver.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/launch.h"
#include "gpu/cuda/memory.h"
#include "gpu/cuda/scratch.h"
#include "gpu/gather_cast.h"
#include "gpu/work_plan.h"

namespace devmem {
namespace {

using cuda::CrcKind;
using cuda::Facts;
using cuda::Scratch;
using cuda::ToStatus;

constexpr size_t kMostStreams = 16;
constexpr uint64_t kBounceMost = 256 << 10;     // bytes of pieces that one launch copies, through pinned memory of ours
constexpr uint64_t kEngineLeast = 64 << 10;     // bytes of a piece that a copy of its own is worth
constexpr uint64_t kCompactStep = 64ULL << 20;  // in-place compaction: bytes that leave their place at a time
constexpr uint32_t kWarpsOfAnSm = 64;           // resident, of every architecture compiled for
constexpr uint32_t kTilesOfAWarp = 2;           // so that the last ones end together

// One thread's, mostly.
struct WorkStream {
  explicit WorkStream(int ordinal) : completer(ordinal) {}
  WorkStream(const WorkStream&) = delete;
  WorkStream& operator=(const WorkStream&) = delete;
  ~WorkStream() {
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
  }
  std::mutex mutex;  // from the plan until the event is recorded
  cudaStream_t stream = nullptr;
  WorkPlan plan;
  cuda::Completer completer;  // its end waits for the stream's work
};

// What one call puts on a stream, and the buffers that the GPU uses for it: kept until it is done, also where a later step of
// the call fails, and then by waiting here.
class Enqueued {
 public:
  explicit Enqueued(WorkStream& work) : work_(work) {}
  Enqueued(const Enqueued&) = delete;
  Enqueued& operator=(const Enqueued&) = delete;
  ~Enqueued() {
    if (!watched_) (void)cudaStreamSynchronize(work_.stream);
  }
  void Keep(std::shared_ptr<Scratch> scratch) { kept_.push_back(std::move(scratch)); }

  // The end of the call. `finish` as for the completer.
  absl::StatusOr<Event> Watch(std::function<void(const absl::Status&)> finish = nullptr) {
    absl::StatusOr<Event> event =
        work_.completer.Watch(work_.stream, [kept = kept_, finish = std::move(finish)](const absl::Status& status) {
          if (finish != nullptr) finish(status);
        });
    watched_ = event.ok();
    return event;
  }

 private:
  WorkStream& work_;
  std::vector<std::shared_ptr<Scratch>> kept_;
  bool watched_ = false;
};

std::byte* AddressOf(const DeviceSpan& span) { return span.memory->address() + span.offset; }
uint64_t Number(const std::byte* address) { return reinterpret_cast<uint64_t>(address); }

class CudaDevice final : public Device {
 public:
  using Device::Peek;
  using Device::Poke;

  explicit CudaDevice(Facts facts) : facts_(std::move(facts)), name_("cuda:" + std::to_string(facts_.ordinal)) {}

  std::string_view name() const override { return name_; }
  std::string_view uuid() const override { return facts_.uuid; }

  absl::StatusOr<std::shared_ptr<DeviceMemory>> Allocate(uint64_t bytes, const AllocateOptions& options) override {
    DEVMEM_RETURN_IF_ERROR(CheckNotEmpty(bytes, options.name));
    const cuda::KeepCurrent keep;
    DEVMEM_RETURN_IF_ERROR(Use());
    std::shared_ptr<cuda::Memory> memory;
    if (options.exportable || options.dma_buf) {
      DEVMEM_ASSIGN_OR_RETURN(memory, cuda::AllocateVmm(facts_, bytes, options));
    } else {
      DEVMEM_ASSIGN_OR_RETURN(memory, cuda::AllocatePlain(facts_, bytes, options.name));
    }
    // Whoever had it before: another stream's samples are nobody else's to see.
    DEVMEM_ASSIGN_OR_RETURN(WorkStream* const work, Mine());
    std::lock_guard lock(work->mutex);
    const std::string what = "clearing device memory";
    DEVMEM_RETURN_IF_ERROR(
        ToStatus(cudaMemsetAsync(memory->address(), 0, cuda::WholeUnits(memory->bytes()), work->stream), what));
    DEVMEM_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(work->stream), what));
    return memory;
  }

  absl::StatusOr<std::shared_ptr<DeviceMemory>> AllocateStaging(uint64_t bytes, std::string_view name) override {
    DEVMEM_RETURN_IF_ERROR(CheckNotEmpty(bytes, std::string(name)));
    const cuda::KeepCurrent keep;
    DEVMEM_RETURN_IF_ERROR(Use());
    return cuda::AllocatePinned(facts_.ordinal, bytes, name, pinned_);
  }

  absl::StatusOr<std::shared_ptr<DeviceMemory>> Import(ExportedHandle handle, std::string_view name) override {
    const cuda::KeepCurrent keep;
    DEVMEM_RETURN_IF_ERROR(Use());
    return cuda::ImportVmm(facts_, std::move(handle), name);
  }

  absl::StatusOr<Event> Gather(DeviceMemory& destination, DeviceMemory& source, std::span<const Fragment> fragments) override {
    const TraceRange traced("gather");
    DEVMEM_RETURN_IF_ERROR(CheckFragments(destination, source, fragments));
    DEVMEM_RETURN_IF_ERROR(CheckOurs(&destination, "gather's destination"));
    DEVMEM_RETURN_IF_ERROR(CheckOurs(&source, "gather's source"));
    const cuda::KeepCurrent keep;
    DEVMEM_ASSIGN_OR_RETURN(WorkStream* const work, Begin());
    std::lock_guard lock(work->mutex);
    if (&destination == &source) return Compact(*work, destination, fragments);
    PlanGather(Number(source.address()), Number(destination.address()), fragments, {.most_tiles = MostTiles()}, &work->plan);
    Enqueued enqueued(*work);
    DEVMEM_RETURN_IF_ERROR(LaunchPlan(*work, &enqueued));
    return enqueued.Watch();
  }

  absl::StatusOr<Event> GatherCast(DeviceSpan destination, DeviceMemory& source, std::span<const Fragment> fragments,
                                   const GatherCastSpec& spec) override {
    const TraceRange traced("gather and cast");
    DEVMEM_RETURN_IF_ERROR(CheckSpan(destination, "a cast's destination"));
    DEVMEM_RETURN_IF_ERROR(CheckGatherCast(spec, fragments, source.bytes(), destination.bytes));
    DEVMEM_RETURN_IF_ERROR(CheckOurs(destination.memory, "a cast's destination"));
    DEVMEM_RETURN_IF_ERROR(CheckOurs(&source, "gather's source"));
    if (spec.cast.count == 0) return Event();
    const CastPath path = PathOf(spec);
    const cuda::KeepCurrent keep;
    DEVMEM_ASSIGN_OR_RETURN(WorkStream* const work, Begin());
    std::lock_guard lock(work->mutex);
    CastTask task;
    PlanCast(spec, path, Number(source.address()), Number(AddressOf(destination)), fragments, MostTiles(), &work->plan, &task);
    Enqueued enqueued(*work);
    DEVMEM_ASSIGN_OR_RETURN(const Uploaded there, Upload(*work, 0, &enqueued));
    task.runs = there.runs;
    task.tiles = there.tiles;
    DEVMEM_RETURN_IF_ERROR(ToStatus(cuda::LaunchCast(path, task, work->stream), "launching a cast"));
    return enqueued.Watch();
  }

  absl::StatusOr<Event> GatherChecksum(DeviceMemory& destination, DeviceMemory& source, std::span<const Fragment> fragments,
                                       Checksum kind, std::span<uint64_t> sums) override {
    const TraceRange traced("gather and checksum");
    DEVMEM_RETURN_IF_ERROR(CheckSums(fragments, sums));
    DEVMEM_RETURN_IF_ERROR(CheckFragments(destination, source, fragments));
    DEVMEM_RETURN_IF_ERROR(CheckOurs(&destination, "gather's destination"));
    DEVMEM_RETURN_IF_ERROR(CheckOurs(&source, "gather's source"));
    if (fragments.empty()) return Event();
    const CrcKind crc = kind == Checksum::kCrc32c ? CrcKind::kCrc32c : CrcKind::kCrc64Nvme;
    const cuda::KeepCurrent keep;
    DEVMEM_ASSIGN_OR_RETURN(WorkStream* const work, Begin());
    DEVMEM_ASSIGN_OR_RETURN(const Tables tables, TablesOf(crc));
    std::lock_guard lock(work->mutex);
    PlanGather(Number(source.address()), Number(destination.address()), fragments, {.most_tiles = MostTiles(), .merge = false},
               &work->plan);
    // Behind the plan: the sums, on both sides.
    const uint64_t sum_bytes = fragments.size() * sizeof(uint64_t);
    Enqueued enqueued(*work);
    DEVMEM_ASSIGN_OR_RETURN(const Uploaded there, Upload(*work, sum_bytes, &enqueued));
    auto* const device_sums = reinterpret_cast<uint64_t*>(there.scratch->device + there.bytes);
    std::byte* const host_sums = there.scratch->host + there.bytes;
    const std::string what = "launching a checksum";
    DEVMEM_RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(device_sums, 0, sum_bytes, work->stream), what));
    DEVMEM_RETURN_IF_ERROR(
        ToStatus(cuda::LaunchChecksum(crc, {there.runs, there.tiles, work->plan.tile_count(), tables.address, device_sums},
                                      tables.blocks, work->stream),
                 what));
    DEVMEM_RETURN_IF_ERROR(
        ToStatus(cuda::LaunchSums(crc, {there.runs, fragments.size(), tables.address, device_sums}, work->stream), what));
    DEVMEM_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(host_sums, device_sums, sum_bytes, cudaMemcpyDeviceToHost, work->stream),
                                    "fetching checksums"));
    return enqueued.Watch([host_sums, sums](const absl::Status& status) {
      if (status.ok()) std::memcpy(sums.data(), host_sums, sums.size_bytes());
    });
  }

  absl::StatusOr<Event> Cast(DeviceSpan destination, DeviceSpan source, const CastSpec& spec) override {
    const auto describe = [&spec] { return std::string(Name(spec.from)) + " to " + std::string(Name(spec.to)); };
    if (!CanCast(spec)) {
      return MakeError(
          absl::StatusCode::kInvalidArgument, "no cast from " + describe() + " with scale " + std::to_string(spec.scale),
          {.cause = "unsupported cast", .action = "cast to float16, bfloat16, float32 or float64 with a finite scale"});
    }
    DEVMEM_RETURN_IF_ERROR(CheckSpan(source, "a cast's source"));
    DEVMEM_RETURN_IF_ERROR(CheckSpan(destination, "a cast's destination"));
    if (spec.count > source.bytes / ItemSize(spec.from)) return RangeError("a cast's source", 0, spec.count, source.bytes);
    if (spec.count > destination.bytes / ItemSize(spec.to))
      return RangeError("a cast's destination", 0, spec.count, destination.bytes);
    if (spec.count == 0) return Event();
    const uint64_t from_bytes = spec.count * ItemSize(spec.from), to_bytes = spec.count * ItemSize(spec.to);
    if (AddressOf(source) < AddressOf(destination) + to_bytes && AddressOf(destination) < AddressOf(source) + from_bytes) {
      return MakeError(
          absl::StatusCode::kInvalidArgument, "cast from " + describe() + " onto itself",
          {.offset = source.offset, .length = source.bytes, .cause = "overlapping cast", .action = "cast from staging memory"});
    }
    if (spec.from == spec.to && spec.scale == 1.0) {  // a copy, of a signalling NaN too
      const Fragment whole{.source = source.offset, .destination = destination.offset, .bytes = from_bytes};
      return Gather(*destination.memory, *source.memory, {&whole, 1});
    }
    const Fragment whole{.source = source.offset, .destination = 0, .bytes = from_bytes};
    return GatherCast(destination, *source.memory, {&whole, 1}, {.cast = spec});
  }

  absl::StatusOr<Event> Peek(std::span<const PeekPiece> pieces) override {
    const TraceRange traced("peek");
    std::vector<Fragment> copies;
    for (const PeekPiece& piece : pieces) {
      DEVMEM_RETURN_IF_ERROR(CheckSameSize(piece.to.size(), piece.from.bytes));
      DEVMEM_RETURN_IF_ERROR(CheckSpan(piece.from, "a peek's source"));
      DEVMEM_RETURN_IF_ERROR(CheckOurs(piece.from.memory, "a peek's source"));
      if (piece.to.empty()) continue;
      copies.push_back(
          {.source = Number(AddressOf(piece.from)), .destination = Number(piece.to.data()), .bytes = piece.to.size()});
    }
    return CopyWithHost(copies, cudaMemcpyDeviceToHost);
  }

  absl::StatusOr<Event> Poke(std::span<const PokePiece> pieces) override {
    const TraceRange traced("poke");
    std::vector<Fragment> copies;
    for (const PokePiece& piece : pieces) {
      DEVMEM_RETURN_IF_ERROR(CheckSameSize(piece.from.size(), piece.to.bytes));
      DEVMEM_RETURN_IF_ERROR(CheckSpan(piece.to, "a poke's destination"));
      DEVMEM_RETURN_IF_ERROR(CheckOurs(piece.to.memory, "a poke's destination"));
      if (piece.from.empty()) continue;
      copies.push_back(
          {.source = Number(piece.from.data()), .destination = Number(AddressOf(piece.to)), .bytes = piece.from.size()});
    }
    return CopyWithHost(copies, cudaMemcpyHostToDevice);
  }

  // A completer for each stream, so that one that is held up holds up no other; beyond kMostStreams they share.
  absl::StatusOr<Event> After(void* stream) override {
    const cuda::KeepCurrent keep;
    DEVMEM_RETURN_IF_ERROR(Use());
    auto* const handle = static_cast<cudaStream_t>(stream);
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    DEVMEM_CUDA_RETURN(cudaStreamIsCapturing(handle, &capturing), "asking a trainer's stream what it does");
    if (capturing != cudaStreamCaptureStatusNone) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, "a stream that captures a graph is never done",
          {.object = name_, .cause = "stream is capturing", .action = "name the stream that the graph is launched on"});
    }
    cuda::Completer* completer = nullptr;
    {
      std::lock_guard lock(mutex_);
      void* const key = after_.size() < kMostStreams || after_.contains(stream) ? stream : after_.begin()->first;
      std::unique_ptr<cuda::Completer>& of = after_[key];
      if (of == nullptr) of = std::make_unique<cuda::Completer>(facts_.ordinal);
      completer = of.get();
    }
    return completer->Watch(handle, nullptr);
  }

 private:
  // A plan, on its way to the device.
  struct Uploaded {
    std::shared_ptr<Scratch> scratch;
    const Run* runs = nullptr;
    const Tile* tiles = nullptr;
    uint64_t bytes = 0;  // of both; a multiple of 16
  };

  static absl::Status CheckNotEmpty(uint64_t bytes, const std::string& name) {
    if (bytes != 0) return absl::OkStatus();
    return MakeError(absl::StatusCode::kInvalidArgument, "cannot allocate 0 bytes",
                     {.object = name, .cause = "empty allocation", .action = "ask for at least 1 byte"});
  }

  absl::Status CheckOurs(DeviceMemory* memory, std::string_view what) const {
    const auto* const ours = dynamic_cast<cuda::Memory*>(memory);
    if (ours != nullptr && ours->ordinal() == facts_.ordinal) return absl::OkStatus();
    return MakeError(absl::StatusCode::kInvalidArgument, std::string(what) + " is memory of another device than " + name_,
                     {.cause = "memory of another device", .action = "report a bug with this message"});
  }

  [[nodiscard]] uint32_t MostTiles() const {
    return static_cast<uint32_t>(facts_.multiprocessors) * kWarpsOfAnSm * kTilesOfAWarp;
  }

  // The calling thread works with this GPU from here on.
  absl::Status Use() {
    DEVMEM_RETURN_IF_ERROR(ToStatus(cudaSetDevice(facts_.ordinal), "using " + name_, {.object = name_}));
    std::lock_guard lock(mutex_);
    if (prepared_) return absl::OkStatus();
    DEVMEM_RETURN_IF_ERROR(ToStatus(cuda::PrepareKernels(), "preparing the kernels", {.object = name_}));
    prepared_ = true;
    return absl::OkStatus();
  }

  absl::StatusOr<WorkStream*> Begin() {
    DEVMEM_RETURN_IF_ERROR(Use());
    return Mine();
  }

  // The calling thread's stream.
  absl::StatusOr<WorkStream*> Mine() {
    static std::atomic<size_t> threads{0};
    static thread_local const size_t index = threads.fetch_add(1) % kMostStreams;
    std::lock_guard lock(mutex_);
    std::unique_ptr<WorkStream>& mine = streams_[index];
    if (mine == nullptr) {
      auto made = std::make_unique<WorkStream>(facts_.ordinal);
      DEVMEM_CUDA_RETURN(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking), "making a CUDA stream");
      mine = std::move(made);
    }
    return mine.get();
  }

  // With room for `more` bytes behind the plan.
  absl::StatusOr<Uploaded> Upload(WorkStream& work, uint64_t more, Enqueued* enqueued) {
    const WorkPlan& plan = work.plan;
    const uint64_t run_bytes = plan.runs.size() * sizeof(Run), tile_bytes = plan.tiles.size() * sizeof(Tile);
    static_assert(sizeof(Tile) == 16 && sizeof(Run) == 24);
    Uploaded there{.bytes = (tile_bytes + run_bytes + 15) / 16 * 16};
    DEVMEM_ASSIGN_OR_RETURN(there.scratch, scratch_.Take(there.bytes + more));
    enqueued->Keep(there.scratch);
    std::memcpy(there.scratch->host, plan.tiles.data(), tile_bytes);
    if (run_bytes > 0) std::memcpy(there.scratch->host + tile_bytes, plan.runs.data(), run_bytes);
    DEVMEM_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(there.scratch->device, there.scratch->host, tile_bytes + run_bytes,
                                                    cudaMemcpyHostToDevice, work.stream),
                                    "sending descriptors to the GPU"));
    there.tiles = reinterpret_cast<const Tile*>(there.scratch->device);
    there.runs = reinterpret_cast<const Run*>(there.scratch->device + tile_bytes);
    return there;
  }

  absl::Status LaunchPlan(WorkStream& work, Enqueued* enqueued) {
    const std::string what = "launching a gather";
    if (work.plan.tile_count() == 0) return absl::OkStatus();
    if (FitsInline(work.plan)) {
      InlineGatherTask task;
      FillInline(work.plan, &task);
      return ToStatus(cuda::LaunchGather(task, work.stream), what);
    }
    DEVMEM_ASSIGN_OR_RETURN(const Uploaded there, Upload(work, 0, enqueued));
    return ToStatus(cuda::LaunchGather({there.runs, there.tiles, work.plan.tile_count()}, work.stream), what);
  }

  // Copies, from address to address, of which one side is the host's. From and to staging memory the GPU copies by itself:
  // large pieces by its copy engines, many small ones by one launch. Other memory goes through pinned memory of ours, or, where
  // it is much, is the driver's to stage, inside the call.
  absl::StatusOr<Event> CopyWithHost(const std::vector<Fragment>& copies, cudaMemcpyKind kind) {
    if (copies.empty()) return Event();
    const bool to_device = kind == cudaMemcpyHostToDevice;
    const auto host = [to_device](const Fragment& copy) {
      return reinterpret_cast<std::byte*>(to_device ? copy.source : copy.destination);
    };
    uint64_t total = 0;
    bool pinned = true;
    for (const Fragment& copy : copies) {
      total += copy.bytes;
      pinned = pinned && pinned_->Hold({host(copy), copy.bytes});
    }
    const cuda::KeepCurrent keep;
    DEVMEM_ASSIGN_OR_RETURN(WorkStream* const work, Begin());
    std::lock_guard lock(work->mutex);
    Enqueued enqueued(*work);
    if (pinned ? total / copies.size() >= kEngineLeast : total > kBounceMost) {
      for (const Fragment& copy : copies) {
        DEVMEM_RETURN_IF_ERROR(
            ToStatus(cudaMemcpyAsync(reinterpret_cast<void*>(copy.destination), reinterpret_cast<const void*>(copy.source),
                                     copy.bytes, kind, work->stream),
                     "copying between host and GPU"));
      }
      return enqueued.Watch();
    }
    std::vector<Fragment> by_gpu = copies;
    std::byte* bounce = nullptr;
    if (!pinned) {
      DEVMEM_ASSIGN_OR_RETURN(const std::shared_ptr<Scratch> scratch, scratch_.Take(total));
      enqueued.Keep(scratch);
      bounce = scratch->host;
      uint64_t at = 0;
      for (Fragment& copy : by_gpu) {
        if (to_device) std::memcpy(bounce + at, host(copy), copy.bytes);
        (to_device ? copy.source : copy.destination) = Number(bounce + at);
        at += copy.bytes;
      }
    }
    PlanGather(0, 0, by_gpu, {.most_tiles = MostTiles()}, &work->plan);
    DEVMEM_RETURN_IF_ERROR(LaunchPlan(*work, &enqueued));
    if (pinned || to_device) return enqueued.Watch();
    return enqueued.Watch([bounce, host, copies](const absl::Status& status) {
      const std::byte* from = bounce;
      for (const Fragment& copy : copies) {
        if (status.ok()) std::memcpy(host(copy), from, copy.bytes);
        from += copy.bytes;
      }
    });
  }

  // Within one memory, where a fragment's place may be that of one to come: out to a buffer and back, a step at a time. Rare
  // (rows that a bad sample leaves behind), so it waits for memory rather than keep it.
  absl::StatusOr<Event> Compact(WorkStream& work, DeviceMemory& memory, std::span<const Fragment> fragments) {
    std::vector<Fragment> pieces;
    for (const Fragment& fragment : fragments) {
      for (uint64_t done = 0; done < fragment.bytes; done += kCompactStep) {
        pieces.push_back({.source = fragment.source + done,
                          .destination = fragment.destination + done,
                          .bytes = std::min(kCompactStep, fragment.bytes - done)});
      }
    }
    if (pieces.empty()) return Event();
    uint64_t buffer_bytes = 0;
    for (const Fragment& piece : pieces) buffer_bytes = std::min(kCompactStep, buffer_bytes + piece.bytes);
    void* buffer = nullptr;
    DEVMEM_CUDA_RETURN(cudaMallocAsync(&buffer, cuda::WholeUnits(buffer_bytes), work.stream),
                       "allocating a buffer to compact by");
    const uint64_t base = Number(memory.address());
    Enqueued enqueued(work);
    const auto run = [&]() -> absl::Status {
      std::vector<Fragment> out, back;
      for (size_t first = 0; first < pieces.size();) {
        out.clear();
        back.clear();
        uint64_t used = 0;
        size_t next = first;
        for (; next < pieces.size() && used + pieces[next].bytes <= buffer_bytes; ++next) {
          out.push_back({.source = pieces[next].source, .destination = used, .bytes = pieces[next].bytes});
          back.push_back({.source = used, .destination = pieces[next].destination, .bytes = pieces[next].bytes});
          used += pieces[next].bytes;
        }
        for (const bool leaving : {true, false}) {
          const auto at = reinterpret_cast<uint64_t>(buffer);
          PlanGather(leaving ? base : at, leaving ? at : base, leaving ? out : back, {.most_tiles = MostTiles()}, &work.plan);
          DEVMEM_RETURN_IF_ERROR(LaunchPlan(work, &enqueued));
        }
        first = next;
      }
      return absl::OkStatus();
    };
    const absl::Status launched = run();
    (void)cudaFreeAsync(buffer, work.stream);
    if (!launched.ok()) return launched;
    return enqueued.Watch();
  }

  // What there is to prove about a spec is proved once.
  CastPath PathOf(const GatherCastSpec& spec) {
    const auto key = std::make_tuple(spec.cast.from, spec.cast.to, spec.cast.scale, spec.channels, spec.pixels > 1, spec.mean,
                                     spec.deviation);
    {
      std::lock_guard lock(mutex_);
      const auto found = paths_.find(key);
      if (found != paths_.end()) return found->second;
    }
    const CastPath path = ChooseCastPath(spec);  // milliseconds: nobody waits for it
    std::lock_guard lock(mutex_);
    constexpr size_t kMostPaths = 1024;
    if (paths_.size() >= kMostPaths) paths_.clear();
    return paths_[key] = path;
  }

  struct Tables {
    const void* address = nullptr;
    uint32_t blocks = 0;  // that the GPU holds at a time
  };
  absl::StatusOr<Tables> TablesOf(CrcKind kind) {
    std::lock_guard lock(mutex_);
    std::shared_ptr<cuda::Memory>& tables = tables_[static_cast<size_t>(kind)];
    if (tables == nullptr) {
      const std::vector<uint8_t> bytes = cuda::TablesOf(kind);
      DEVMEM_ASSIGN_OR_RETURN(const auto memory, cuda::AllocatePlain(facts_, bytes.size(), "checksum tables"));
      const std::string what = "sending checksum tables to the GPU";
      DEVMEM_RETURN_IF_ERROR(ToStatus(cudaMemcpy(memory->address(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), what));
      // From memory that is not pinned it may return with the last bytes still on their way, and our streams do not wait for
      // that one.
      DEVMEM_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(nullptr), what));
      int blocks = 0;
      DEVMEM_CUDA_RETURN(cuda::ChecksumBlocks(kind, &blocks), "asking for a kernel's occupancy");
      checksum_blocks_[static_cast<size_t>(kind)] = static_cast<uint32_t>(std::max(1, blocks) * facts_.multiprocessors);
      tables = memory;
    }
    return Tables{tables->address(), checksum_blocks_[static_cast<size_t>(kind)]};
  }

  const Facts facts_;
  const std::string name_;
  std::mutex mutex_;
  bool prepared_ = false;
  std::array<std::shared_ptr<cuda::Memory>, 2> tables_;
  std::array<uint32_t, 2> checksum_blocks_{};
  std::map<std::tuple<DType, DType, double, uint32_t, bool, std::vector<double>, std::vector<double>>, CastPath> paths_;
  cuda::ScratchPool scratch_;
  const std::shared_ptr<cuda::PinnedRanges> pinned_ = std::make_shared<cuda::PinnedRanges>();
  std::map<void*, std::unique_ptr<cuda::Completer>> after_;
  std::array<std::unique_ptr<WorkStream>, kMostStreams> streams_;  // first to go
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(int ordinal) {
  DEVMEM_ASSIGN_OR_RETURN(Facts facts, cuda::AskGpu(ordinal));
  return std::make_unique<CudaDevice>(std::move(facts));
}

}  // namespace devmem
