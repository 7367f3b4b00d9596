// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gpu/cuda/driver.h"
#include "gpu/cuda/facts.h"

namespace devmem::cuda {
namespace {

using testing::HasSubstr;

TEST(CudaError, SaysWhatToDo) {
  struct Case {
    cudaError_t error;
    absl::StatusCode code;
    const char* words;
  };
  const Case cases[] = {
      {cudaErrorMemoryAllocation, absl::StatusCode::kResourceExhausted, "nvidia-smi"},
      {cudaErrorInsufficientDriver, absl::StatusCode::kFailedPrecondition, "install an NVIDIA driver"},
      {cudaErrorNoDevice, absl::StatusCode::kNotFound, "CUDA_VISIBLE_DEVICES"},
      {cudaErrorDevicesUnavailable, absl::StatusCode::kUnavailable, "exclusive mode"},
      {cudaErrorSystemNotReady, absl::StatusCode::kUnavailable, "fabricmanager"},
      {cudaErrorNoKernelImageForDevice, absl::StatusCode::kUnimplemented, "8.0, 9.0, 10.0"},
      {cudaErrorECCUncorrectable, absl::StatusCode::kDataLoss, "drain this node"},
      {cudaErrorIllegalAddress, absl::StatusCode::kInternal, "Xid"},
  };
  EXPECT_TRUE(ToStatus(cudaSuccess, "x").ok());
  EXPECT_TRUE(ToStatus(CUDA_SUCCESS, "x").ok());
  for (const Case& c : cases) {
    const absl::Status status = ToStatus(c.error, "gathering", {.object = "slab 3"});
    EXPECT_EQ(status.code(), c.code) << c.words;
    EXPECT_THAT(Text(status), testing::AllOf(HasSubstr("gathering"), HasSubstr("slab 3"), HasSubstr(c.words),
                                             HasSubstr(cudaGetErrorName(c.error))));
    // The driver's numbers are the runtime's.
    EXPECT_EQ(ToStatus(static_cast<CUresult>(c.error), "gathering").code(), c.code) << c.words;
  }
}

TEST(CudaError, ABetterActionStays) {
  const absl::Status status = ToStatus(CUDA_ERROR_NOT_SUPPORTED, "making a dma-buf", {.action = "load the open module"});
  EXPECT_EQ(GetErrorInfo(status).action, "load the open module");
}

TEST(Facts, LacksAreNamedWithTheirCure) {
  const Facts good{.ordinal = 1,
                   .name = "NVIDIA H200",
                   .pci = "0000:3b:00.0",
                   .vmm = true,
                   .fd_handles = true,
                   .rdma = true,
                   .rdma_ordered = true,
                   .dma_buf = true,
                   .module = "open"};
  EXPECT_TRUE(CanShare(good).ok());
  EXPECT_TRUE(CanMakeDmaBuf(good).ok());
  Facts facts = good;
  facts.vmm = false;
  EXPECT_THAT(Text(CanShare(facts)), HasSubstr("cuda:1 (NVIDIA H200) has no virtual memory management"));
  facts = good;
  facts.exclusive = true;
  EXPECT_THAT(Text(CanShare(facts)),
              testing::AllOf(HasSubstr("EXCLUSIVE_PROCESS"), HasSubstr("nvidia-smi -i 0000:3b:00.0 -c 0")));
  facts = good;
  facts.dma_buf = false;
  facts.module = "proprietary";
  EXPECT_THAT(Text(CanMakeDmaBuf(facts)), testing::AllOf(HasSubstr("the proprietary one"), HasSubstr("open kernel module")));
  facts = good;
  facts.rdma = false;
  EXPECT_THAT(Text(CanMakeDmaBuf(facts)), HasSubstr("GPUDirect RDMA"));
  facts = good;
  facts.rdma_ordered = false;
  EXPECT_THAT(Text(CanMakeDmaBuf(facts)), HasSubstr("--transport copy"));
}

// On a machine without a GPU, which is where this test matters most.
TEST(Driver, ItsAbsenceIsAnErrorAndNoCrash) {
  const auto driver = GetDriver();
  if (driver.ok()) GTEST_SKIP() << "this machine has a CUDA driver";
  EXPECT_EQ(driver.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(driver.status()), testing::StartsWith("cuda: no driver"));
  EXPECT_THAT(Text(AskGpu(0).status()), testing::StartsWith("cuda: no driver"));
}

}  // namespace
}  // namespace devmem::cuda
