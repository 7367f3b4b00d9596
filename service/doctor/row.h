// SPDX-License-Identifier: Apache-2.0
// What one check of `devmem-loader doctor` came to: the value found, the value wanted, and the command that leads from one to
// the other. docs/doctor.md has a section for each check. Values; thread-safe.
//
//   rows.push_back(Fail("link", "eth0", {.found = "down", .wanted = "up", .fix = "ip link set eth0 up"}));
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem::doctor {

enum class Verdict : uint8_t {
  kPass,
  kWarn,  // zero-copy works, but slower or less safely than it could
  kFail,  // zero-copy does not work
  kSkip,  // not looked at; `found` says why
};

struct Row {
  std::string check;   // stable, for scripts: "header-split"
  std::string object;  // the interface, device or bucket it is about; empty: this machine
  Verdict verdict = Verdict::kSkip;
  std::string found;
  std::string wanted;
  std::string fix;  // a command, or what a person has to do; empty where there is nothing to do
  bool operator==(const Row&) const = default;
};
using Rows = std::vector<Row>;

struct Finding {
  std::string found, wanted, fix;
};

[[nodiscard]] inline Row MakeRow(Verdict verdict, std::string check, std::string object, Finding finding) {
  return {.check = std::move(check),
          .object = std::move(object),
          .verdict = verdict,
          .found = std::move(finding.found),
          .wanted = std::move(finding.wanted),
          .fix = verdict == Verdict::kPass ? "" : std::move(finding.fix)};
}
[[nodiscard]] inline Row Pass(std::string check, std::string object, Finding finding) {
  return MakeRow(Verdict::kPass, std::move(check), std::move(object), std::move(finding));
}
[[nodiscard]] inline Row Warn(std::string check, std::string object, Finding finding) {
  return MakeRow(Verdict::kWarn, std::move(check), std::move(object), std::move(finding));
}
[[nodiscard]] inline Row Fail(std::string check, std::string object, Finding finding) {
  return MakeRow(Verdict::kFail, std::move(check), std::move(object), std::move(finding));
}
[[nodiscard]] inline Row Skip(std::string check, std::string object, std::string why, std::string fix = "") {
  return MakeRow(Verdict::kSkip, std::move(check), std::move(object), {.found = std::move(why), .fix = std::move(fix)});
}

inline constexpr char kAsRoot[] = "run as root";

// An error's words without its object, which the row names, and its action, which is the row's fix.
[[nodiscard]] inline std::string Words(const absl::Status& status) {
  std::string text = Text(status);
  const ErrorInfo info = GetErrorInfo(status);
  if (!info.object.empty() && text.starts_with(info.object)) {
    if (const size_t colon = text.find(": ", info.object.size()); colon != std::string::npos) text.erase(0, colon + 2);
  }
  const std::string action = absl::StrCat("; ", info.action);
  if (!info.action.empty() && text.ends_with(action)) text.resize(text.size() - action.size());
  return text;
}

// What to do about an error.
[[nodiscard]] inline std::string FixOf(const absl::Status& status) {
  const std::string action = GetErrorInfo(status).action;
  return action.empty() ? "the words are the kernel's or the store's; dmesg may say more" : action;
}

// What could not be looked at: a SKIP where only the right to do so is missing, else a FAIL with the error's own words.
[[nodiscard]] inline Row Unseen(std::string check, std::string object, const absl::Status& status, std::string wanted) {
  if (absl::IsPermissionDenied(status)) return Skip(std::move(check), std::move(object), Words(status), kAsRoot);
  return Fail(std::move(check), std::move(object), {.found = Words(status), .wanted = std::move(wanted), .fix = FixOf(status)});
}

}  // namespace devmem::doctor
