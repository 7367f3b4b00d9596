// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/memory.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "base/error.h"
#include "gpu/check.h"
#include "gpu/cuda/driver.h"
#include "gpu/cuda/error.h"

namespace devmem::cuda {
namespace {

std::string NameOf(int ordinal) { return "cuda:" + std::to_string(ordinal); }

// cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY say nothing of how much there is.
absl::Status AllocationError(absl::Status status, const std::string& object, uint64_t bytes) {
  if (status.ok() || status.code() != absl::StatusCode::kResourceExhausted) return status;
  size_t free = 0, total = 0;
  std::string message = "cannot allocate " + std::to_string(bytes) + " bytes of device memory";
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) {
    message += "; " + std::to_string(free) + " of " + std::to_string(total) + " bytes are free";
  }
  return MakeError(absl::StatusCode::kResourceExhausted, message,
                   {.object = object,
                    .length = bytes,
                    .cause = "not enough device memory",
                    .action = "ask for less prefetch memory or a smaller --landing-pool; nvidia-smi shows who has the rest"});
}

CUmemAllocationProp Properties(int ordinal, bool rdma) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = ordinal;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.allocFlags.gpuDirectRDMACapable = rdma ? 1 : 0;
  return properties;
}

class VmmMemory final : public Memory {
 public:
  enum class Use : uint8_t { kOwn, kForNic, kImported };
  VmmMemory(const Driver& driver, const Facts& facts, std::string name, Use use)
      : Memory(facts.ordinal),
        driver_(driver),
        uuid_(facts.uuid),
        name_(std::move(name)),
        dma_buf_(use == Use::kForNic),
        imported_(use == Use::kImported) {}
  VmmMemory(const VmmMemory&) = delete;
  VmmMemory& operator=(const VmmMemory&) = delete;
  ~VmmMemory() override { Undo(); }

  // Takes `handle`, also when it fails.
  absl::Status Map(CUmemGenericAllocationHandle handle, uint64_t bytes) {
    handle_ = handle;
    has_handle_ = true;
    const std::string what = "mapping " + std::to_string(bytes) + " bytes of device memory";
    DEVMEM_RETURN_IF_ERROR(ToStatus(driver_.MemAddressReserve(&address_, bytes, 0, 0, 0), what, {.object = name_}));
    bytes_ = bytes;
    DEVMEM_RETURN_IF_ERROR(ToStatus(driver_.MemMap(address_, bytes, 0, handle_, 0), what, {.object = name_, .length = bytes}));
    mapped_ = true;
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = ordinal();
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return ToStatus(driver_.MemSetAccess(address_, bytes, &access, 1), what, {.object = name_, .length = bytes});
  }

  uint64_t bytes() const override { return bytes_; }
  std::byte* address() const override { return reinterpret_cast<std::byte*>(address_); }
  std::optional<std::span<std::byte>> HostSpan(uint64_t, uint64_t) override { return std::nullopt; }

  absl::StatusOr<ExportedHandle> ExportHandle() override {
    int fd = -1;
    DEVMEM_RETURN_IF_ERROR(
        ToStatus(driver_.MemExportToShareableHandle(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                 "exporting device memory to another process", {.object = name_, .length = bytes_}));
    UniqueFd owned(fd);
    DEVMEM_RETURN_IF_ERROR(SetCloseOnExec(owned.get()));
    return ExportedHandle{.kind = ExportedHandle::Kind::kCudaVmm,
                          .version = ExportedHandle::kVersion,
                          .bytes = bytes_,
                          .device_uuid = uuid_,
                          .fd = std::move(owned)};
  }

  absl::StatusOr<UniqueFd> ExportDmaBuf() override {
    if (!dma_buf_) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, "memory was not allocated for a dma-buf",
          {.object = name_, .length = bytes_, .cause = "not exportable", .action = "allocate with dma_buf = true"});
    }
    // Through BAR1 first: on machines whose GPU has another way to the CPU (GB200), a NIC can only take that one.
    int fd = -1;
    CUresult error = driver_.MemGetHandleForAddressRange(&fd, address_, bytes_, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD,
                                                         CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE);
    if (error == CUDA_ERROR_INVALID_VALUE || error == CUDA_ERROR_NOT_SUPPORTED) {
      error = driver_.MemGetHandleForAddressRange(&fd, address_, bytes_, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0);
    }
    DEVMEM_RETURN_IF_ERROR(ToStatus(
        error, "making a dma-buf of device memory",
        {.object = name_,
         .length = bytes_,
         .action =
             "see that BAR1 (nvidia-smi -q -d MEMORY) is larger than the landing pool, or ask for a smaller --landing-pool"}));
    UniqueFd owned(fd);
    DEVMEM_RETURN_IF_ERROR(SetCloseOnExec(owned.get()));
    return owned;
  }

  void Retire() override { Undo(); }

 private:
  static absl::Status SetCloseOnExec(int fd);

  // In reverse. What came from another process may still be read by kernels of this one, and unmapping does not wait for them.
  // None of these can fail on what is ours but when the context is lost, and then it is gone anyway.
  void Undo() {
    if (mapped_ && imported_) {
      const KeepCurrent keep;
      (void)cudaSetDevice(ordinal());
      (void)cudaDeviceSynchronize();
    }
    if (std::exchange(mapped_, false)) (void)driver_.MemUnmap(address_, bytes_);
    if (std::exchange(has_handle_, false)) (void)driver_.MemRelease(handle_);
    if (address_ != 0) (void)driver_.MemAddressFree(std::exchange(address_, 0), bytes_);
  }

  const Driver& driver_;
  const std::string uuid_, name_;
  const bool dma_buf_, imported_;
  CUmemGenericAllocationHandle handle_ = 0;
  bool has_handle_ = false, mapped_ = false;
  CUdeviceptr address_ = 0;
  uint64_t bytes_ = 0;
};

