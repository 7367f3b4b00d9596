// SPDX-License-Identifier: Apache-2.0
// Rows for people. Pure function.
#pragma once

#include <string>
#include <vector>

namespace devmem::cli {

// Columns as wide as their widest cell. Cells may hold others' text: they are made Printable().
[[nodiscard]] std::string TextTable(std::vector<std::vector<std::string>> rows);

}  // namespace devmem::cli
