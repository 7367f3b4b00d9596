// SPDX-License-Identifier: Apache-2.0
// LateDevice: a device that behaves as a GPU does, on any machine. For tests.
//
//   - its memory has no HostSpan(), and following its address() crashes; staging memory is the host's
//   - what is asked of it is done later, on a thread of its own, in an order by chance: only an event that is complete orders
//     two calls. What a call will write holds kPoison until then, so that who reads too early sees it
//   - an event is complete some time after its work was done
//   - memory is exported as "cuda-vmm" of device "GPU-late", which only a LateDevice imports
//
//   auto device = std::make_shared<LateDevice>();
//   auto memory = *device->Allocate(4096, {.name = "slab"});
//   Event poked = *device->Poke({memory.get(), 0, 5}, std::as_bytes(std::span("hello", 5)));
//   ASSERT_TRUE(poked.Wait(deadline).ok());
//   EXPECT_EQ(LateDevice::Look(*memory, 0, 5)[0], std::byte{'h'});
//
// Threads: as in device.h. Destroying it waits until all is done.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "gpu/device.h"

namespace devmem {

class LateDevice final : public Device {
 public:
  static constexpr std::byte kPoison{0xDB};

  explicit LateDevice(unsigned seed = 1);
  ~LateDevice() override;

  using Device::Peek;
  using Device::Poke;
  std::string_view name() const override { return "late:0"; }
  std::string_view uuid() const override { return "GPU-late"; }
  absl::StatusOr<std::shared_ptr<DeviceMemory>> Allocate(uint64_t bytes, const AllocateOptions& options) override;
  absl::StatusOr<std::shared_ptr<DeviceMemory>> Import(ExportedHandle handle, std::string_view name) override;
  absl::StatusOr<Event> Gather(DeviceMemory& to, DeviceMemory& from, std::span<const Fragment> fragments) override;
  absl::StatusOr<Event> GatherCast(DeviceSpan to, DeviceMemory& from, std::span<const Fragment> fragments,
                                   const GatherCastSpec& spec) override;
  absl::StatusOr<Event> GatherChecksum(DeviceMemory& to, DeviceMemory& from, std::span<const Fragment> fragments, Checksum kind,
                                       std::span<uint64_t> sums) override;
  absl::StatusOr<Event> Cast(DeviceSpan to, DeviceSpan from, const CastSpec& spec) override;
  absl::StatusOr<Event> Peek(std::span<const PeekPiece> pieces) override;
  absl::StatusOr<Event> Poke(std::span<const PokePiece> pieces) override;
  absl::StatusOr<std::shared_ptr<DeviceMemory>> AllocateStaging(uint64_t bytes, std::string_view name) override;
  // Complete when FinishStream(stream) was called, at once if it was before; null is complete at once.
  absl::StatusOr<Event> After(void* stream) override;

  // --- what tests do to it ---

  // The bytes as they lie there now. Whoever asks must know that nothing writes them.
  static std::span<std::byte> Look(DeviceMemory& memory, uint64_t offset, uint64_t bytes);
  // What is not done while it is held: nothing is, or only copies to and from the host.
  enum class Holds : uint8_t { kNothing, kAll, kAllButCopies };
  void Hold(Holds holds);
  // What is done from now on fails so, without touching anything. OK: works again.
  void FailWith(absl::Status status);
  void FinishStream(void* stream);
  // Calls asked for and not complete, After() apart.
  [[nodiscard]] size_t under_way();
  [[nodiscard]] size_t computing();        // of them, those that are no copies to or from the host
  [[nodiscard]] uint64_t poked_bytes();    // asked of Poke() since the start
  [[nodiscard]] uint64_t staging_bytes();  // allocated by AllocateStaging() since the start

 private:
  class Job;
  using Work = std::function<absl::StatusOr<Event>()>;

  Event Later(Work work, bool copies = false);
  [[nodiscard]] size_t Ready();  // so many of asked_, at its front, may be done now; mutex_ held
  void Run();

  const std::unique_ptr<Device> cpu_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Job>> asked_;                     // in no order
  std::deque<std::shared_ptr<Job>> done_;                       // and their events not yet complete
  std::map<void*, std::vector<std::shared_ptr<Job>>> streams_;  // who waits for them
  std::map<void*, bool> finished_;
  absl::Status failure_;
  uint64_t poked_bytes_ = 0;
  uint64_t staging_bytes_ = 0;
  Holds held_ = Holds::kNothing;
  bool stop_ = false;
  std::minstd_rand random_;
  std::thread thread_;
};

}  // namespace devmem
