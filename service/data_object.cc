// SPDX-License-Identifier: Apache-2.0
#include "service/data_object.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace devmem {

bool IsDataObject(std::string_view name) {
  if (name.empty() || name.ends_with('/')) return false;
  if (name.starts_with('.') || name.find("/.") != std::string_view::npos) return false;
  const std::string_view base = name.substr(name.rfind('/') + 1);  // npos + 1 is 0
  return base != "_SUCCESS" && !base.starts_with("_committed_") && !base.starts_with("_started_");
}

absl::StatusOr<std::vector<uint32_t>> Match(const ObjectTable& listing, std::span<const uint32_t> candidates, const Glob& glob,
                                            const KeepOn& keep_on) {
  constexpr size_t kNames = 16;  // of the longest a name and a glob can be, some 50 ms
  std::vector<uint32_t> matched;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (i % kNames == 0) DEVMEM_RETURN_IF_ERROR(keep_on());
    if (glob.Matches(listing[candidates[i]].name)) matched.push_back(candidates[i]);
  }
  return matched;
}

std::string Describe(const ObjectTable& listing, std::span<const uint32_t> candidates) {
  constexpr size_t kNamed = 5;
  std::string text = Counted(candidates.size(), "object");
  if (candidates.empty()) return text;
  text += " (";
  for (size_t i = 0; i < std::min(candidates.size(), kNamed); ++i) {
    if (i > 0) text += ", ";
    text.append(Printable(listing[candidates[i]].name));
  }
  text += candidates.size() > kNamed ? ", …)" : ")";
  return text;
}

}  // namespace devmem
