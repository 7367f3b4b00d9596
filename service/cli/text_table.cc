// SPDX-License-Identifier: Apache-2.0
#include "service/cli/text_table.h"

#include <algorithm>

#include "base/text.h"

namespace devmem::cli {
namespace {

size_t Columns(std::string_view cell) {
  return static_cast<size_t>(std::count_if(cell.begin(), cell.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string TextTable(std::vector<std::vector<std::string>> rows) {
  std::vector<size_t> widths;
  for (auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = Printable(row[i], kShowAll);
      widths[i] = std::max(widths[i], Columns(row[i]));
    }
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] + 2 - Columns(row[i]), ' ');
    }
    text += '\n';
  }
  return text;
}

}  // namespace devmem::cli
