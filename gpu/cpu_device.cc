// SPDX-License-Identifier: Apache-2.0
#include "gpu/cpu_device.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "base/error.h"
#include "gpu/cast.h"
#include "gpu/check.h"
#include "gpu/checksum.h"
#include "gpu/gather_cast.h"

// Newer than bookworm's headers; a kernel that does not know one answers EINVAL.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // 6.3
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // 5.14
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41  // 5.17
#define PR_SET_VMA_ANON_NAME 0
#endif

namespace devmem {
namespace {

// 1/64 of memory must stay free after an allocation: the kernel's own watermarks and everybody else live on it.
constexpr uint64_t kReserveDivisor = 64;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

struct HostMemory {
  uint64_t total = 0;
  uint64_t available = 0;
};

// From /proc/meminfo; nullopt where there is none (then only the kernel's answers count).
std::optional<HostMemory> ReadHostMemory() {
  std::ifstream file("/proc/meminfo");
  HostMemory memory;
  bool have_available = false;
  std::string line;
  while (std::getline(file, line)) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "MemTotal: %llu kB", &kib) == 1) memory.total = kib << 10;
    if (std::sscanf(line.c_str(), "MemAvailable: %llu kB", &kib) == 1) {
      memory.available = kib << 10;
      have_available = true;
    }
  }
  if (!have_available) return std::nullopt;
  return memory;
}

// Bytes that one udmabuf may have; known before memory is touched for it.
uint64_t LargestUdmabuf() {
  uint64_t mib = 0;
  std::ifstream("/sys/module/udmabuf/parameters/size_limit_mb") >> mib;
  return mib == 0 ? UINT64_MAX : mib << 20;
}

absl::Status OutOfMemory(const AllocateOptions& options, uint64_t bytes, std::string_view cause) {
  const std::optional<HostMemory> memory = ReadHostMemory();
  std::string message = "cannot allocate " + std::to_string(bytes) + " bytes of host memory";
  if (memory.has_value()) message += "; " + std::to_string(memory->available) + " bytes are available";
  return MakeError(absl::StatusCode::kResourceExhausted, message,
                   {.object = options.name,
                    .length = bytes,
                    .cause = std::string(cause),
                    .action = "ask for less prefetch memory or fewer streams, or free memory on this node"});
}

// ENOMEM and ENOSPC mean that memory is short; EFAULT is how MADV_POPULATE_WRITE says "touching this would be SIGBUS".
absl::Status AllocationError(int error_number, std::string_view what, const AllocateOptions& options, uint64_t bytes) {
  if (error_number == ENOMEM || error_number == ENOSPC || error_number == EFAULT) {
    return OutOfMemory(options, bytes, std::string(what) + ": " + std::strerror(error_number));
  }
  return ErrnoError(error_number, what, {.object = options.name, .length = bytes});
}

class CpuMemory final : public DeviceMemory {
 public:
  CpuMemory(std::string name, std::byte* data, uint64_t bytes, UniqueFd fd)
      : name_(std::move(name)), data_(data), bytes_(bytes), fd_(std::move(fd)) {}
  CpuMemory(const CpuMemory&) = delete;
  CpuMemory& operator=(const CpuMemory&) = delete;
  ~CpuMemory() override { ::munmap(data_, bytes_); }

  uint64_t bytes() const override { return bytes_; }
  std::byte* address() const override { return data_; }

  std::optional<std::span<std::byte>> HostSpan(uint64_t offset, uint64_t length) override {
    if (!Inside(offset, length, bytes_)) return std::nullopt;
    return std::span<std::byte>(data_ + offset, length);
  }

