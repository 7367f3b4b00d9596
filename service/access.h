// SPDX-License-Identifier: Apache-2.0
// AccessRules: which user of this node may open which bucket, and with how much memory and how many streams (docs/security.md).
//
//   DEVMEM_ASSIGN_OR_RETURN(AccessRules rules, AccessRules::Create({{.uids = {1000}, .buckets = {"s3://train/a"}, .streams =
//   8}})); DEVMEM_ASSIGN_OR_RETURN(AccessGrant grant, rules.ForStream({.uid = 1000, .gid = 1000}, "s3://train/a/x", ""));
//   AccessLedger ledger;                                                     // what each user has; outlives what it lends
//   DEVMEM_ASSIGN_OR_RETURN(auto stream, ledger.BeginStream(1000, grant));   // given back when destroyed
//   DEVMEM_ASSIGN_OR_RETURN(auto memory, ledger.ReserveMemory(1000, bytes, grant));
//
// The first rule that is for the user and for the bucket decides; without a rule everything is granted. AccessRules and
// AccessGrant are values, and AccessLedger is thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "net/redirect.h"

namespace devmem {

struct AccessRule {
  std::vector<uid_t> uids;           // empty: every user
  std::vector<gid_t> gids;           // empty: every group; else the peer's, or one of its supplementary ones
  std::vector<std::string> buckets;  // URIs; each allows what lies at or below it. Empty: every bucket
  uint64_t memory = 0;               // bytes of all the user's streams together, slabs and the rest; 0: up to the node's limit
  uint32_t streams = 0;              // open at once, those being opened included; 0: any number
  bool operator==(const AccessRule&) const = default;
};

// Who asks, as the kernel says.
struct AccessPeer {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
};

// What the rule that decided leaves to the user.
struct AccessGrant {
  size_t rule = 0;  // counted from 1; 0: there are no rules
  uint64_t memory = 0;
  uint32_t streams = 0;
};

class AccessRules {
 public:
  AccessRules() = default;  // no rules: whoever may connect
  // kInvalidArgument names the rule, counted from 1, and the URI that is none to write a rule with.
  [[nodiscard]] static absl::StatusOr<AccessRules> Create(std::vector<AccessRule> rules);

  [[nodiscard]] bool empty() const { return rules_.empty(); }

  // kPermissionDenied if no rule is for this user and bucket; kInvalidArgument if `bucket` or `endpoint` is no URI to have
  // rules about. An s3 bucket at an `endpoint` that the trainer names is what will be asked there:
  // http://ENDPOINT/BUCKET/PREFIX.
  [[nodiscard]] absl::StatusOr<AccessGrant> ForStream(const AccessPeer& peer, std::string_view bucket,
                                                      std::string_view endpoint) const;

  // Whether a stream of this user's may follow a redirect to `url` ("http://host[:port]/path"), and whether it is a rule that
  // names a bucket there that says so. kPermissionDenied as for a stream.
  [[nodiscard]] absl::StatusOr<RedirectPolicy::Verdict> ForRedirect(const AccessPeer& peer, std::string_view url) const;

  // Whether this user may ask for the node's status: whom some rule is for, root, and `own_uid` (the daemon's). Of others'
  // streams only the latter two are told: MaySeeAll().
  [[nodiscard]] absl::Status ForPeer(const AccessPeer& peer, uid_t own_uid) const;

  [[nodiscard]] bool MaySeeAll(uid_t uid, uid_t own_uid) const { return rules_.empty() || uid == 0 || uid == own_uid; }

  bool operator==(const AccessRules&) const = default;

 private:
  std::vector<AccessRule> rules_;  // buckets in canonical form, each ending with '/'
};

// The rules as they are now, for the redirects that a stream of this user's meets; null where there are none.
[[nodiscard]] std::shared_ptr<const RedirectPolicy> RedirectsOf(const AccessRules& rules, const AccessPeer& peer);

// What each user's streams have, against the quota of the rule that let them in.
class AccessLedger {
 public:
  using Lent = std::shared_ptr<void>;  // given back when destroyed; the ledger must outlive it

  // kResourceExhausted, with what the user has and may have.
  [[nodiscard]] absl::StatusOr<Lent> BeginStream(uid_t uid, const AccessGrant& grant);
  [[nodiscard]] absl::StatusOr<Lent> ReserveMemory(uid_t uid, uint64_t bytes, const AccessGrant& grant);
  // For what a failed stream leaves in its trainer's hands: beside the memory of streams, and no more than that may be.
  [[nodiscard]] absl::StatusOr<Lent> ReserveKept(uid_t uid, uint64_t bytes, const AccessGrant& grant);
  // Memory again, for what grows and shrinks (base/memory_account.h).
  [[nodiscard]] absl::Status TakeMemory(uid_t uid, uint64_t bytes, const AccessGrant& grant);
  void GiveMemory(uid_t uid, uint64_t bytes) { GiveBack(uid, &Account::memory, bytes); }

 private:
  struct Account {
    uint64_t memory = 0;
    uint64_t kept = 0;
    uint64_t streams = 0;
  };
  [[nodiscard]] absl::StatusOr<Lent> Reserve(uid_t uid, uint64_t Account::*of, uint64_t bytes, const AccessGrant& grant);
  // `what` the bytes are for.
  [[nodiscard]] absl::Status Add(uid_t uid, uint64_t Account::*of, uint64_t bytes, const AccessGrant& grant,
                                 std::string_view what);
  void GiveBack(uid_t uid, uint64_t Account::*of, uint64_t amount);

  std::mutex mutex_;
  std::map<uid_t, Account> accounts_;  // of users who have something; guarded by mutex_
};

// The bucket as a log may have it: the canonical URI, or of what is none the part that holds neither user information nor a
// query, cut and escaped.
[[nodiscard]] std::string BucketForLog(std::string_view bucket);

}  // namespace devmem
