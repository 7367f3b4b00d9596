// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/store.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/text.h"
#include "net/netlink/route.h"
#include "net/uri.h"
#include "service/access.h"
#include "service/doctor/resolve.h"

namespace devmem::doctor {
namespace {

constexpr int kReads = 5;

std::string Milliseconds(Duration duration) {
  const auto tenths = std::chrono::duration_cast<std::chrono::microseconds>(duration).count() / 100;
  return absl::StrCat(tenths / 10, ".", tenths % 10, " ms");
}

void FindRoute(StoreFacts& facts, Time deadline) {
  const auto find = [&]() -> absl::Status {
    DEVMEM_ASSIGN_OR_RETURN(const PayloadRequest request, facts.store->PrepareGet(facts.largest.empty() ? "x" : facts.largest));
    facts.by_wire = request.file_path.empty();
    if (!facts.by_wire) return absl::OkStatus();
    DEVMEM_ASSIGN_OR_RETURN(const SocketAddress address, ResolveFirst(request.host, request.port, deadline));
    DEVMEM_ASSIGN_OR_RETURN(const Route route, RouteTo(reinterpret_cast<const sockaddr*>(&address.storage), address.length));
    facts.route = route.interface;
    facts.local = route.local;
    if (auto devices = PhysicalDevices(route.interface); devices.ok()) facts.devices = *std::move(devices);
    return absl::OkStatus();
  };
  facts.routed = find();
}

void MeasureReads(StoreFacts& facts, Time deadline) {
  for (int i = 0; i < kReads && facts.read.ok(); ++i) {
    std::array<SmallRead, 1> reads;
    reads[0].object = facts.largest;
    reads[0].length = 1;
    const Time before = Clock::now();
    facts.read = facts.store->ReadSmall(reads, 1, deadline, nullptr);
    if (facts.read.ok()) facts.read = reads[0].status;
    if (facts.read.ok()) facts.latency = std::min(facts.latency.value_or(Duration::max()), Clock::now() - before);
  }
}

Row StoreRow(const StoreFacts& facts) {
  const std::string wanted = "a store that lists the bucket";
  if (!facts.listed.ok()) {
    return Fail("store", facts.uri, {.found = Words(facts.listed), .wanted = wanted, .fix = FixOf(facts.listed)});
  }
  Finding finding{
      .found = Counted(facts.objects, "object"), .wanted = wanted, .fix = "put objects below that URI, or correct it"};
  return MakeRow(facts.objects > 0 ? Verdict::kPass : Verdict::kWarn, "store", facts.uri, std::move(finding));
}

Row LatencyRow(const StoreFacts& facts, Duration slow) {
  const std::string wanted = absl::StrCat("a first byte within ", Milliseconds(slow), ", connection included");
  if (!facts.listed.ok() || facts.objects == 0) return Skip("latency", facts.uri, "there is no object to read");
  if (!facts.read.ok()) {
    return Fail("latency", facts.uri, {.found = Words(facts.read), .wanted = wanted, .fix = FixOf(facts.read)});
  }
  Finding finding{.found = absl::StrCat(Milliseconds(*facts.latency), ", the shortest of ", kReads),
                  .wanted = wanted,
                  .fix = "a store nearer by, or a larger --prefetch to cover it"};
  return MakeRow(*facts.latency <= slow ? Verdict::kPass : Verdict::kWarn, "latency", facts.uri, std::move(finding));
}

Row RouteRow(const StoreFacts& facts, const std::vector<std::string>& nics) {
  const std::string wanted = "a route by a NIC that can be bound";
  if (facts.store == nullptr) return Skip("route", facts.uri, "the bucket cannot be opened");
  if (facts.routed.ok() && !facts.by_wire) {
    return Warn("route", facts.uri,
                {.found = "files of this host come over no wire",
                 .wanted = wanted,
                 .fix = "zero-copy needs a store over the network: http:// or s3://"});
  }
  if (!facts.routed.ok()) {
    return Fail("route", facts.uri, {.found = Words(facts.routed), .wanted = wanted, .fix = FixOf(facts.routed)});
  }
  const bool by_nic = std::any_of(facts.devices.begin(), facts.devices.end(), [&nics](const std::string& device) {
    return std::find(nics.begin(), nics.end(), device) != nics.end();
  });
  Finding finding{.found = absl::StrCat("by ", facts.route, facts.local ? ", for the store is this host itself" : ""),
                  .wanted = nics.empty() ? wanted : absl::StrCat("by ", absl::StrJoin(nics, " or ")),
                  .fix = "ip route get ADDRESS tells why; --interface names another NIC"};
  if (by_nic && !facts.local) return Pass("route", facts.uri, std::move(finding));
  finding.found += ": its payload would be copied";
  return Warn("route", facts.uri, std::move(finding));
}

Row CredentialsRow(const StoreFacts& facts) {
  if (!facts.uri.starts_with("s3://")) return Skip("credentials", facts.uri, "only s3:// has some");
  Finding finding{
      .found = facts.credentials.empty() ? "none" : absl::StrCat(absl::StrJoin(facts.credentials, ", "), " (not shown)"),
      .wanted = "a key with its secret, or none",
      .fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY both, or neither"};
  if (!facts.half_credentials) return Pass("credentials", facts.uri, std::move(finding));
  finding.found += ": half of a pair";
  return Warn("credentials", facts.uri, std::move(finding));
}

}  // namespace

std::vector<std::string> FindCredentials(const GetEnvironment& environment) {
  const auto set = [&environment](const char* name) {
    const char* const value = environment(name);
    return value != nullptr && *value != '\0';
  };
  std::vector<std::string> found;
  for (const char* name :
       {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"}) {
    if (set(name)) found.emplace_back(name);
  }
  const std::string file = set("AWS_SHARED_CREDENTIALS_FILE") ? environment("AWS_SHARED_CREDENTIALS_FILE")
                           : set("HOME")                      ? absl::StrCat(environment("HOME"), "/.aws/credentials")
                                                              : "";
  std::error_code error;
  if (!file.empty() && std::filesystem::exists(file, error)) found.push_back(file);
  return found;
}

StoreFacts LookAtStore(const StoreQuestion& question) {
  StoreFacts facts{.uri = question.uri};
  facts.credentials = FindCredentials([](const char* name) -> const char* { return std::getenv(name); });
  const auto has = [&facts](const char* name) {
    return std::find(facts.credentials.begin(), facts.credentials.end(), name) != facts.credentials.end();
  };
  facts.half_credentials = has("AWS_ACCESS_KEY_ID") != has("AWS_SECRET_ACCESS_KEY");
  facts.uri = BucketForLog(question.uri);
  auto opened = OpenStore(question.uri, {.endpoint_url = question.endpoint_url,
                                         .connect_timeout = question.timeout,
                                         .request_timeout = question.timeout,
                                         .max_retries = 0});
  if (!opened.ok()) {
    facts.listed = opened.status();
    return facts;
  }
  facts.store = *std::move(opened);
  const absl::StatusOr<ObjectTable> objects = facts.store->List(Clock::now() + question.timeout, nullptr);
  facts.listed = objects.status();
  if (objects.ok()) {
    facts.objects = objects->size();
    for (size_t i = 0; i < objects->size(); ++i) {
      if ((*objects)[i].size <= facts.largest_bytes) continue;
      facts.largest = (*objects)[i].name;
      facts.largest_bytes = (*objects)[i].size;
    }
  }
  FindRoute(facts, Clock::now() + question.timeout);
  if (!facts.largest.empty()) MeasureReads(facts, Clock::now() + question.timeout);
  return facts;
}

Rows StoreRows(const StoreFacts& facts, const StoreNeeds& needs) {
  return {StoreRow(facts), LatencyRow(facts, needs.slow), RouteRow(facts, needs.nics), CredentialsRow(facts)};
}

}  // namespace devmem::doctor
