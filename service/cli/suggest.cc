// SPDX-License-Identifier: Apache-2.0
#include "service/cli/suggest.h"

#include <algorithm>
#include <limits>

namespace devmem::cli {
namespace {

// Damerau's distance with neighbours swapped at most once ("optimal string alignment"), on three rows.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({change, last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

std::string_view Bare(std::string_view word) {
  while (!word.empty() && word[0] == '-') word.remove_prefix(1);
  return word;
}

}  // namespace

std::string Suggest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kLongestWord = 64;  // the distance is quadratic, and nobody mistypes a flag into an essay
  const std::string_view bare = Bare(word);
  if (bare.empty() || bare.size() > kLongestWord) return "";
  std::string best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  for (const std::string& candidate : candidates) {
    const std::string_view other = Bare(candidate);
    const size_t distance = Distance(bare, other);
    if (distance < best_distance && 3 * distance <= std::max(bare.size(), other.size())) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace devmem::cli
