// SPDX-License-Identifier: Apache-2.0
#include "service/cli/summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/text.h"
#include "service/cli/cursor_text.h"
#include "service/cli/data_path_json.h"
#include "service/cli/values.h"

namespace devmem::cli {
namespace {

using Json = nlohmann::ordered_json;
using devmem_loader::v1::Stall;

std::array<std::pair<const char*, uint64_t>, 5> Parts(const Stall& stall) {
  return {{{"trainer", stall.trainer()},
           {"network", stall.network()},
           {"first_byte", stall.first_byte()},
           {"device", stall.device()},
           {"memory", stall.memory()}}};
}

// Six significant digits: what a clock can give, and JSON without 0.30000000000000004.
double Rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return 0;
  const double scale = std::pow(10.0, 5 - std::floor(std::log10(std::fabs(value))));
  return std::round(value * scale) / scale;
}

double Rate(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

std::optional<double> CpuPerGb(const Summary& summary) {
  if (summary.bytes == 0) return std::nullopt;
  return summary.cpu_seconds / (static_cast<double>(summary.bytes) / 1e9);
}

std::optional<double> Amplification(const Summary& summary) {
  if (!summary.statistics || summary.statistics->bytes() == 0) return std::nullopt;
  return static_cast<double>(summary.statistics->bytes_received()) / static_cast<double>(summary.statistics->bytes());
}

Json OrNull(const std::optional<double>& value) { return value ? Json(Rounded(*value)) : Json(nullptr); }

Json ErrorObject(const absl::Status& status) {
  const ErrorInfo info = GetErrorInfo(status);
  std::string cause;
  info.cause.AppendTo(cause);
  return {{"code", CodeName(status.code())}, {"message", Text(status)},   {"object", info.object},
          {"offset", info.offset},           {"length", info.length},     {"fault", Name(info.fault)},
          {"scope", Name(info.scope)},       {"cause", std::move(cause)}, {"action", info.action}};
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string Printed(const char* format, double value) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

void Line(std::string* out, std::string_view name, const std::string& value) {
  std::string left(name);
  left.resize(16, ' ');
  absl::StrAppend(out, "  ", left, value, "\n");
}

}  // namespace

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

std::string TopStall(const Stall& stall, double seconds) {
  const auto parts = Parts(stall);
  const auto top =
      std::max_element(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const double share = Rate(static_cast<double>(top->second) / 1e6, seconds);
  if (share < 0.01) return "";
  return absl::StrCat(top->first, " ", std::lround(std::min(share, 1.0) * 100), "%");
}

std::string SummaryJson(const Summary& summary) {
  Json json;
  if (!summary.status.ok()) json["error"] = ErrorObject(summary.status);
  json["path"] = summary.path;
  json["path_reason"] = summary.path_reason;
  json["samples"] = summary.samples;
  json["padding"] = summary.padding;
  json["batches"] = summary.batches;
  json["epochs"] = summary.epochs;
  json["bytes"] = summary.bytes;
  json["seconds"] = Rounded(summary.seconds);
  json["open_seconds"] = Rounded(summary.open_seconds);
  json["gb_per_s"] = Rounded(Rate(static_cast<double>(summary.bytes) / 1e9, summary.seconds));
  json["samples_per_s"] = Rounded(Rate(static_cast<double>(summary.samples), summary.seconds));
  json["batches_per_s"] = Rounded(Rate(static_cast<double>(summary.batches), summary.seconds));
  json["cpu_s"] = Rounded(summary.cpu_seconds);
  json["cpu_s_per_gb"] = OrNull(CpuPerGb(summary));
  json["cpu_includes_daemon"] = summary.cpu_includes_daemon;
  json["first_batch_ms"] = OrNull(summary.first_batch_ms);
  json["longest_gap_ms"] = OrNull(summary.longest_gap_ms);
  json["peak_rss_mib"] = Rounded(summary.peak_rss_mib);
  if (!summary.service.empty()) {
    json["service"] = summary.service;
    json["daemon_peak_rss_mib"] = OrNull(summary.daemon_peak_rss_mib);
  }
  const auto& statistics = summary.statistics;
  json["requests"] = statistics ? Json(statistics->requests()) : Json(nullptr);
  json["bytes_received"] = statistics ? Json(statistics->bytes_received()) : Json(nullptr);
  json["bytes_copied"] = statistics ? Json(statistics->bytes_copied()) : Json(nullptr);
  if (Json devmem = DataPathJson(summary.data_path); !devmem.is_null()) json["devmem"] = std::move(devmem);
  json["amplification"] = OrNull(Amplification(summary));
  json["retries"] = statistics ? Json(statistics->retries()) : Json(nullptr);
  json["reconnects"] = summary.reconnects;
  for (const auto& part : Parts(summary.stalls)) json["stalls"][part.first] = static_cast<double>(part.second) / 1e6;
  json["skipped"] = summary.skipped_objects + summary.skipped_samples;
  json["skipped_objects"] = summary.skipped_objects;
  json["skipped_samples"] = summary.skipped_samples;
  json["skipped_list"] = Json::array();
  for (const Summary::Skipped& skipped : summary.skipped) {
    Json entry = {{"object", skipped.object}};
    if (skipped.sample) entry["sample"] = *skipped.sample;
    entry["cause"] = skipped.cause;
    json["skipped_list"].push_back(std::move(entry));
  }
  json["warnings"] = summary.warnings;
  if (summary.interrupted) json["interrupted"] = true;
  json["cursor"] = summary.stream_id.empty() ? Json(nullptr) : Json(CursorText(summary.cursor));
  json["fingerprint"] = summary.stream_id.empty() ? Json(nullptr) : Json(FingerprintText(summary.cursor.listing_fingerprint()));
  json["stream_id"] = summary.stream_id;
  return Dump(json);
}

std::string ErrorJson(const absl::Status& status) { return Dump({{"error", ErrorObject(status)}}); }

std::string SummaryText(const Summary& summary) {
  if (summary.stream_id.empty() && (summary.interrupted || !summary.status.ok())) {  // figures of nothing are all zero
    return summary.interrupted ? "Interrupted before the stream was open.\n" : "Failed before the stream was open.\n";
  }
  std::string out = summary.interrupted   ? "Interrupted; until then:\n"
                    : summary.status.ok() ? "Done:\n"
                                          : "Failed; until then:\n";
  // First: whoever reads nothing else should see that not all of the data came.
  if (summary.skipped_objects + summary.skipped_samples > 0) {
    std::string skipped;
    if (summary.skipped_objects > 0) skipped = absl::StrCat(Counted(summary.skipped_objects, "object"), " whole");
    if (summary.skipped_samples > 0) {
      absl::StrAppend(&skipped, skipped.empty() ? "" : ", ", Counted(summary.skipped_samples, "sample"));
    }
    Line(&out, "SKIPPED", skipped);
  }
  if (!summary.path.empty()) Line(&out, "path", absl::StrCat(summary.path, " (", summary.path_reason, ")"));
  Line(&out, "delivered",
       absl::StrCat(Counted(summary.samples, "sample"),
                    summary.padding > 0 ? absl::StrCat(" (", summary.padding, " padding)") : "", ", ",
                    Counted(summary.batches, "batch", "batches"), ", ", Counted(summary.epochs, "epoch"), ", ",
                    FormatSize(summary.bytes), " in ", FormatSeconds(summary.seconds)));
  Line(&out, "rate",
       absl::StrCat(Printed("%.3f GB/s", Rate(static_cast<double>(summary.bytes) / 1e9, summary.seconds)), ", ",
                    Printed("%.0f samples/s", Rate(static_cast<double>(summary.samples), summary.seconds))));
  constexpr uint64_t kTells = 1'000'000;  // of less, what starting costs would be all of it
  if (auto cpu = CpuPerGb(summary); cpu && summary.bytes >= kTells) {
    Line(&out, "CPU",
         absl::StrCat(Printed("%.3f s per GB", *cpu),
                      summary.cpu_includes_daemon ? ", daemon included" : ", without the daemon"));
  }
  if (summary.first_batch_ms) Line(&out, "first batch", FormatSeconds(*summary.first_batch_ms / 1000));
  Line(&out, "peak memory",
       absl::StrCat(Printed("%.0f MiB", summary.peak_rss_mib),
                    summary.daemon_peak_rss_mib ? Printed(", daemon %.0f MiB", *summary.daemon_peak_rss_mib) : ""));
  if (summary.statistics) {
    auto amplification = Amplification(summary);
    Line(&out, "requests",
         absl::StrCat(summary.statistics->requests(), amplification ? Printed(", amplification %.3f", *amplification) : "",
                      ", ", Counted(summary.statistics->retries(), "retry", "retries")));
  }
  if (summary.data_path.nics_size() > 0 && summary.statistics) {
    const auto& counters = summary.data_path.counters();
    Line(&out, "zero copy",
         absl::StrCat(FormatSize(summary.statistics->bytes_received() - summary.statistics->bytes_copied()),
                      " by NIC and device, ", Counted(summary.statistics->bytes_copied(), "byte"), " copied by the CPU, ",
                      Counted(counters.tokens_outstanding(), "token"), " outstanding"));
    if (counters.connections_fallen_back() > 0) {
      Line(&out, "fell back",
           absl::StrCat(Counted(counters.connections_fallen_back(), "connection"),
                        " of the daemon; last: ", counters.last_fall_back()));
    }
  }
  if (summary.reconnects > 0) {
    Line(&out, "reconnects",
         summary.longest_gap_ms
             ? absl::StrCat(summary.reconnects, ", longest gap ", FormatSeconds(*summary.longest_gap_ms / 1000))
             : absl::StrCat(summary.reconnects));
  }
  std::string stalls;
  for (const auto& part : Parts(summary.stalls)) {
    if (part.second == 0) continue;
    absl::StrAppend(&stalls, stalls.empty() ? "" : ", ", part.first, " ",
                    FormatSeconds(static_cast<double>(part.second) / 1e6));
  }
  Line(&out, "stalls", stalls.empty() ? "none" : stalls);
  if (!summary.stream_id.empty()) {
    Line(&out, "cursor", CursorText(summary.cursor));
    Line(&out, "fingerprint", FingerprintText(summary.cursor.listing_fingerprint()));
  }
  return out;
}

}  // namespace devmem::cli
