// SPDX-License-Identifier: Apache-2.0
#include "gpu/testing/late_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "gpu/check.h"
#include "gpu/cpu_device.h"

namespace devmem {
namespace {

constexpr char kUuid[] = "GPU-late";

// Memory of the CPU device's that does not show itself. Its address is a range of its own that nobody may touch.
class LateMemory final : public DeviceMemory {
 public:
  explicit LateMemory(std::shared_ptr<DeviceMemory> real)
      : real_(std::move(real)),
        address_(static_cast<std::byte*>(
            ::mmap(nullptr, real_->bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
  LateMemory(const LateMemory&) = delete;
  LateMemory& operator=(const LateMemory&) = delete;
  ~LateMemory() override { ::munmap(address_, real_->bytes()); }

  uint64_t bytes() const override { return real_->bytes(); }
  std::byte* address() const override { return address_; }
  std::optional<std::span<std::byte>> HostSpan(uint64_t /*offset*/, uint64_t /*length*/) override { return std::nullopt; }
  absl::StatusOr<ExportedHandle> ExportHandle() override {
    DEVMEM_ASSIGN_OR_RETURN(ExportedHandle handle, real_->ExportHandle());
    handle.kind = ExportedHandle::Kind::kCudaVmm;
    handle.device_uuid = kUuid;
    return handle;
  }
  absl::StatusOr<UniqueFd> ExportDmaBuf() override { return real_->ExportDmaBuf(); }
  void Retire() override { real_->Retire(); }

  [[nodiscard]] DeviceMemory& real() const { return *real_; }

 private:
  const std::shared_ptr<DeviceMemory> real_;
  std::byte* const address_;
};

DeviceMemory& Real(DeviceMemory& memory) {
  auto* const late = dynamic_cast<LateMemory*>(&memory);
  return late == nullptr ? memory : late->real();
}

DeviceSpan Real(DeviceSpan span) {
  if (span.memory != nullptr) span.memory = &Real(*span.memory);
  return span;
}

void Poison(DeviceSpan span) {
  const auto bytes = Real(*span.memory).HostSpan(span.offset, span.bytes);
  std::ranges::fill(*bytes, LateDevice::kPoison);
}

std::vector<Fragment> Copy(std::span<const Fragment> fragments) { return {fragments.begin(), fragments.end()}; }

}  // namespace

class LateDevice::Job final : public Event::Impl {
 public:
  Job(Work work, bool with_host) : copies(with_host), work_(std::move(work)) {}

  const bool copies;  // to or from the host

  bool Done() override {
    std::lock_guard lock(mutex_);
    return done_;
  }
  absl::Status Wait(Time deadline) override {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [this] { return done_; }))
      return absl::DeadlineExceededError("the device is not done");
    return result_;
  }
  void WhenDone(std::function<void(absl::Status)> call) override {
    {
      std::lock_guard lock(mutex_);
      if (!done_) return calls_.push_back(std::move(call));
    }
    call(result_);
  }

  // The device's thread.
  void Do(const absl::Status& failure) { result_of_work_ = failure.ok() ? std::exchange(work_, nullptr)().status() : failure; }
  void Complete() {
    std::vector<std::function<void(absl::Status)>> calls;
    {
      std::lock_guard lock(mutex_);
      done_ = true;
      result_ = result_of_work_;
      calls.swap(calls_);
    }
    changed_.notify_all();
    for (const auto& call : calls) call(result_);
  }

 private:
  Work work_;
  absl::Status result_of_work_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  absl::Status result_;
  std::vector<std::function<void(absl::Status)>> calls_;
};

LateDevice::LateDevice(unsigned seed) : cpu_(MakeCpuDevice()), random_(seed), thread_([this] { Run(); }) {}

LateDevice::~LateDevice() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    held_ = Holds::kNothing;
  }
  wake_.notify_all();
  thread_.join();
}

Event LateDevice::Later(Work work, bool copies) {
  auto job = std::make_shared<Job>(std::move(work), copies);
  {
    std::lock_guard lock(mutex_);
    asked_.push_back(job);
  }
  wake_.notify_all();
  return Event(job);
}

