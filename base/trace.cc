// SPDX-License-Identifier: Apache-2.0
#include "base/trace.h"

#ifdef DEVMEM_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace devmem {

#ifdef DEVMEM_NVTX
namespace {

nvtxDomainHandle_t Domain() {
  static const nvtxDomainHandle_t domain = nvtxDomainCreateA("devmem-loader");
  return domain;
}

}  // namespace

TraceRange::TraceRange(const char* name) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  (void)nvtxDomainRangePushEx(Domain(), &attributes);
}
TraceRange::~TraceRange() { (void)nvtxDomainRangePop(Domain()); }
#else
TraceRange::TraceRange(const char* /*name*/) {}
TraceRange::~TraceRange() = default;
#endif

}  // namespace devmem
