// SPDX-License-Identifier: Apache-2.0
// As much of CUDA as gpu/cuda/ uses, on the CPU: for machines without a GPU, where all of the CUDA device but the silicon can
// be tested.
//
//   - A stream is a thread that does what it is given in order, later. An event is complete when the stream comes to it.
//   - Kernels run lane by lane (gpu/simt/), from their own source.
//   - Device memory is a memfd mapped here, so that another process can import it; device memory that was freed is unmapped, so
//   that a kernel
//     that still uses it dies.
//   - What CUDA refuses is refused: memory of 2 MiB granules, handles of a wrong size, work on freed streams.
//
// Linked in place of the CUDA runtime and of gpu/cuda/launch.cu.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "gpu/cuda/launch.h"
#include "gpu/kernels/cast_kernels.h"
#include "gpu/kernels/checksum_tables.h"
#include "gpu/kernels/gather.h"
#include "gpu/kernels/gather_checksum.h"
#include "gpu/simt/simt.h"

namespace {

constexpr size_t kGranule = 2 << 20;
constexpr int kMultiprocessors = 2;

[[noreturn]] void Misuse(const char* what) {
  std::fprintf(stderr, "fake_cuda: %s\n", what);
  std::abort();
}

// --- streams and events -------------------------------------------------------------------------------------------

class Stream {
 public:
  Stream() : thread_([this] { Run(); }) {}
  ~Stream() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void Push(std::function<void()> work) {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    wake_.notify_all();
  }
  void Synchronize() {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    Push([&] {
      std::lock_guard lock(mutex);
      done = true;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      std::this_thread::yield();  // later, as a GPU would
      work();
      lock.lock();
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::thread thread_;
};

struct FakeEvent {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t asked = 0, reached = 0;
};

Stream& DefaultStream() {
  static auto* const stream = new Stream;
  return *stream;
}
Stream& Of(cudaStream_t stream) { return stream == nullptr ? DefaultStream() : *reinterpret_cast<Stream*>(stream); }

// --- memory -------------------------------------------------------------------------------------------------------

struct Physical {
  int fd;
  size_t bytes;
  bool rdma;
};
std::mutex memory_mutex;
std::map<void*, size_t> mapped;  // plain and pinned

cudaError_t MapPlain(void** address, size_t bytes) {
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::memset(data, 0xdd, bytes);  // whatever was there before
  std::lock_guard lock(memory_mutex);
  mapped[data] = bytes;
  *address = data;
  return cudaSuccess;
}
cudaError_t UnmapPlain(void* address) {
  if (address == nullptr) return cudaSuccess;
  std::lock_guard lock(memory_mutex);
  const auto found = mapped.find(address);
  if (found == mapped.end()) Misuse("freeing what was not allocated");
  (void)::munmap(address, found->second);
  mapped.erase(found);
  return cudaSuccess;
}

CUresult GetErrorName(CUresult error, const char** text) {
  *text = cudaGetErrorName(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}
CUresult CtxGetCurrent(CUcontext* context) {
  *context = nullptr;
  return CUDA_SUCCESS;
}
CUresult CtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult DeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult DeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
      *value = CU_COMPUTEMODE_DEFAULT;
      break;
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING:
      *value = CU_GPU_DIRECT_RDMA_WRITES_ORDERING_ALL_DEVICES;
      break;
    default:
      *value = 1;
  }
  return CUDA_SUCCESS;
}
CUresult DeviceGetUuid(CUuuid* uuid, CUdevice) {
  std::memset(uuid->bytes, 0x5a, sizeof(uuid->bytes));
  return CUDA_SUCCESS;
}
CUresult MemGetAllocationGranularity(size_t* granule, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *granule = kGranule;
  return CUDA_SUCCESS;
}
CUresult MemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* properties,
                   unsigned long long) {  // NOLINT: CUDA's
  if (bytes % kGranule != 0) return CUDA_ERROR_INVALID_VALUE;
  const int fd = ::memfd_create("fake-cuda", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle =
      reinterpret_cast<CUmemGenericAllocationHandle>(new Physical{fd, bytes, properties->allocFlags.gpuDirectRDMACapable != 0});
  return CUDA_SUCCESS;
}
CUresult MemRelease(CUmemGenericAllocationHandle handle) {
  auto* const physical = reinterpret_cast<Physical*>(handle);
  (void)::close(physical->fd);
  delete physical;
  return CUDA_SUCCESS;
}
CUresult MemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {  // NOLINT: CUDA's
  void* const data = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(data);
  return CUDA_SUCCESS;
}
CUresult MemAddressFree(CUdeviceptr address, size_t bytes) {
  (void)::munmap(reinterpret_cast<void*>(address), bytes);
  return CUDA_SUCCESS;
}
std::map<CUdeviceptr, const Physical*> vmm;
CUresult MemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                unsigned long long) {  // NOLINT: CUDA's
  const auto* const physical = reinterpret_cast<const Physical*>(handle);
  if (bytes != physical->bytes || offset != 0) return CUDA_ERROR_INVALID_VALUE;
  void* const data = ::mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, physical->fd, 0);
  if (data == MAP_FAILED) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard lock(memory_mutex);
  vmm[address] = physical;
  return CUDA_SUCCESS;
}
CUresult MemUnmap(CUdeviceptr address, size_t bytes) {
  (void)::mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  std::lock_guard lock(memory_mutex);
  vmm.erase(address);
  return CUDA_SUCCESS;
}
CUresult MemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc*, size_t) {
  if (::mprotect(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE) != 0) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}
