// SPDX-License-Identifier: Apache-2.0
#include "service/stream_counters.h"

namespace devmem {

StreamTotals& StreamTotals::operator+=(const StreamCounters& counters) {
  for (size_t path = 0; path < kBytePaths; ++path) {
    for (size_t format = 0; format < kFormats; ++format) {
      const StreamCounters::Delivered& from = counters.delivered[path][format];
      Delivered& to = delivered[path][format];
      to.batches += from.batches.get();
      to.samples += from.samples.get();
      to.bytes += from.bytes.get();
    }
    for (size_t store = 0; store < kStoreKinds; ++store) {
      received_bytes[path][store] += counters.received_bytes[path][store].get();
    }
  }
  skipped_samples += counters.skipped_samples.get();
  for (size_t cause = 0; cause < kStallCauses; ++cause) stall_microseconds[cause] += counters.stall_microseconds[cause].get();
  // Those that came back first: one that is taken and given back between the two must not make more back than taken.
  credits_back += counters.credits_back.get();
  credits_taken += counters.credits_taken.get();
  batch += counters.batch;
  for (size_t store = 0; store < kStoreKinds; ++store) {
    requests[store] += counters.requests[store].get();
    for (size_t code = 0; code < kStatusCodes; ++code) errors[store][code] += counters.errors[store][code].get();
    range[store] += counters.range[store];
  }
  return *this;
}

}  // namespace devmem
