// SPDX-License-Identifier: Apache-2.0
// With an injection of our own in a profiler's place, which NVTX asks for at its first call.
#include "base/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#ifdef DEVMEM_NVTX
#include <nvtx3/nvToolsExt.h>

namespace {

std::vector<std::string>& Seen() {
  static std::vector<std::string> seen;
  return seen;
}
nvtxDomainHandle_t NVTX_API CreateDomain(const char* name) {
  Seen().push_back(std::string("domain ") + name);
  return reinterpret_cast<nvtxDomainHandle_t>(&Seen());
}
int NVTX_API Push(nvtxDomainHandle_t, const nvtxEventAttributes_t* attributes) {
  Seen().push_back(std::string("+") + attributes->message.ascii);
  return 0;
}
int NVTX_API Pop(nvtxDomainHandle_t) {
  Seen().emplace_back("-");
  return 0;
}

int NVTX_API Inject(NvtxGetExportTableFunc_t get_table) {
  const auto* const callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
  *table[NVTX_CBID_CORE2_DomainCreateA] = reinterpret_cast<NvtxFunctionPointer>(CreateDomain);
  *table[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(Push);
  *table[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(Pop);
  return 1;
}

}  // namespace

namespace devmem {
namespace {

TEST(TraceRange, AProfilerSeesRangesNested) {
  InitializeInjectionNvtx2_fnptr = Inject;
  {
    const TraceRange outer("open");
    const TraceRange inner("gather");
  }
  EXPECT_THAT(Seen(), testing::ElementsAre("domain devmem-loader", "+open", "+gather", "-", "-"));
}

}  // namespace
}  // namespace devmem
#else
TEST(TraceRange, WithoutTheHeadersNothing) { const devmem::TraceRange range("open"); }
#endif