absl::Status VmmMemory::SetCloseOnExec(int fd) {
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) return absl::OkStatus();
  return ErrnoError(errno, "fcntl of a handle of device memory");
}

class PlainMemory final : public Memory {
 public:
  PlainMemory(int ordinal, void* data, uint64_t bytes) : Memory(ordinal), data_(data), bytes_(bytes) {}
  PlainMemory(const PlainMemory&) = delete;
  PlainMemory& operator=(const PlainMemory&) = delete;
  ~PlainMemory() override { PlainMemory::Retire(); }
  uint64_t bytes() const override { return bytes_; }
  std::byte* address() const override { return static_cast<std::byte*>(data_); }
  std::optional<std::span<std::byte>> HostSpan(uint64_t, uint64_t) override { return std::nullopt; }
  absl::StatusOr<ExportedHandle> ExportHandle() override { return NotExportable("exportable"); }
  absl::StatusOr<UniqueFd> ExportDmaBuf() override { return NotExportable("dma_buf"); }
  void Retire() override { (void)cudaFree(std::exchange(data_, nullptr)); }

 private:
  absl::Status NotExportable(const std::string& option) const {
    return MakeError(absl::StatusCode::kFailedPrecondition, "memory was not allocated to be exported",
                     {.length = bytes_, .cause = "not exportable", .action = "allocate with " + option + " = true"});
  }
  void* data_;
  const uint64_t bytes_;
};

class PinnedMemory final : public Memory {
 public:
  PinnedMemory(int ordinal, void* data, uint64_t bytes, std::shared_ptr<PinnedRanges> ranges)
      : Memory(ordinal), data_(data), bytes_(bytes), ranges_(std::move(ranges)) {
    ranges_->Add(address(), bytes_);
  }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  ~PinnedMemory() override { PinnedMemory::Retire(); }
  uint64_t bytes() const override { return bytes_; }
  std::byte* address() const override { return static_cast<std::byte*>(data_); }
  std::optional<std::span<std::byte>> HostSpan(uint64_t offset, uint64_t length) override {
    if (!Inside(offset, length, bytes_)) return std::nullopt;
    return std::span<std::byte>(address() + offset, length);
  }
  absl::StatusOr<ExportedHandle> ExportHandle() override { return NotExportable(); }
  absl::StatusOr<UniqueFd> ExportDmaBuf() override { return NotExportable(); }
  void Retire() override {
    if (data_ == nullptr) return;
    ranges_->Remove(address());
    (void)cudaFreeHost(std::exchange(data_, nullptr));
  }

 private:
  absl::Status NotExportable() const {
    return MakeError(absl::StatusCode::kFailedPrecondition, "staging memory is not exported",
                     {.length = bytes_, .cause = "not exportable", .action = "report a bug with this message"});
  }
  void* data_;
  const uint64_t bytes_;
  const std::shared_ptr<PinnedRanges> ranges_;
};

}  // namespace

void PinnedRanges::Add(const std::byte* begin, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  ranges_[begin] = bytes;
}

void PinnedRanges::Remove(const std::byte* begin) {
  std::lock_guard lock(mutex_);
  ranges_.erase(begin);
}

bool PinnedRanges::Hold(std::span<const std::byte> range) const {
  if (range.empty()) return true;
  std::lock_guard lock(mutex_);
  auto after = ranges_.upper_bound(range.data());
  if (after == ranges_.begin()) return false;
  --after;
  return Inside(static_cast<uint64_t>(range.data() - after->first), range.size(), after->second);
}

