// SPDX-License-Identifier: Apache-2.0
// Device memory and device work, on a GPU or on the CPU standing in for one.
//
//   DeviceMemory  one contiguous allocation. Its address may not be readable by the CPU: nothing outside
//                 gpu/ dereferences it, but a transport may ask for HostSpan() and receive into it.
//   Device        makes and imports DeviceMemory; enqueues Gather, Cast, Peek, Poke. Work is asynchronous: each call
//                 returns an Event and the memory named must outlive it. Two calls are in no order unless one's event
//                 was complete before the other was made.
//
// Threads: a Device is thread-safe; a DeviceMemory's bytes are the caller's to order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "gpu/dtype.h"

namespace devmem {

// What another process needs to map memory of this one: a trainer a slab, a successor the landing pool.
struct ExportedHandle {
  enum class Kind : uint8_t { kMemfd = 1, kCudaVmm = 2 };
  static constexpr uint32_t kVersion = 1;
  Kind kind = Kind::kMemfd;
  uint32_t version = kVersion;
  uint64_t bytes = 0;
  std::string device_uuid;  // "cpu" for host memory
  UniqueFd fd;              // CLOEXEC
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  [[nodiscard]] virtual uint64_t bytes() const = 0;

  // Where it lies for the device's own code in this process: CUDA's device pointer on a GPU, which the CPU must not follow.
  [[nodiscard]] virtual std::byte* address() const = 0;

  // The bytes [offset, offset+length) if the CPU can read and write them in place; nullopt on a GPU.
  // The range must lie inside the allocation.
  [[nodiscard]] virtual std::optional<std::span<std::byte>> HostSpan(uint64_t offset, uint64_t length) = 0;

  // A handle another process can map. kFailedPrecondition if not allocated exportable.
  [[nodiscard]] virtual absl::StatusOr<ExportedHandle> ExportHandle() = 0;

  // A dma-buf over all of it, for a NIC. kFailedPrecondition if not allocated with dma_buf. The dma-buf keeps the memory alive.
  [[nodiscard]] virtual absl::StatusOr<UniqueFd> ExportDmaBuf() = 0;

  // Gives the memory behind the allocation back to the system now, also where another process still holds
  // a handle to it (CUDA cannot: there it lives as long as the last handle does). The contents are gone; only destruction
  // may follow.
  virtual void Retire() = 0;
};

// A piece of a DeviceMemory; borrowed, never owning.
struct DeviceSpan {
  DeviceMemory* memory = nullptr;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Copies [source, source+bytes) of one memory to [destination, +bytes) of another.
struct Fragment {
  uint64_t source = 0;
  uint64_t destination = 0;
  uint64_t bytes = 0;
};

// One small copy of many: from the device to the host, and back.
struct PeekPiece {
  std::span<std::byte> to;
  DeviceSpan from;
};
struct PokePiece {
  DeviceSpan to;
  std::span<const std::byte> from;
};

// The completion of enqueued work. Copyable; all copies speak of the same work.
class Event {
 public:
  class Impl {
   public:
    virtual ~Impl() = default;
    [[nodiscard]] virtual bool Done() = 0;
    [[nodiscard]] virtual absl::Status Wait(Time deadline) = 0;
    virtual void WhenDone(std::function<void(absl::Status)> call) = 0;
  };
  Event() = default;  // already complete
  explicit Event(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  [[nodiscard]] bool Done() const { return impl_ == nullptr || impl_->Done(); }
  // Waits until the work is done; kDeadlineExceeded past `deadline`, or the work's own error.
  [[nodiscard]] absl::Status Wait(Time deadline) const { return impl_ == nullptr ? absl::OkStatus() : impl_->Wait(deadline); }

  // Calls back once with the work's result: here and now if it is done, otherwise from a thread of the device's, which it must
  // not hold up.
  void WhenDone(std::function<void(absl::Status)> call) const {
    if (impl_ == nullptr) return call(absl::OkStatus());
    impl_->WhenDone(std::move(call));
  }

 private:
  std::shared_ptr<Impl> impl_;
};

struct AllocateOptions {
  std::string name;         // seen in /proc/PID/maps, for people
  bool exportable = false;  // ExportHandle() will be asked for
  bool dma_buf = false;     // ExportDmaBuf() will be asked for
  bool huge_pages = false;  // of physically contiguous 2 MiB pages; kResourceExhausted if not so many are set aside
  bool prefault = true;     // touch every page now, so that running out of memory shows here
};

struct CastSpec {
  DType from = DType::kU8;
  DType to = DType::kF32;
  double scale = 1.0;  // each value is converted to double or float, multiplied, then rounded to nearest even
  uint64_t count = 0;  // elements
};

// A cast fused with a gather. The elements are channels within pixels within samples, row-major:
//
//   y = round_to(TO, double(x) * scale)                               without mean and deviation
//   y = round_to(TO, double(x) * (scale / std[c]) + (-mean[c] / std[c]))    with them: of (x * scale - mean) / std
//
// as double operations, each rounded, of the element's channel c. With pixels != 0 a sample's [pixels, channels] (HWC) becomes
// [channels, pixels] (CHW).
struct GatherCastSpec {
  CastSpec cast;                        // count: elements in all
  uint32_t channels = 1;                // divides count; 1 to 64
  std::vector<double> mean, deviation;  // one a channel each, or none; a deviation is not 0
  uint64_t pixels = 0;                  // of a sample; channels * pixels divides count
};

// kCrc32c: RFC 3720 (Castagnoli); kCrc64Nvme: NVM Express NVM command set, S3's CRC64NVME.
enum class Checksum : uint8_t { kCrc32c, kCrc64Nvme };

class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;  // "cpu", "cuda:0"
  [[nodiscard]] virtual std::string_view uuid() const = 0;

