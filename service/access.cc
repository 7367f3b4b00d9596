// SPDX-License-Identifier: Apache-2.0
// A bucket and a rule are compared as text, both in the one canonical form that ParseStoreUri() gives (scheme in lower case,
// each path segment percent-encoded in one way), both ending with '/': so s3://a/b/ begins with s3://a/, and s3://a/bc/ not
// with s3://a/b/. What a server might yet read as another path than it says is refused beforehand: a segment that is "." or
// ".." once it is decoded, and over HTTP one that holds an encoded slash, backslash or percent sign.
#include "service/access.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/text.h"
#include "net/uri.h"

namespace devmem {
namespace {

absl::Status Ambiguous(std::string_view uri, std::string_view segment) {
  return MakeError(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("the segment \"", Printable(segment), "\" of its path could be read as another path"),
      {.object = BucketForLog(uri), .cause = "ambiguous path", .action = "write the path in full, as it is stored"});
}

// Of the path of a canonical URI.
absl::Status CheckPath(std::string_view uri, std::string_view path, bool http) {
  for (const absl::string_view part : absl::StrSplit(absl::string_view(path.data(), path.size()), '/')) {
    const std::string segment = DecodePercent(std::string_view(part.data(), part.size()));
    const std::string name = segment.substr(0, http ? segment.find(';') : std::string::npos);  // "..;x" is ".." to some servers
    if (name == "." || name == "..") return Ambiguous(uri, segment);
    if (http && segment.find_first_of("/\\%") != std::string::npos) return Ambiguous(uri, segment);
  }
  return absl::OkStatus();
}

std::string HttpText(HttpOrigin origin) {
  absl::AsciiStrToLower(&origin.host_header);
  return OriginText(origin) + origin.path;
}

// The one spelling of what is to be read, with a '/' at its end.
absl::StatusOr<std::string> Canonical(std::string_view uri, std::string_view endpoint) {
  DEVMEM_ASSIGN_OR_RETURN(const StoreUri parsed, ParseStoreUri(uri));
  switch (parsed.scheme) {
    case StoreScheme::kHttp:
      DEVMEM_RETURN_IF_ERROR(CheckPath(uri, parsed.http.path, true));
      return HttpText(parsed.http);
    case StoreScheme::kS3: {
      DEVMEM_RETURN_IF_ERROR(CheckPath(uri, EncodePath(parsed.prefix), false));
      if (endpoint.empty()) return parsed.text;
      DEVMEM_ASSIGN_OR_RETURN(const HttpOrigin origin, ParseHttpOrigin(endpoint, "the endpoint"));
      DEVMEM_RETURN_IF_ERROR(CheckPath(endpoint, origin.path, true));
      const std::string path = absl::StrCat(EncodeSegment(parsed.bucket), "/", EncodePath(parsed.prefix));
      DEVMEM_RETURN_IF_ERROR(CheckPath(uri, path, true));
      return HttpText(origin) + path;
    }
    case StoreScheme::kFile:
      DEVMEM_RETURN_IF_ERROR(CheckPath(uri, EncodePath(parsed.directory), false));
      return parsed.text.back() == '/' ? parsed.text : parsed.text + "/";
  }
  return absl::InternalError("a scheme without a canonical form");
}

bool IsFor(const AccessRule& rule, const AccessPeer& peer) {
  const auto has = [](const auto& list, const auto& id) { return std::find(list.begin(), list.end(), id) != list.end(); };
  if (!rule.uids.empty() && !has(rule.uids, peer.uid)) return false;
  return rule.gids.empty() || has(rule.gids, peer.gid) ||
         std::any_of(peer.groups.begin(), peer.groups.end(), [&](gid_t gid) { return has(rule.gids, gid); });
}

// Whether one of the rule's buckets has it; not said of a rule for every bucket.
bool Names(const AccessRule& rule, std::string_view canonical) {
  return std::any_of(rule.buckets.begin(), rule.buckets.end(),
                     [&](const std::string& below) { return canonical.starts_with(below); });
}

class RulesForRedirects final : public RedirectPolicy {
 public:
  RulesForRedirects(AccessRules rules, AccessPeer peer) : rules_(std::move(rules)), peer_(std::move(peer)) {}
  absl::StatusOr<Verdict> Judge(std::string_view url) const override { return rules_.ForRedirect(peer_, url); }

