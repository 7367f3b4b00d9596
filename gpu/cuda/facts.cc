// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/facts.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>

#include "base/error.h"
#include "gpu/cuda/driver.h"
#include "gpu/cuda/error.h"

namespace devmem::cuda {
namespace {

std::string UuidText(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    std::array<char, 3> hex{};
    (void)std::snprintf(hex.data(), hex.size(), "%02x", static_cast<unsigned>(static_cast<unsigned char>(uuid.bytes[i])));
    text += hex.data();
  }
  return text;
}

// The window of the GPU's memory is by far the largest of the six regions that "start end flags" lines begin with; which one it
// is has changed with the generations.
uint64_t Bar1Bytes(const std::string& pci) {
  std::ifstream file("/sys/bus/pci/devices/" + pci + "/resource");
  uint64_t largest = 0;
  std::string line;
  for (int region = 0; region < 6 && std::getline(file, line); ++region) {
    unsigned long long start = 0, end = 0;
    if (std::sscanf(line.c_str(), "%llx %llx", &start, &end) == 2 && end > start)
      largest = std::max<uint64_t>(largest, end - start + 1);
  }
  return largest;
}

std::string ModuleFlavour() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  if (!std::getline(file, line)) return {};
  return line.find("Open Kernel Module") != std::string::npos ? "open" : "proprietary";
}

}  // namespace

absl::StatusOr<Facts> AskGpu(int ordinal) {
  DEVMEM_ASSIGN_OR_RETURN(const Driver* const driver, GetDriver());
  Facts facts{.ordinal = ordinal};
  const std::string gpu = "cuda:" + std::to_string(ordinal);
  int count = 0;
  DEVMEM_RETURN_IF_ERROR(ToStatus(cudaGetDeviceCount(&count), "counting the GPUs", {.object = gpu}));
  if (ordinal < 0 || ordinal >= count) {
    return MakeError(absl::StatusCode::kNotFound,
                     "no " + gpu + ": this process has " + std::to_string(count) + (count == 1 ? " GPU" : " GPUs"),
                     {.object = gpu, .cause = "no such GPU", .action = "name one of those; CUDA_VISIBLE_DEVICES chooses them"});
  }
  cudaDeviceProp properties{};
  DEVMEM_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&properties, ordinal), "asking a GPU what it is", {.object = gpu}));
  facts.name = properties.name;
  facts.major = properties.major;
  facts.minor = properties.minor;
  facts.multiprocessors = properties.multiProcessorCount;
  facts.bytes = properties.totalGlobalMem;
  DEVMEM_CUDA_RETURN(cudaDriverGetVersion(&facts.driver), "asking for the driver's version");

  std::array<char, 32> pci{};
  DEVMEM_CUDA_RETURN(cudaDeviceGetPCIBusId(pci.data(), pci.size(), ordinal), "asking for a GPU's PCI address");
  facts.pci = pci.data();
  std::transform(facts.pci.begin(), facts.pci.end(), facts.pci.begin(), [](unsigned char c) { return std::tolower(c); });

  CUdevice device = 0;
  DEVMEM_CUDA_RETURN(driver->DeviceGet(&device, ordinal), "asking for a GPU");
  CUuuid uuid{};
  DEVMEM_CUDA_RETURN(driver->DeviceGetUuid(&uuid, device), "asking for a GPU's UUID");
  facts.uuid = UuidText(uuid);
  const auto has = [&](CUdevice_attribute attribute) {
    int value = 0;
    return driver->DeviceGetAttribute(&value, attribute, device) == CUDA_SUCCESS && value != 0;
  };
  facts.vmm = has(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
  facts.fd_handles = has(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
  facts.rdma = has(CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
  int ordering = CU_GPU_DIRECT_RDMA_WRITES_ORDERING_NONE;
  (void)driver->DeviceGetAttribute(&ordering, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING, device);
  facts.rdma_ordered = ordering >= CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER;
  facts.dma_buf = has(CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED);
  int mode = CU_COMPUTEMODE_DEFAULT;
  (void)driver->DeviceGetAttribute(&mode, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, device);
  facts.exclusive = mode == CU_COMPUTEMODE_EXCLUSIVE_PROCESS;
  facts.bar1_bytes = Bar1Bytes(facts.pci);
  facts.module = ModuleFlavour();
  return facts;
}

absl::Status CanShare(const Facts& facts) {
  const std::string gpu = "cuda:" + std::to_string(facts.ordinal);
  if (!facts.vmm || !facts.fd_handles) {
    return MakeError(
        absl::StatusCode::kUnimplemented,
        gpu + " (" + facts.name + ") has no " + (facts.vmm ? "memory handles by file descriptor" : "virtual memory management"),
        {.object = gpu,
         .cause = "no shareable memory",
         .action = "take a GPU and a Linux driver that have it (not WSL, not vGPU without it), or use --device cpu"});
  }
  if (facts.exclusive) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     gpu + " is in compute mode EXCLUSIVE_PROCESS: no trainer could use it beside the daemon",
                     {.object = gpu,
                      .cause = "exclusive compute mode",
                      .action = "set it to DEFAULT: nvidia-smi -i " + facts.pci + " -c 0"});
  }
  return absl::OkStatus();
}

absl::Status CanMakeDmaBuf(const Facts& facts) {
  const std::string gpu = "cuda:" + std::to_string(facts.ordinal);
  if (!facts.dma_buf) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition,
        gpu + " (" + facts.name + ") gives no dma-buf" +
            (facts.module.empty() ? "" : "; the NVIDIA kernel module loaded is the " + facts.module + " one"),
        {.object = gpu,
         .cause = "no dma-buf",
         .action = "load NVIDIA's open kernel module (nvidia-open, 515 or newer) on a kernel of 5.12 or newer; a MIG "
                   "instance and a vGPU have none"});
  }
  if (!facts.rdma) {
    return MakeError(absl::StatusCode::kFailedPrecondition, gpu + " (" + facts.name + ") lets no PCI device write its memory",
                     {.object = gpu,
                      .cause = "no GPUDirect RDMA",
                      .action = "take a data-centre or RTX professional GPU with GPUDirect RDMA"});
  }
  if (!facts.rdma_ordered) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition,
        gpu + " (" + facts.name + ") does not promise its kernels to see what a NIC wrote before",
        {.object = gpu,
         .cause = "RDMA writes not ordered",
         .action =
             "put GPU and NIC below one PCIe switch or root port of a platform that orders them, or use --transport copy"});
  }
  return absl::OkStatus();
}

}  // namespace devmem::cuda
