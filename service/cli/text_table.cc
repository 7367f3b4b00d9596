// SPDX-License-Identifier: Apache-2.0
#include "service/cli/text_table.h"

#include <algorithm>

namespace devmem::cli {

std::string TextTable(std::vector<std::vector<std::string>> rows) {
  std::vector<size_t> widths;
  for (auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      std::replace_if(
          row[i].begin(), row[i].end(), [](char c) { return (c >= 0 && c < ' ') || c == 0x7f; }, '?');
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      if (i + 1 < row.size()) row[i].resize(widths[i] + 2, ' ');
      text += row[i];
    }
    text += '\n';
  }
  return text;
}

}  // namespace devmem::cli
