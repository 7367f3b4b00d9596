// SPDX-License-Identifier: Apache-2.0
// The word a person probably meant: "--batchsize" -> "--batch-size". Pure function.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace devmem::cli {

// The candidate nearest to `word` by edit distance (a swap of neighbours counts one); empty if none is near: more than
// a third of the longer word would have to change.
[[nodiscard]] std::string Suggest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace devmem::cli