  absl::StatusOr<ExportedHandle> ExportHandle() override {
    if (!fd_.valid()) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, "memory was not allocated exportable",
          {.object = name_, .length = bytes_, .cause = "not exportable", .action = "allocate with exportable = true"});
    }
    // Opened anew rather than duplicated, so that offset and status flags are not shared with the other process; the
    // seals lie on the file and F_SEAL_SEAL keeps them. Without /proc a duplicate has to do.
    const std::string path = "/proc/self/fd/" + std::to_string(fd_.get());
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd.valid()) fd = UniqueFd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) return ErrnoError(errno, "cannot export memory", {.object = name_, .length = bytes_});
    return ExportedHandle{.kind = ExportedHandle::Kind::kMemfd,
                          .version = ExportedHandle::kVersion,
                          .bytes = bytes_,
                          .device_uuid = "cpu",
                          .fd = std::move(fd)};
  }

  absl::StatusOr<UniqueFd> ExportDmaBuf() override {
    if (!fd_.valid()) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, "memory was not allocated for a dma-buf",
          {.object = name_, .length = bytes_, .cause = "not exportable", .action = "allocate with dma_buf = true"});
    }
    const UniqueFd device(::open("/dev/udmabuf", O_RDWR | O_CLOEXEC));
    if (!device.valid()) {
      return ErrnoError(errno, "opening /dev/udmabuf",
                        {.object = name_,
                         .length = bytes_,
                         .cause = "no udmabuf",
                         .action = "load the udmabuf module (CONFIG_UDMABUF), and run as root or in its device's group"});
    }
    udmabuf_create create{
        .memfd = static_cast<uint32_t>(fd_.get()), .flags = UDMABUF_FLAGS_CLOEXEC, .offset = 0, .size = bytes_};
    UniqueFd buffer(::ioctl(device.get(), UDMABUF_CREATE, &create));
    if (!buffer.valid()) {
      return ErrnoError(
          errno, "making a dma-buf of memory (UDMABUF_CREATE)",
          {.object = name_,
           .length = bytes_,
           .cause = "udmabuf refused",
           .action = "raise /sys/module/udmabuf/parameters/size_limit_mb above it, or ask for a smaller --landing-pool"});
    }
    return buffer;
  }

  void Retire() override {
    // Both cannot fail on a valid range of ours, and there is nothing to be done if they did: destruction follows.
    if (fd_.valid()) {
      (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes_));
    } else {
      (void)::madvise(data_, bytes_, MADV_DONTNEED);
    }
  }

 private:
  const std::string name_;
  std::byte* const data_;
  const uint64_t bytes_;
  const UniqueFd fd_;  // invalid: anonymous memory
};

absl::StatusOr<UniqueFd> CreateMemfd(uint64_t bytes, const AllocateOptions& options) {
  const std::string name = "devmem-loader:" + options.name.substr(0, 200);  // the kernel takes 249 bytes
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (options.huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
  UniqueFd fd(::memfd_create(name.c_str(), flags | MFD_NOEXEC_SEAL));
  if (!fd.valid() && errno == EINVAL) fd = UniqueFd(::memfd_create(name.c_str(), flags));
  if (!fd.valid()) return ErrnoError(errno, "memfd_create", {.object = options.name, .length = bytes});
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return AllocationError(errno, "ftruncate", options, bytes);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoError(errno, "sealing a memfd", {.object = options.name, .length = bytes});
  }
  return fd;
}