absl::StatusOr<std::shared_ptr<Memory>> AllocateVmm(const Facts& facts, uint64_t bytes, const AllocateOptions& options) {
  DEVMEM_ASSIGN_OR_RETURN(const Driver* const driver, GetDriver());
  if (options.exportable) DEVMEM_RETURN_IF_ERROR(CanShare(facts));
  if (options.dma_buf) DEVMEM_RETURN_IF_ERROR(CanMakeDmaBuf(facts));
  if (options.dma_buf && facts.bar1_bytes != 0 && bytes > facts.bar1_bytes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted,
        "a NIC reaches device memory through BAR1, and that of " + NameOf(facts.ordinal) + " has " +
            std::to_string(facts.bar1_bytes) + " bytes",
        {.object = options.name,
         .length = bytes,
         .cause = "BAR1 too small",
         .action = "enable resizable BAR (above 4G decoding) in the firmware, or ask for a smaller --landing-pool"});
  }
  const CUmemAllocationProp properties = Properties(facts.ordinal, options.dma_buf);
  size_t granule = 0;
  DEVMEM_CUDA_RETURN(driver->MemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                     "asking for the granule of device memory");
  const uint64_t whole = (bytes + granule - 1) / granule * granule;
  CUmemGenericAllocationHandle handle = 0;
  DEVMEM_RETURN_IF_ERROR(AllocationError(ToStatus(driver->MemCreate(&handle, whole, &properties, 0), "allocating device memory",
                                                  {.object = options.name, .length = whole}),
                                         options.name, whole));
  auto memory = std::make_shared<VmmMemory>(*driver, facts, options.name,
                                            options.dma_buf ? VmmMemory::Use::kForNic : VmmMemory::Use::kOwn);
  DEVMEM_RETURN_IF_ERROR(memory->Map(handle, whole));
  return memory;
}

absl::StatusOr<std::shared_ptr<Memory>> AllocatePlain(const Facts& facts, uint64_t bytes, std::string_view name) {
  void* data = nullptr;
  DEVMEM_RETURN_IF_ERROR(AllocationError(ToStatus(cudaMalloc(&data, WholeUnits(bytes)), "allocating device memory",
                                                  {.object = std::string(name), .length = bytes}),
                                         std::string(name), bytes));
  return std::make_shared<PlainMemory>(facts.ordinal, data, bytes);
}

absl::StatusOr<std::shared_ptr<Memory>> AllocatePinned(int ordinal, uint64_t bytes, std::string_view name,
                                                       std::shared_ptr<PinnedRanges> ranges) {
  void* data = nullptr;
  DEVMEM_RETURN_IF_ERROR(ToStatus(cudaHostAlloc(&data, bytes, cudaHostAllocPortable), "pinning host memory",
                                  {.object = std::string(name),
                                   .length = bytes,
                                   .action = "raise the container's memory limit, or ask for fewer --workers"}));
  return std::make_shared<PinnedMemory>(ordinal, data, bytes, std::move(ranges));
}

absl::StatusOr<std::shared_ptr<Memory>> ImportVmm(const Facts& facts, ExportedHandle handle, std::string_view name) {
  const auto refuse = [&](const std::string& why) {
    return MakeError(absl::StatusCode::kInvalidArgument, "cannot map memory of another process: " + why,
                     {.object = std::string(name),
                      .length = handle.bytes,
                      .cause = "bad memory handle",
                      .action = "let daemon and trainer use the same GPU or MIG instance, and releases that fit"});
  };
  if (handle.kind != ExportedHandle::Kind::kCudaVmm) return refuse("it is no memory of a GPU");
  if (handle.version != ExportedHandle::kVersion) return refuse("its handle is of version " + std::to_string(handle.version));
  if (handle.device_uuid != facts.uuid) {
    return refuse("it lies on " + handle.device_uuid + ", and " + NameOf(facts.ordinal) + " of this process is " + facts.uuid);
  }
  if (handle.bytes == 0 || !handle.fd.valid()) return refuse("it is empty");
  DEVMEM_ASSIGN_OR_RETURN(const Driver* const driver, GetDriver());
  DEVMEM_RETURN_IF_ERROR(CanShare(facts));
  CUmemGenericAllocationHandle imported = 0;
  const CUresult error = driver->MemImportFromShareableHandle(
      &imported, reinterpret_cast<void*>(static_cast<intptr_t>(handle.fd.get())), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  // Drivers name a foreign descriptor in different ways.
  if (error == CUDA_ERROR_INVALID_VALUE || error == CUDA_ERROR_INVALID_HANDLE || error == CUDA_ERROR_INVALID_DEVICE ||
      error == CUDA_ERROR_OPERATING_SYSTEM || error == CUDA_ERROR_UNKNOWN) {
    return refuse("the file descriptor is no handle of device memory");
  }
  DEVMEM_RETURN_IF_ERROR(ToStatus(error, "importing device memory", {.object = std::string(name), .length = handle.bytes}));
  auto memory = std::make_shared<VmmMemory>(*driver, facts, std::string(name), VmmMemory::Use::kImported);
  if (absl::Status mapped = memory->Map(imported, handle.bytes); !mapped.ok()) {
    if (mapped.code() == absl::StatusCode::kInvalidArgument)
      return refuse("it is not of " + std::to_string(handle.bytes) + " bytes");
    return mapped;
  }
  return memory;
}

}  // namespace devmem::cuda