  // Memory full of zeros. kResourceExhausted with what was asked and what is free when there is not enough. Memory for a
  // dma-buf, or of huge pages, is rounded up to whole pages.
  [[nodiscard]] virtual absl::StatusOr<std::shared_ptr<DeviceMemory>> Allocate(uint64_t bytes,
                                                                               const AllocateOptions& options) = 0;

  // Memory that another process allocated and exported (DeviceMemory::ExportHandle): the same bytes, kept alive by both. `name`
  // is for errors. kInvalidArgument for a handle that is not of this device, or that does not hold what it says.
  [[nodiscard]] virtual absl::StatusOr<std::shared_ptr<DeviceMemory>> Import(ExportedHandle handle, std::string_view name) = 0;

  // Copies every fragment; any alignment, any order, overlapping only where source == destination memory and
  // fragments are sorted by ascending destination with destination <= source (in-place compaction).
  // kOutOfRange, before anything is copied, if one leaves its memory.
  [[nodiscard]] virtual absl::StatusOr<Event> Gather(DeviceMemory& destination, DeviceMemory& source,
                                                     std::span<const Fragment> fragments) = 0;

  // Gathers and converts: the fragments' destinations are offsets in bytes of what would lie there unconverted; together they
  // are [0, count * size of an element), ascending, without gap or overlap, and may break anywhere, also within an element.
  // kInvalidArgument otherwise, or for a conversion that the device does not do. Source and destination do not overlap.
  [[nodiscard]] virtual absl::StatusOr<Event> GatherCast(DeviceSpan destination, DeviceMemory& source,
                                                         std::span<const Fragment> fragments, const GatherCastSpec& spec) = 0;

  // Gathers, and computes the checksum of each fragment's bytes: sums[i] of fragments[i], there once the event is complete;
  // CombineChecksums() (gpu/checksum.h) makes an object's of them. Source and destination do not overlap. kInvalidArgument if
  // `sums` is not as long as `fragments`.
  [[nodiscard]] virtual absl::StatusOr<Event> GatherChecksum(DeviceMemory& destination, DeviceMemory& source,
                                                             std::span<const Fragment> fragments, Checksum kind,
                                                             std::span<uint64_t> sums) = 0;

  // Converts spec.count elements. kInvalidArgument for a pair the device does not convert.
  [[nodiscard]] virtual absl::StatusOr<Event> Cast(DeviceSpan destination, DeviceSpan source, const CastSpec& spec) = 0;

  // Copies between device and host: HTTP heads, host pieces of a rope, payload that came through staging memory. Each piece's
  // two sides are of one size; the host's side must stay until the event. At full speed, and without holding up the caller,
  // where it lies in staging memory.
  [[nodiscard]] virtual absl::StatusOr<Event> Peek(std::span<const PeekPiece> pieces) = 0;
  [[nodiscard]] virtual absl::StatusOr<Event> Poke(std::span<const PokePiece> pieces) = 0;
  [[nodiscard]] absl::StatusOr<Event> Peek(std::span<std::byte> destination, DeviceSpan source) {
    const PeekPiece piece{.to = destination, .from = source};
    return Peek({&piece, 1});
  }
  [[nodiscard]] absl::StatusOr<Event> Poke(DeviceSpan destination, std::span<const std::byte> source) {
    const PokePiece piece{.to = destination, .from = source};
    return Poke({&piece, 1});
  }

  // Host memory (HostSpan() is there) that this device copies to and from by itself: pinned, for a GPU.
  [[nodiscard]] virtual absl::StatusOr<std::shared_ptr<DeviceMemory>> AllocateStaging(uint64_t bytes,
                                                                                      std::string_view name) = 0;

  // Complete once all that was put on `stream` before is. A cudaStream_t of this process (null: its default stream), such as a
  // trainer's whose kernels still read a tensor; the CPU has no streams, and nothing to wait for.
  [[nodiscard]] virtual absl::StatusOr<Event> After(void* stream) = 0;
};

}  // namespace devmem