 private:
  AccessRules rules_;
  AccessPeer peer_;
};

}  // namespace

absl::StatusOr<AccessRules> AccessRules::Create(std::vector<AccessRule> rules) {
  AccessRules created;
  for (size_t i = 0; i < rules.size(); ++i) {
    for (std::string& bucket : rules[i].buckets) {
      absl::StatusOr<std::string> canonical = Canonical(bucket, "");
      if (!canonical.ok()) {
        return MakeErrorVerbatim(absl::StatusCode::kInvalidArgument,
                                 absl::StrCat("access: rule ", i + 1, ": ", Text(canonical.status())),
                                 GetErrorInfo(canonical.status()));
      }
      bucket = *std::move(canonical);
    }
  }
  created.rules_ = std::move(rules);
  return created;
}

absl::StatusOr<AccessGrant> AccessRules::ForStream(const AccessPeer& peer, std::string_view bucket,
                                                   std::string_view endpoint) const {
  if (rules_.empty()) return AccessGrant{};
  DEVMEM_ASSIGN_OR_RETURN(const std::string asked, Canonical(bucket, endpoint));
  for (size_t i = 0; i < rules_.size(); ++i) {
    const AccessRule& rule = rules_[i];
    if (!IsFor(rule, peer)) continue;
    if (!rule.buckets.empty() && !Names(rule, asked)) continue;
    return AccessGrant{.rule = i + 1, .memory = rule.memory, .streams = rule.streams};
  }
  return MakeError(absl::StatusCode::kPermissionDenied, absl::StrCat("no access rule lets uid ", peer.uid, " open it"),
                   {.object = asked,
                    .fault = Fault::kAccess,
                    .cause = "no access rule",
                    .action = absl::StrCat("have a rule with uid ", peer.uid,
                                           " and this bucket added to `access` in the daemon's configuration")});
}

absl::StatusOr<RedirectPolicy::Verdict> AccessRules::ForRedirect(const AccessPeer& peer, std::string_view url) const {
  DEVMEM_RETURN_IF_ERROR(ForStream(peer, url, "").status());
  DEVMEM_ASSIGN_OR_RETURN(const std::string asked, Canonical(url, ""));
  const bool named = std::any_of(rules_.begin(), rules_.end(),
                                 [&](const AccessRule& rule) { return IsFor(rule, peer) && Names(rule, asked); });
  return named ? RedirectPolicy::Verdict::kNamed : RedirectPolicy::Verdict::kAllowed;
}

std::shared_ptr<const RedirectPolicy> RedirectsOf(const AccessRules& rules, const AccessPeer& peer) {
  if (rules.empty()) return nullptr;
  return std::make_shared<RulesForRedirects>(rules, peer);
}

absl::Status AccessRules::ForPeer(const AccessPeer& peer, uid_t own_uid) const {
  if (MaySeeAll(peer.uid, own_uid)) return absl::OkStatus();
  if (std::any_of(rules_.begin(), rules_.end(), [&](const AccessRule& rule) { return IsFor(rule, peer); })) {
    return absl::OkStatus();
  }
  return MakeError(
      absl::StatusCode::kPermissionDenied, absl::StrCat("no access rule is for uid ", peer.uid),
      {.fault = Fault::kAccess,
       .cause = "no access rule",
       .action = absl::StrCat("have a rule with uid ", peer.uid, " added to `access` in the daemon's configuration")});
}

absl::StatusOr<AccessLedger::Lent> AccessLedger::BeginStream(uid_t uid, const AccessGrant& grant) {
  std::lock_guard lock(mutex_);
  const auto found = accounts_.find(uid);
  const uint64_t has = found == accounts_.end() ? 0 : found->second.streams;
  if (grant.streams != 0 && has >= grant.streams) {
    return MakeError(
        absl::StatusCode::kResourceExhausted,
        absl::StrCat("uid ", uid, " has ", Counted(has, "stream"), ", and access rule ", grant.rule, " allows ", grant.streams),
        {.fault = Fault::kQuota, .cause = "quota", .action = "end one of them, or have `streams` of that rule raised"});
  }
  ++accounts_[uid].streams;
  return Lent(static_cast<void*>(this), [this, uid](void*) { GiveBack(uid, &Account::streams, 1); });
}

absl::StatusOr<AccessLedger::Lent> AccessLedger::ReserveMemory(uid_t uid, uint64_t bytes, const AccessGrant& grant) {
  return Reserve(uid, &Account::memory, bytes, grant);
}

absl::StatusOr<AccessLedger::Lent> AccessLedger::ReserveKept(uid_t uid, uint64_t bytes, const AccessGrant& grant) {
  return Reserve(uid, &Account::kept, bytes, grant);
}

absl::Status AccessLedger::TakeMemory(uid_t uid, uint64_t bytes, const AccessGrant& grant) {
  return Add(uid, &Account::memory, bytes, grant, "more for its listing, headers and messages");
}

absl::StatusOr<AccessLedger::Lent> AccessLedger::Reserve(uid_t uid, uint64_t Account::*of, uint64_t bytes,
                                                         const AccessGrant& grant) {
  DEVMEM_RETURN_IF_ERROR(Add(uid, of, bytes, grant, "of slabs"));
  return Lent(static_cast<void*>(this), [this, uid, of, bytes](void*) { GiveBack(uid, of, bytes); });
}

absl::Status AccessLedger::Add(uid_t uid, uint64_t Account::*of, uint64_t bytes, const AccessGrant& grant,
                               std::string_view what) {
  std::lock_guard lock(mutex_);
  const auto found = accounts_.find(uid);
  const uint64_t has = found == accounts_.end() ? 0 : found->second.*of;
  if (grant.memory != 0 && (has > grant.memory || bytes > grant.memory - has)) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     absl::StrCat("the stream needs ", bytes, " bytes ", std::string(what), ", and of the ", grant.memory,
                                  " bytes that access rule ", grant.rule, " allows uid ", uid, ", ", has, " are in use"),
                     {.fault = Fault::kQuota,
                      .cause = "quota",
                      .action = "lower --prefetch or --batch-size, end another stream, or have `memory` of that rule raised"});
  }
  accounts_[uid].*of += bytes;
  return absl::OkStatus();
}

void AccessLedger::GiveBack(uid_t uid, uint64_t Account::*of, uint64_t amount) {
  std::lock_guard lock(mutex_);
  const auto account = accounts_.find(uid);
  account->second.*of -= amount;
  const Account& has = account->second;
  if (has.memory == 0 && has.kept == 0 && has.streams == 0) accounts_.erase(account);
}

std::string BucketForLog(std::string_view bucket) {
  if (const absl::StatusOr<StoreUri> parsed = ParseStoreUri(bucket); parsed.ok()) return Printable(parsed->text);
  bucket = bucket.substr(0, bucket.find_first_of("?#"));
  if (const size_t at = bucket.rfind('@');
      at != std::string_view::npos) {  // wherever it stands: rather too little than a password
    const size_t colon = bucket.find("://");
    return absl::StrCat(colon < at ? Printable(bucket.substr(0, colon)) : "", "://...@", Printable(bucket.substr(at + 1)));
  }
  return Printable(bucket);
}

}  // namespace devmem