size_t LateDevice::Ready() {
  if (held_ == Holds::kAll) return 0;
  if (held_ == Holds::kNothing) return asked_.size();
  const auto others = std::partition(asked_.begin(), asked_.end(), [](const auto& job) { return job->copies; });
  return static_cast<size_t>(others - asked_.begin());
}

// A turn does one of what was asked, or completes one of what was done: by chance, so that events come in any order too.
void LateDevice::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    size_t ready = 0;
    const auto something = [&] {
      ready = Ready();
      return ready > 0 || (!done_.empty() && held_ != Holds::kAll) || (stop_ && asked_.empty());
    };
    wake_.wait(lock, something);
    if (ready == 0 && done_.empty()) return;
    if (ready > 0 && (done_.empty() || random_() % 2 == 0)) {
      std::swap(asked_[random_() % ready], asked_[ready - 1]);
      std::swap(asked_[ready - 1], asked_.back());
      const std::shared_ptr<Job> job = std::move(asked_.back());
      asked_.pop_back();
      done_.push_back(job);
      const absl::Status failure = failure_;
      lock.unlock();
      job->Do(failure);
    } else {
      const std::shared_ptr<Job> job = std::move(done_.front());
      done_.pop_front();
      lock.unlock();
      job->Complete();
    }
    std::this_thread::yield();  // whoever waits for the wrong thing, or for nothing, gets its chance
    lock.lock();
  }
}

absl::StatusOr<std::shared_ptr<DeviceMemory>> LateDevice::Allocate(uint64_t bytes, const AllocateOptions& options) {
  DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<DeviceMemory> real, cpu_->Allocate(bytes, options));
  return std::make_shared<LateMemory>(std::move(real));
}

absl::StatusOr<std::shared_ptr<DeviceMemory>> LateDevice::Import(ExportedHandle handle, std::string_view name) {
  if (handle.kind != ExportedHandle::Kind::kCudaVmm || handle.device_uuid != kUuid) {
    return MakeError(absl::StatusCode::kInvalidArgument, "not memory of this device",
                     {.object = std::string(name), .length = handle.bytes, .cause = "bad memory handle"});
  }
  handle.kind = ExportedHandle::Kind::kMemfd;
  handle.device_uuid = cpu_->uuid();
  DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<DeviceMemory> real, cpu_->Import(std::move(handle), name));
  return std::make_shared<LateMemory>(std::move(real));
}

absl::StatusOr<Event> LateDevice::Gather(DeviceMemory& to, DeviceMemory& from, std::span<const Fragment> fragments) {
  DEVMEM_RETURN_IF_ERROR(CheckFragments(to, from, fragments));
  if (&to != &from) {  // in place the sources would be poisoned too
    for (const Fragment& each : fragments) Poison({.memory = &to, .offset = each.destination, .bytes = each.bytes});
  }
  return Later([this, &to, &from, copy = Copy(fragments)] { return cpu_->Gather(Real(to), Real(from), copy); });
}

absl::StatusOr<Event> LateDevice::GatherCast(DeviceSpan to, DeviceMemory& from, std::span<const Fragment> fragments,
                                             const GatherCastSpec& spec) {
  DEVMEM_RETURN_IF_ERROR(CheckSpan(to, "a cast's destination"));
  Poison(to);
  return Later([this, to, &from, copy = Copy(fragments), spec] { return cpu_->GatherCast(Real(to), Real(from), copy, spec); });
}

absl::StatusOr<Event> LateDevice::GatherChecksum(DeviceMemory& to, DeviceMemory& from, std::span<const Fragment> fragments,
                                                 Checksum kind, std::span<uint64_t> sums) {
  DEVMEM_RETURN_IF_ERROR(CheckFragments(to, from, fragments));
  for (const Fragment& each : fragments) Poison({.memory = &to, .offset = each.destination, .bytes = each.bytes});
  std::ranges::fill(std::as_writable_bytes(sums), kPoison);
  return Later([this, &to, &from, copy = Copy(fragments), kind, sums] {
    return cpu_->GatherChecksum(Real(to), Real(from), copy, kind, sums);
  });
}