// Touches every page such that too little memory is an error here and not SIGBUS or the OOM killer later.
absl::Status Prefault(int fd, std::byte* data, uint64_t bytes, const AllocateOptions& options) {
  int result = 0;
  do {
    result = ::madvise(data, bytes, MADV_POPULATE_WRITE);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return absl::OkStatus();
  if (errno != EINVAL) return AllocationError(errno, "populating memory", options, bytes);
  // Before 5.14. Reserving the memfd's pages first makes the touching safe.
  if (fd >= 0) {
    do {
      result = ::fallocate(fd, 0, 0, static_cast<off_t>(bytes));
    } while (result != 0 && errno == EINTR);
    if (result != 0) return AllocationError(errno, "fallocate", options, bytes);
  }
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  for (uint64_t offset = 0; offset < bytes; offset += page) {
    *reinterpret_cast<volatile std::byte*>(data + offset) = std::byte{0};
  }
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> HostAddress(DeviceSpan span, std::string_view what) {
  DEVMEM_RETURN_IF_ERROR(CheckSpan(span, what));
  auto host = span.memory->HostSpan(span.offset, span.bytes);
  if (!host.has_value()) {
    return MakeError(absl::StatusCode::kInvalidArgument, std::string(what) + " is memory of another device",
                     {.cause = "memory not readable by the CPU", .action = "report a bug with this message"});
  }
  return host->data();
}

class CpuDevice final : public Device {
 public:
  using Device::Peek;
  using Device::Poke;
  std::string_view name() const override { return "cpu"; }
  std::string_view uuid() const override { return "cpu"; }

  absl::StatusOr<std::shared_ptr<DeviceMemory>> Allocate(uint64_t bytes, const AllocateOptions& options) override {
    if (bytes == 0) {
      return MakeError(absl::StatusCode::kInvalidArgument, "cannot allocate 0 bytes",
                       {.object = options.name, .cause = "empty allocation", .action = "ask for at least 1 byte"});
    }
    if (const uint64_t most = options.dma_buf ? LargestUdmabuf() : UINT64_MAX; bytes > most) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       "udmabuf makes no dma-buf of more than " + std::to_string(most) + " bytes",
                       {.object = options.name,
                        .length = bytes,
                        .cause = "udmabuf limit",
                        .action = "raise /sys/module/udmabuf/parameters/size_limit_mb, or ask for a smaller --landing-pool"});
    }
    // Linux overcommits: mmap() and ftruncate() succeed for what will never be there, and filling memory to the last
    // page wakes the OOM killer before any call fails.
    const std::optional<HostMemory> memory = ReadHostMemory();
    if (options.huge_pages) {
      // Not part of what is available: set aside, and refused by mmap() when there are too few.
    } else if (memory.has_value()) {
      const uint64_t reserve = memory->total / kReserveDivisor;
      if (memory->available < reserve || bytes > memory->available - reserve) {
        return OutOfMemory(options, bytes, "not enough memory available");
      }
    } else if (bytes > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
      return OutOfMemory(options, bytes, "larger than any file");
    }

    if (options.dma_buf || options.huge_pages) {
      const uint64_t unit = options.huge_pages ? kHugePage : static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
      bytes = (bytes + unit - 1) / unit * unit;
    }
    UniqueFd fd;
    const bool shared = options.exportable || options.dma_buf || options.huge_pages;
    if (shared) {
      DEVMEM_ASSIGN_OR_RETURN(fd, CreateMemfd(bytes, options));
    }
    void* address = shared ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0)
                           : ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED && options.huge_pages && errno == ENOMEM) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       "there are no " + std::to_string(bytes / kHugePage) + " free huge pages of 2 MiB",
                       {.object = options.name,
                        .length = bytes,
                        .cause = "too few huge pages",
                        .action = "set them aside with sysctl vm.nr_hugepages"});
    }
    if (address == MAP_FAILED) return AllocationError(errno, "mmap", options, bytes);
    auto* data = static_cast<std::byte*>(address);
    const int raw_fd = fd.get();
    auto result = std::make_shared<CpuMemory>(options.name, data, bytes, std::move(fd));
    (void)::madvise(data, bytes, MADV_HUGEPAGE);  // a hint: kernels without it, or with it off, are fine
    if (!shared) {
      const std::string label = "devmem-loader:" + options.name.substr(0, 60);  // the kernel takes 79 bytes
      (void)::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, data, bytes, label.c_str());
    }
    if (options.prefault) DEVMEM_RETURN_IF_ERROR(Prefault(raw_fd, data, bytes, options));
    return std::shared_ptr<DeviceMemory>(std::move(result));
  }

  absl::StatusOr<std::shared_ptr<DeviceMemory>> Import(ExportedHandle handle, std::string_view name) override {
    const auto refuse = [&](const std::string& why) {
      return MakeError(absl::StatusCode::kInvalidArgument, "not memory of this device: " + why,
                       {.object = std::string(name),
                        .length = handle.bytes,
                        .cause = "bad memory handle",
                        .action = "allocate it anew in this process"});
    };
    if (handle.kind != ExportedHandle::Kind::kMemfd || handle.version != ExportedHandle::kVersion) {
      return refuse("of another kind or version");
    }
    if (handle.device_uuid != uuid()) return refuse("of device " + handle.device_uuid);
    // Without these seals the other process could shrink it, and touching it would be SIGBUS.
    constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (const int seals = ::fcntl(handle.fd.get(), F_GET_SEALS); seals < 0 || (seals & kSealed) != kSealed) {
      return refuse("no sealed memfd");
    }
    struct stat file {};
    if (::fstat(handle.fd.get(), &file) != 0) return ErrnoError(errno, "fstat of a memfd", {.object = std::string(name)});
    if (handle.bytes == 0 || file.st_size < 0 || static_cast<uint64_t>(file.st_size) != handle.bytes) {
      return refuse("it has " + std::to_string(file.st_size) + " bytes");
    }
    void* const address = ::mmap(nullptr, handle.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, handle.fd.get(), 0);
    if (address == MAP_FAILED) {
      return ErrnoError(errno, "mapping memory of another process", {.object = std::string(name), .length = handle.bytes});
    }
    (void)::madvise(address, handle.bytes, MADV_HUGEPAGE);  // as in Allocate()
    return std::make_shared<CpuMemory>(std::string(name), static_cast<std::byte*>(address), handle.bytes, std::move(handle.fd));
  }

  absl::StatusOr<Event> Gather(DeviceMemory& destination, DeviceMemory& source, std::span<const Fragment> fragments) override {
    DEVMEM_RETURN_IF_ERROR(CheckFragments(destination, source, fragments));
    DEVMEM_ASSIGN_OR_RETURN(std::byte* const to, HostAddress({&destination, 0, destination.bytes()}, "gather's destination"));
    DEVMEM_ASSIGN_OR_RETURN(const std::byte* const from, HostAddress({&source, 0, source.bytes()}, "gather's source"));
    // In the order given and with memmove: compaction in place reads each byte before it is overwritten.
    for (const Fragment& fragment : fragments) {
      std::memmove(to + fragment.destination, from + fragment.source, fragment.bytes);
    }
    return Event();
  }

  absl::StatusOr<Event> GatherCast(DeviceSpan destination, DeviceMemory& source, std::span<const Fragment> fragments,
                                   const GatherCastSpec& spec) override {
    DEVMEM_RETURN_IF_ERROR(CheckGatherCast(spec, fragments, source.bytes(), destination.bytes));
    DEVMEM_ASSIGN_OR_RETURN(std::byte* const to, HostAddress(destination, "a cast's destination"));
    DEVMEM_ASSIGN_OR_RETURN(const std::byte* const from, HostAddress({&source, 0, source.bytes()}, "gather's source"));
    GatherCastElements(spec, fragments, from, to);
    return Event();
  }

  absl::StatusOr<Event> GatherChecksum(DeviceMemory& destination, DeviceMemory& source, std::span<const Fragment> fragments,
                                       Checksum kind, std::span<uint64_t> sums) override {
    DEVMEM_RETURN_IF_ERROR(CheckSums(fragments, sums));
    DEVMEM_ASSIGN_OR_RETURN(const Event moved, Gather(destination, source, fragments));
    DEVMEM_ASSIGN_OR_RETURN(const std::byte* const from, HostAddress({&source, 0, source.bytes()}, "gather's source"));
    for (size_t i = 0; i < fragments.size(); ++i) {
      sums[i] = ChecksumOf(kind, {from + fragments[i].source, fragments[i].bytes});
    }
    return moved;
  }

  absl::StatusOr<Event> Cast(DeviceSpan destination, DeviceSpan source, const CastSpec& spec) override {
    const auto describe = [&spec] { return std::string(Name(spec.from)) + " to " + std::string(Name(spec.to)); };
    if (!CanCast(spec)) {
      return MakeError(
          absl::StatusCode::kInvalidArgument, "no cast from " + describe() + " with scale " + std::to_string(spec.scale),
          {.cause = "unsupported cast", .action = "cast to float16, bfloat16, float32 or float64 with a finite scale"});
    }
    const auto fits = [&spec](DType dtype, uint64_t bytes) { return spec.count <= bytes / ItemSize(dtype); };
    if (!fits(spec.from, source.bytes)) return RangeError("a cast's source", 0, spec.count, source.bytes);
    if (!fits(spec.to, destination.bytes)) return RangeError("a cast's destination", 0, spec.count, destination.bytes);
    DEVMEM_ASSIGN_OR_RETURN(const std::byte* const from, HostAddress(source, "a cast's source"));
    DEVMEM_ASSIGN_OR_RETURN(std::byte* const to, HostAddress(destination, "a cast's destination"));
    if (spec.count == 0) return Event();
    if (from < to + (spec.count * ItemSize(spec.to)) && to < from + (spec.count * ItemSize(spec.from))) {
      return MakeError(
          absl::StatusCode::kInvalidArgument, "cast from " + describe() + " onto itself",
          {.offset = source.offset, .length = source.bytes, .cause = "overlapping cast", .action = "cast from staging memory"});
    }
    CastElements(spec, from, to);
    return Event();
  }

  absl::StatusOr<Event> Peek(std::span<const PeekPiece> pieces) override {
    for (const PeekPiece& piece : pieces) {
      DEVMEM_RETURN_IF_ERROR(CheckSameSize(piece.to.size(), piece.from.bytes));
      DEVMEM_ASSIGN_OR_RETURN(const std::byte* const from, HostAddress(piece.from, "a peek's source"));
      if (!piece.to.empty()) std::memcpy(piece.to.data(), from, piece.to.size());
    }
    return Event();
  }

  absl::StatusOr<Event> Poke(std::span<const PokePiece> pieces) override {
    for (const PokePiece& piece : pieces) {
      DEVMEM_RETURN_IF_ERROR(CheckSameSize(piece.from.size(), piece.to.bytes));
      DEVMEM_ASSIGN_OR_RETURN(std::byte* const to, HostAddress(piece.to, "a poke's destination"));
      if (!piece.from.empty()) std::memcpy(to, piece.from.data(), piece.from.size());
    }
    return Event();
  }

  absl::StatusOr<std::shared_ptr<DeviceMemory>> AllocateStaging(uint64_t bytes, std::string_view name) override {
    return Allocate(bytes, {.name = std::string(name)});
  }

  absl::StatusOr<Event> After(void* /*stream*/) override { return Event(); }
};

}  // namespace

std::unique_ptr<Device> MakeCpuDevice() { return std::make_unique<CpuDevice>(); }

}  // namespace devmem