CUresult MemExportToShareableHandle(void* fd, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType,
                                    unsigned long long) {  // NOLINT: CUDA's
  *static_cast<int*>(fd) = ::dup(reinterpret_cast<const Physical*>(handle)->fd);
  return CUDA_SUCCESS;
}
CUresult MemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* fd, CUmemAllocationHandleType) {
  struct stat file {};
  const int copy = ::dup(static_cast<int>(reinterpret_cast<intptr_t>(fd)));
  if (copy < 0 || ::fstat(copy, &file) != 0 || file.st_size == 0) {
    (void)::close(copy);
    return CUDA_ERROR_INVALID_VALUE;
  }
  *handle = reinterpret_cast<CUmemGenericAllocationHandle>(new Physical{copy, static_cast<size_t>(file.st_size), false});
  return CUDA_SUCCESS;
}
// Refuses the mapping through PCIe, as older drivers do, so that the other one is tried.
CUresult MemGetHandleForAddressRange(void* fd, CUdeviceptr address, size_t bytes, CUmemRangeHandleType,
                                     unsigned long long flags) {  // NOLINT: CUDA's
  if (flags != 0) return CUDA_ERROR_NOT_SUPPORTED;
  std::lock_guard lock(memory_mutex);
  const auto found = vmm.find(address);
  if (found == vmm.end() || found->second->bytes != bytes || !found->second->rdma) return CUDA_ERROR_INVALID_VALUE;
  *static_cast<int*>(fd) = ::dup(found->second->fd);
  return CUDA_SUCCESS;
}

}  // namespace

