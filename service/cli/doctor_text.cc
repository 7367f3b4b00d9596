// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "service/cli/doctor_verb.h"
#include "service/cli/text_table.h"

namespace devmem::cli {
namespace {

using Json = nlohmann::ordered_json;
using doctor::Row;
using doctor::Rows;
using doctor::Verdict;

constexpr std::array<const char*, 4> kVerdicts = {"PASS", "WARN", "FAIL", "SKIP"};
const char* WordOf(Verdict verdict) { return kVerdicts.at(static_cast<size_t>(verdict)); }

std::array<size_t, kVerdicts.size()> Count(const Rows& rows) {
  std::array<size_t, kVerdicts.size()> counts{};
  for (const Row& row : rows) ++counts.at(static_cast<size_t>(row.verdict));
  return counts;
}

const std::string& OrDash(const std::string& text) {
  static const std::string kDash = "-";
  return text.empty() ? kDash : text;
}

// Control characters are the table's to replace; these lines stand beside it.
std::string Plain(const std::string& text) { return TextTable({{text}}); }

// Rows that were skipped, by the reason that they share, in the order of the first of each.
std::string SkippedText(const Rows& rows) {
  std::vector<std::pair<std::string, std::string>> reasons;  // and the checks
  for (const Row& row : rows) {
    if (row.verdict != Verdict::kSkip) continue;
    const std::string reason = row.fix.empty() ? row.found : absl::StrCat(row.found, " (", row.fix, ")");
    const std::string check = row.object.empty() ? row.check : absl::StrCat(row.check, " of ", row.object);
    const auto found =
        std::find_if(reasons.begin(), reasons.end(), [&reason](const auto& each) { return each.first == reason; });
    if (found == reasons.end()) {
      reasons.emplace_back(reason, check);
    } else {
      absl::StrAppend(&found->second, ", ", check);
    }
  }
  std::string text;
  for (const auto& [reason, checks] : reasons) absl::StrAppend(&text, "SKIP  ", Plain(absl::StrCat(checks, ": ", reason)));
  return text;
}

}  // namespace

std::string DoctorText(const Rows& rows) {
  // What was found may be a sentence: it comes last. What to do about it stands below its row.
  Rows looked_at;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(looked_at),
               [](const Row& row) { return row.verdict != Verdict::kSkip; });
  std::vector<std::vector<std::string>> cells = {{"", "CHECK", "ON", "FOUND"}};
  for (const Row& row : looked_at) cells.push_back({WordOf(row.verdict), row.check, OrDash(row.object), OrDash(row.found)});
  const std::vector<std::string> lines = absl::StrSplit(TextTable(std::move(cells)), '\n');
  std::string text = lines.front() + "\n";
  for (size_t i = 0; i < looked_at.size(); ++i) {
    absl::StrAppend(&text, lines[i + 1], "\n");
    const Row& row = looked_at[i];
    if (row.verdict == Verdict::kPass) continue;
    if (!row.wanted.empty()) absl::StrAppend(&text, "      wanted: ", Plain(row.wanted));
    if (!row.fix.empty()) absl::StrAppend(&text, "      fix:    ", Plain(row.fix));
  }
  text += SkippedText(rows);
  const auto counts = Count(rows);
  const size_t failed = counts.at(static_cast<size_t>(Verdict::kFail));
  absl::StrAppend(&text, "\n", counts[0], " PASS, ", counts[1], " WARN, ", counts[2], " FAIL, ", counts[3], " SKIP: ",
                  failed == 0 ? "nothing found that keeps this machine from receiving into device memory\n"
                              : "this machine cannot receive into device memory as it is\n");
  return text;
}

std::string DoctorJson(const Rows& rows) {
  Json all = Json::array();
  for (const Row& row : rows) {
    all.push_back({{"check", row.check},
                   {"object", row.object},
                   {"verdict", WordOf(row.verdict)},
                   {"found", row.found},
                   {"wanted", row.wanted},
                   {"fix", row.fix}});
  }
  Json counts;
  const auto counted = Count(rows);
  for (size_t i = 0; i < kVerdicts.size(); ++i) counts[kVerdicts.at(i)] = counted.at(i);
  const Json told = {{"healthy", counted.at(static_cast<size_t>(Verdict::kFail)) == 0}, {"counts", counts}, {"rows", all}};
  return told.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace devmem::cli
