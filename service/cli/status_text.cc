// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "service/cli/cursor_text.h"
#include "service/cli/data_path_json.h"
#include "service/cli/status_verb.h"
#include "service/cli/text_table.h"
#include "service/cli/values.h"

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;
using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

Json StallJson(const v1::Stall& stall) {
  return {{"trainer", static_cast<double>(stall.trainer()) / 1e6},
          {"network", static_cast<double>(stall.network()) / 1e6},
          {"first_byte", static_cast<double>(stall.first_byte()) / 1e6},
          {"device", static_cast<double>(stall.device()) / 1e6},
          {"memory", static_cast<double>(stall.memory()) / 1e6}};
}

Json StreamJson(const v1::StreamStatus& stream) {
  const v1::StreamStatistics& statistics = stream.statistics();
  return {{"stream_id", stream.stream_id()},
          {"bucket", stream.bucket()},
          {"peer_pid", stream.peer_pid()},
          {"peer_uid", stream.peer_uid()},
          {"path", stream.path().name()},
          {"path_reason", stream.path().reason()},
          {"slab_bytes", stream.slab_bytes()},
          {"slots", stream.slots()},
          {"slots_held", stream.slots_held()},
          {"rank", stream.rank()},
          {"world_size", stream.world_size()},
          {"epoch", stream.cursor().epoch()},
          {"position", stream.cursor().position()},
          {"cursor", CursorText(stream.cursor())},
          {"batches", statistics.batches()},
          {"samples", statistics.samples()},
          {"bytes", statistics.bytes()},
          {"bytes_received", statistics.bytes_received()},
          {"bytes_copied", statistics.bytes_copied()},
          {"requests", statistics.requests()},
          {"retries", statistics.retries()},
          {"skipped_samples", statistics.skipped_samples()},
          {"first_batch_ms", statistics.first_batch_ms()},
          {"stalls", StallJson(statistics.stall())}};
}

Json StreamsArray(const v1::GetNodeStatusResponse& node) {
  Json streams = Json::array();
  for (const auto& stream : node.streams()) streams.push_back(StreamJson(stream));
  return streams;
}

}  // namespace

std::string StreamsText(const v1::GetNodeStatusResponse& node) {
  if (node.streams_size() == 0) return "No streams.\n";
  std::vector<std::vector<std::string>> rows = {
      {"STREAM", "PID", "UID", "RANK", "PATH", "EPOCH", "BATCHES", "SKIPPED", "BYTES", "SLAB", "HELD", "BUCKET"}};
  for (const auto& stream : node.streams()) {
    rows.push_back({stream.stream_id(), absl::StrCat(stream.peer_pid()), absl::StrCat(stream.peer_uid()),
                    absl::StrCat(stream.rank(), "/", stream.world_size()), stream.path().name(),
                    absl::StrCat(stream.cursor().epoch()), absl::StrCat(stream.statistics().batches()),
                    absl::StrCat(stream.statistics().skipped_samples()), FormatSize(stream.statistics().bytes()),
                    FormatSize(stream.slab_bytes()), absl::StrCat(stream.slots_held(), "/", stream.slots()), stream.bucket()});
  }
  return TextTable(std::move(rows));
}

std::string StreamsJson(const v1::GetNodeStatusResponse& node) { return Dump({{"streams", StreamsArray(node)}}); }

std::string StatusText(const v1::GetNodeStatusResponse& node) {
  std::vector<std::vector<std::string>> rows = {
      {"version", absl::StrCat(node.version(), ", API ", node.api_version())},
      {"state", node.draining() ? "draining" : "serving"},
      {"pid", absl::StrCat(node.pid())},
      {"up", FormatSeconds(static_cast<double>(node.uptime_seconds()))},
      {"streams", absl::StrCat(node.streams_size())},
      {"workers", absl::StrCat(node.workers())},
  };
  for (const auto& path : node.paths()) rows.push_back({"path", absl::StrCat(path.name(), " (", path.reason(), ")")});
  for (const auto& device : node.devices()) rows.push_back({"device", device});
  for (const auto& pool : node.pools()) {
    rows.push_back(
        {"memory", absl::StrCat(pool.name(), ": ", FormatSize(pool.bytes_used()), " of ", FormatSize(pool.bytes_limit()))});
  }
  if (node.kept_slabs_size() > 0) {
    uint64_t bytes = 0;
    for (const auto& kept : node.kept_slabs()) bytes += kept.bytes();
    rows.push_back({"kept", absl::StrCat(node.kept_slabs_size(), node.kept_slabs_size() == 1 ? " slab" : " slabs",
                                         " of failed streams, of which trainers hold batches: ", FormatSize(bytes))});
  }
  if (!node.memory_limit_source().empty()) rows.push_back({"memory limit", node.memory_limit_source()});
  for (const auto& library : node.library_versions())
    rows.push_back({"library", absl::StrCat(library.first, " ", library.second)});
  return TextTable(std::move(rows));
}

std::string StatusJson(const v1::GetNodeStatusResponse& node) {
  Json json = {{"version", node.version()},
               {"api_version", node.api_version()},
               {"pid", node.pid()},
               {"uptime_seconds", node.uptime_seconds()},
               {"draining", node.draining()},
               {"workers", node.workers()},
               {"paths", Json::array()},
               {"devices", Json::array()},
               {"pools", Json::array()},
               {"kept_slabs", Json::array()},
               {"memory_limit_source", node.memory_limit_source()},
               {"library_versions", Json::object()},
               {"streams", StreamsArray(node)}};
  for (const auto& path : node.paths()) {
    Json entry = {{"name", path.name()}, {"reason", path.reason()}};
    if (Json devmem = DataPathJson(path); !devmem.is_null()) entry["devmem"] = std::move(devmem);
    json["paths"].push_back(std::move(entry));
  }
  for (const auto& device : node.devices()) json["devices"].push_back(device);
  for (const auto& pool : node.pools()) {
    json["pools"].push_back({{"name", pool.name()}, {"bytes_used", pool.bytes_used()}, {"bytes_limit", pool.bytes_limit()}});
  }
  for (const auto& kept : node.kept_slabs()) {
    json["kept_slabs"].push_back({{"stream_id", kept.stream_id()},
                                  {"bucket", kept.bucket()},
                                  {"peer_pid", kept.peer_pid()},
                                  {"peer_uid", kept.peer_uid()},
                                  {"bytes", kept.bytes()},
                                  {"kept_seconds", kept.kept_seconds()}});
  }
  for (const auto& library : node.library_versions()) json["library_versions"][library.first] = library.second;
  return Dump(json);
}

}  // namespace devmem::cli