absl::StatusOr<Event> LateDevice::Cast(DeviceSpan to, DeviceSpan from, const CastSpec& spec) {
  DEVMEM_RETURN_IF_ERROR(CheckSpan(to, "a cast's destination"));
  DEVMEM_RETURN_IF_ERROR(CheckSpan(from, "a cast's source"));
  Poison(to);
  return Later([this, to, from, spec] { return cpu_->Cast(Real(to), Real(from), spec); });
}

absl::StatusOr<Event> LateDevice::Peek(std::span<const PeekPiece> pieces) {
  for (const PeekPiece& piece : pieces) {
    DEVMEM_RETURN_IF_ERROR(CheckSpan(piece.from, "a peek's source"));
    std::ranges::fill(piece.to, kPoison);
  }
  std::vector<PeekPiece> copy(pieces.begin(), pieces.end());
  for (PeekPiece& piece : copy) piece.from = Real(piece.from);
  return Later([this, copy = std::move(copy)] { return cpu_->Peek(copy); }, true);
}

absl::StatusOr<Event> LateDevice::Poke(std::span<const PokePiece> pieces) {
  for (const PokePiece& piece : pieces) {
    DEVMEM_RETURN_IF_ERROR(CheckSpan(piece.to, "a poke's destination"));
    Poison(piece.to);
  }
  std::vector<PokePiece> copy(pieces.begin(), pieces.end());
  for (PokePiece& piece : copy) piece.to = Real(piece.to);
  {
    std::lock_guard lock(mutex_);
    for (const PokePiece& piece : pieces) poked_bytes_ += piece.to.bytes;
  }
  return Later([this, copy = std::move(copy)] { return cpu_->Poke(copy); }, true);
}

absl::StatusOr<std::shared_ptr<DeviceMemory>> LateDevice::AllocateStaging(uint64_t bytes, std::string_view name) {
  {
    std::lock_guard lock(mutex_);
    staging_bytes_ += bytes;
  }
  return cpu_->AllocateStaging(bytes, name);
}

absl::StatusOr<Event> LateDevice::After(void* stream) {
  if (stream == nullptr) return Event();
  std::lock_guard lock(mutex_);
  if (finished_[stream]) return Event();
  return Event(streams_[stream].emplace_back(std::make_shared<Job>(nullptr, false)));
}

std::span<std::byte> LateDevice::Look(DeviceMemory& memory, uint64_t offset, uint64_t bytes) {
  return Real(memory).HostSpan(offset, bytes).value();
}

void LateDevice::Hold(Holds holds) {
  {
    std::lock_guard lock(mutex_);
    held_ = holds;
  }
  wake_.notify_all();
}

void LateDevice::FailWith(absl::Status status) {
  std::lock_guard lock(mutex_);
  failure_ = std::move(status);
}

void LateDevice::FinishStream(void* stream) {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    std::lock_guard lock(mutex_);
    finished_[stream] = true;
    const auto waiting = streams_.find(stream);
    if (waiting != streams_.end()) {
      jobs = std::move(waiting->second);
      streams_.erase(waiting);
    }
  }
  for (const auto& job : jobs) job->Complete();
}

size_t LateDevice::under_way() {
  std::lock_guard lock(mutex_);
  return asked_.size() + done_.size();
}

size_t LateDevice::computing() {
  std::lock_guard lock(mutex_);
  const auto computes = [](const auto& job) { return !job->copies; };
  return static_cast<size_t>(std::ranges::count_if(asked_, computes) + std::ranges::count_if(done_, computes));
}

uint64_t LateDevice::poked_bytes() {
  std::lock_guard lock(mutex_);
  return poked_bytes_;
}

uint64_t LateDevice::staging_bytes() {
  std::lock_guard lock(mutex_);
  return staging_bytes_;
}

}  // namespace devmem
