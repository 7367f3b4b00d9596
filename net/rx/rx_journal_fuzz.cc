// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "net/rx/rx_journal.h"

// What is taken for a journal is written as it is understood, and understood the same again.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto journal = devmem::RxJournal::Parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!journal.ok()) return 0;
  const std::string text = journal->ToJson();
  const auto again = devmem::RxJournal::Parse(text);
  if (!again.ok() || again->ToJson() != text || !OfOneNic(*again, *again)) std::abort();
  return 0;
}