// --- the runtime's functions --------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "fake";
}
const char* cudaGetErrorString(cudaError_t) { return "fake"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,  // NOLINT: CUDA's
                                             cudaDriverEntryPointQueryResult* result) {
  static const std::map<std::string, void*> functions = {
      {"cuGetErrorName", reinterpret_cast<void*>(GetErrorName)},
      {"cuGetErrorString", reinterpret_cast<void*>(GetErrorName)},
      {"cuCtxGetCurrent", reinterpret_cast<void*>(CtxGetCurrent)},
      {"cuCtxSetCurrent", reinterpret_cast<void*>(CtxSetCurrent)},
      {"cuDeviceGet", reinterpret_cast<void*>(DeviceGet)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(DeviceGetAttribute)},
      {"cuDeviceGetUuid", reinterpret_cast<void*>(DeviceGetUuid)},
      {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(MemGetAllocationGranularity)},
      {"cuMemCreate", reinterpret_cast<void*>(MemCreate)},
      {"cuMemRelease", reinterpret_cast<void*>(MemRelease)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(MemAddressReserve)},
      {"cuMemAddressFree", reinterpret_cast<void*>(MemAddressFree)},
      {"cuMemMap", reinterpret_cast<void*>(MemMap)},
      {"cuMemUnmap", reinterpret_cast<void*>(MemUnmap)},
      {"cuMemSetAccess", reinterpret_cast<void*>(MemSetAccess)},
      {"cuMemExportToShareableHandle", reinterpret_cast<void*>(MemExportToShareableHandle)},
      {"cuMemImportFromShareableHandle", reinterpret_cast<void*>(MemImportFromShareableHandle)},
      {"cuMemGetHandleForAddressRange", reinterpret_cast<void*>(MemGetHandleForAddressRange)},
  };
  const auto found = functions.find(symbol);
  *function = found == functions.end() ? nullptr : found->second;
  *result = *function == nullptr ? cudaDriverEntryPointSymbolNotFound : cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "fake");
  properties->major = 9;
  properties->multiProcessorCount = kMultiprocessors;
  properties->totalGlobalMem = size_t{16} << 30;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* address, int bytes, int) {
  (void)std::snprintf(address, static_cast<size_t>(bytes), "FFFF:00:00.0");
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = 123456;
  *total = size_t{16} << 30;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<Stream*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Of(stream).Synchronize();
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new FakeEvent);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<FakeEvent*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  auto* const event = reinterpret_cast<FakeEvent*>(handle);
  uint64_t turn = 0;
  {
    std::lock_guard lock(event->mutex);
    turn = ++event->asked;
  }
  Of(stream).Push([event, turn] {
    std::lock_guard lock(event->mutex);
    event->reached = turn;
    event->changed.notify_all();
  });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  auto* const event = reinterpret_cast<FakeEvent*>(handle);
  std::unique_lock lock(event->mutex);
  event->changed.wait(lock, [&] { return event->reached == event->asked; });
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t bytes) { return MapPlain(address, bytes); }
cudaError_t cudaFree(void* address) { return UnmapPlain(address); }
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) { return MapPlain(address, bytes); }
cudaError_t cudaFreeHost(void* address) { return UnmapPlain(address); }
cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) { return MapPlain(address, bytes); }
cudaError_t cudaFreeAsync(void* address, cudaStream_t stream) {
  Of(stream).Push([address] { (void)UnmapPlain(address); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream) {
  Of(stream).Push([=] { std::memset(address, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Of(stream).Push([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

// --- launches -----------------------------------------------------------------------------------------------------

namespace devmem::cuda {
namespace {

uint32_t BlocksFor(uint64_t warps) { return static_cast<uint32_t>((warps + kBlockWarps - 1) / kBlockWarps); }

template <typename Crc>
void Checksum(const ChecksumTask& task, uint32_t blocks) {
  const auto shared = std::make_unique<lane::ChecksumTables<Crc>>();
  simt::Launch({.blocks = blocks}, [&] { lane::ChecksumBody<Crc>(task, shared.get()); });
}
template <typename Crc>
void Sums(const SumsTask& task) {
  simt::Launch({.blocks = static_cast<uint32_t>((task.run_count + kBlockThreads - 1) / kBlockThreads)},
               [&] { lane::SumsBody<Crc>(task); });
}
template <typename Crc>
std::vector<uint8_t> Tables() {
  const auto tables = MakeChecksumTables<Crc>();
  const auto* const bytes = reinterpret_cast<const uint8_t*>(tables.get());
  return {bytes, bytes + sizeof(*tables)};
}

}  // namespace

cudaError_t PrepareKernels() { return cudaSuccess; }
cudaError_t LaunchGather(const GatherTask& task, cudaStream_t stream) {
  Of(stream).Push([task] { simt::Launch({.blocks = BlocksFor(task.count)}, [&] { lane::GatherBody(task); }); });
  return cudaSuccess;
}
cudaError_t LaunchGather(const InlineGatherTask& task, cudaStream_t stream) {
  Of(stream).Push([task] { simt::Launch({.blocks = BlocksFor(task.count)}, [&] { lane::InlineGatherBody(task); }); });
  return cudaSuccess;
}
cudaError_t LaunchCast(const CastPath& path, const CastTask& task, cudaStream_t stream) {
  Of(stream).Push([=] {
    lane::CastConstants shared;
    WithCastKernel(path, task, [&](auto kernel) {
      simt::Launch({.blocks = BlocksFor(task.count)}, [&] { decltype(kernel)::Body(task, &shared); });
    });
  });
  return cudaSuccess;
}
cudaError_t LaunchChecksum(CrcKind kind, const ChecksumTask& task, uint32_t blocks, cudaStream_t stream) {
  blocks = std::min(blocks, BlocksFor(task.count));
  Of(stream).Push([=] { kind == CrcKind::kCrc32c ? Checksum<Crc32c>(task, blocks) : Checksum<Crc64Nvme>(task, blocks); });
  return cudaSuccess;
}
cudaError_t LaunchSums(CrcKind kind, const SumsTask& task, cudaStream_t stream) {
  Of(stream).Push([=] { kind == CrcKind::kCrc32c ? Sums<Crc32c>(task) : Sums<Crc64Nvme>(task); });
  return cudaSuccess;
}
cudaError_t ChecksumBlocks(CrcKind, int* blocks) {
  *blocks = 2;
  return cudaSuccess;
}
std::vector<uint8_t> TablesOf(CrcKind kind) { return kind == CrcKind::kCrc32c ? Tables<Crc32c>() : Tables<Crc64Nvme>(); }

}  // namespace devmem::cuda
