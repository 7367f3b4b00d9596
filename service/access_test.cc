// SPDX-License-Identifier: Apache-2.0
#include "service/access.h"

#include <gmock/gmock.h>

#include <limits>

#include "base/error.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

// The rule that admits uid 1 to `bucket`, or the code it is refused with.
std::string Decide(const std::vector<std::string>& buckets, std::string_view bucket, std::string_view endpoint = "") {
  const auto rules = AccessRules::Create({{.buckets = buckets}});
  EXPECT_TRUE(rules.ok()) << rules.status();
  if (!rules.ok()) return "no rules";
  const auto grant = rules->ForStream({.uid = 1, .gid = 1}, bucket, endpoint);
  return grant.ok() ? "allowed" : absl::StatusCodeToString(grant.status().code());
}

TEST(AccessRules, Redirects) {
  const auto rules = AccessRules::Create({{.uids = {1}, .buckets = {"http://store/a"}},
                                          {.uids = {2}},
                                          {.uids = {2}, .buckets = {"http://10.0.0.1:8080/mirror", "s3://b"}}});
  ASSERT_TRUE(rules.ok()) << rules.status();
  const auto judge = [&](uid_t uid, std::string_view url) -> std::string {
    const auto policy = RedirectsOf(*rules, {.uid = uid, .gid = uid});
    if (policy == nullptr) return "no rules";
    const auto verdict = policy->Judge(url);
    if (!verdict.ok()) return absl::StatusCodeToString(verdict.status().code());
    return *verdict == RedirectPolicy::Verdict::kNamed ? "named" : "allowed";
  };
  EXPECT_EQ(judge(1, "http://store/a/x"), "named");
  EXPECT_EQ(judge(1, "http://store/a"), "named");
  EXPECT_EQ(judge(1, "http://store/ab"), "PERMISSION_DENIED");
  EXPECT_EQ(judge(1, "http://store:81/a/x"), "PERMISSION_DENIED");
  EXPECT_EQ(judge(1, "http://store/a/%2e%2e/b"), "INVALID_ARGUMENT");
  EXPECT_EQ(judge(1, "http://169.254.169.254/latest"), "PERMISSION_DENIED");
  EXPECT_EQ(judge(2, "http://169.254.169.254/latest"), "allowed") << "by a rule for all buckets, which names none";
  EXPECT_EQ(judge(2, "http://10.0.0.1:8080/mirror/x"), "named") << "though another rule decides about streams";
  EXPECT_EQ(judge(3, "http://store/a/x"), "PERMISSION_DENIED");
  EXPECT_EQ(RedirectsOf(AccessRules(), {.uid = 1, .gid = 1}), nullptr);
}

TEST(AccessRules, BucketsByPrefixOfTheirPath) {
  struct Row {
    const char* rule;
    const char* bucket;
    const char* decision;
  };
  constexpr char kAllowed[] = "allowed", kDenied[] = "PERMISSION_DENIED", kInvalid[] = "INVALID_ARGUMENT";
  const Row kRows[] = {
      {"s3://a/b", "s3://a/b", kAllowed},
      {"s3://a/b", "s3://a/b/", kAllowed},
      {"s3://a/b", "s3://a/b/c/d", kAllowed},
      {"s3://a/b/", "s3://a/b", kAllowed},
      {"s3://a/b", "S3://a/b", kAllowed},
      {"s3://a/b", "s3://a/bc", kDenied},
      {"s3://a/b", "s3://a", kDenied},
      {"s3://a/b", "s3://a/", kDenied},
      {"s3://a/b", "s3://a/B", kDenied},
      {"s3://a/b", "s3://A/b", kDenied},
      {"s3://a/b", "s3://a//b", kDenied},
      {"s3://a", "s3://ab", kDenied},
      {"s3://a/b", "s3://a/b/../c", kInvalid},
      {"s3://a/b", "s3://a/./b", kInvalid},
      {"s3://a/b", "s3://a/%62", kDenied},  // an S3 prefix is literal: a folder called %62
      {"s3://a/b", "http://a/b", kDenied},
      {"s3://a/b", "file:///b", kDenied},
      {"http://h/a", "http://h/a", kAllowed},
      {"http://h/a", "http://h:80/a/b/", kAllowed},
      {"http://h/a", "HTTP://H/a", kAllowed},
      {"http://H/a", "http://h/a", kAllowed},
      {"http://h/a", "http://h/%61/b", kAllowed},  // the same path
      {"http://h/a", "http://h/a%20b", kDenied},
      {"http://h/a b", "http://h/a%20b", kInvalid},  // refused as a rule below: a space is no part of a URL
      {"http://h/a", "http://h/A", kDenied},
      {"http://h/a", "http://h/ab", kDenied},
      {"http://h/a", "http://h:81/a", kDenied},
      {"http://h/a", "http://h.evil/a", kDenied},
      {"http://h/a", "http://h//a", kDenied},
      {"http://h/a", "http://h/a/../b", kDenied},  // the parser goes up: it is /b
      {"http://h/a", "http://h/a/..%2fb", kInvalid},
      {"http://h/a", "http://h/a/x%2F..%2F..%2Fb", kInvalid},
      {"http://h/a", "http://h/a/..%5cb", kInvalid},
      {"http://h/a", "http://h/a/%252e%252e/b", kInvalid},
      {"http://h/a", "http://h/a/..;x/b", kInvalid},
      {"http://h/a", "http://u:p@h/a", kInvalid},
      {"http://h/a", "http://h/a?x=/../", kInvalid},
      {"http://h/a", "https://h/a", "UNIMPLEMENTED"},
      {"http://h", "http://h/any/thing", kAllowed},
      {"http://[::1]:8080/a", "http://[::1]:8080/a/b", kAllowed},
      {"file:///data/a", "file:///data/a", kAllowed},
      {"file:///data/a", "file://localhost/data/a/b", kAllowed},
      {"file:///data/a", "file:///data/ab", kDenied},
      {"file:///data/a", "file:///data/a/../b", kDenied},
      {"file:///", "file:///etc", kAllowed},
      {"s3://a", "not a uri", kInvalid},
      {"s3://a", "", kInvalid},
  };
  for (const Row& row : kRows) {
    if (std::string(row.rule).find(' ') != std::string::npos) {
      EXPECT_EQ(AccessRules::Create({{.buckets = {row.rule}}}).status().code(), absl::StatusCode::kInvalidArgument) << row.rule;
      continue;
    }
    EXPECT_EQ(Decide({row.rule}, row.bucket), row.decision) << row.rule << " and " << row.bucket;
  }
}

// libcurl's parser of some versions goes up at %2e%2e, of others it stays: a way up must not be allowed by either.
TEST(AccessRules, EncodedDotsLeadNowhere) {
  for (const char* const bucket :
       {"http://h/a/%2e%2e/b", "http://h/a/.%2E/b", "http://h/a/%2e./%2e%2e/b", "file:///a/%2e%2e/b"}) {
    EXPECT_NE(Decide({"http://h/a", "file:///a"}, bucket), "allowed") << bucket;
  }
}

// The daemon would ask where the trainer says: that is what must be allowed.
TEST(AccessRules, AnEndpointOfTheTrainersIsTheBucket) {
  EXPECT_EQ(Decide({"s3://train"}, "s3://train/x", "http://169.254.169.254/"), "PERMISSION_DENIED");
  EXPECT_EQ(Decide({"http://minio:9000/train"}, "s3://train/x", "http://minio:9000"), "allowed");
  EXPECT_EQ(Decide({"http://minio:9000/train"}, "s3://training/x", "http://minio:9000"), "PERMISSION_DENIED");
  EXPECT_EQ(Decide({"http://minio:9000/train"}, "s3://train", "http://minio:9000/train/.."), "allowed");
  EXPECT_EQ(Decide({"http://minio:9000/train"}, "s3://train", "http://minio:9000/train/..%2f"), "INVALID_ARGUMENT");
  EXPECT_EQ(Decide({"s3://train"}, "s3://train", "http://u:p@minio"), "INVALID_ARGUMENT");
  EXPECT_EQ(Decide({"http://h/"}, "http://h/x", "http://elsewhere"), "allowed") << "of s3 only: it is not asked for others";
}

TEST(AccessRules, PeersByUserAndGroup) {
  const auto rules = AccessRules::Create({{.uids = {1, 2}, .buckets = {"s3://a"}, .memory = 10, .streams = 1},
                                          {.gids = {70}, .buckets = {"s3://g"}},
                                          {.uids = {3}, .gids = {71}, .buckets = {"s3://both"}},
                                          {.uids = {2}, .streams = 5}});
  ASSERT_TRUE(rules.ok()) << rules.status();
  struct Row {
    AccessPeer peer;
    const char* bucket;
    size_t rule;  // 0: refused
  };
  const Row kRows[] = {
      {{.uid = 1, .gid = 9}, "s3://a/x", 1},
      {{.uid = 1, .gid = 9}, "s3://b", 0},
      {{.uid = 2, .gid = 9}, "s3://a", 1},  // the first that is for both
      {{.uid = 2, .gid = 9}, "s3://b", 4},
      {{.uid = 5, .gid = 70}, "s3://g", 2},
      {{.uid = 5, .gid = 9, .groups = {8, 70}}, "s3://g", 2},
      {{.uid = 5, .gid = 9, .groups = {8}}, "s3://g", 0},
      {{.uid = 3, .gid = 71}, "s3://both", 3},
      {{.uid = 3, .gid = 9}, "s3://both", 0},
      {{.uid = 5, .gid = 71}, "s3://both", 0},
      {{.uid = 0, .gid = 0}, "s3://a", 0},  // root, too
      {{.uid = std::numeric_limits<uid_t>::max(), .gid = 9}, "s3://a", 0},
  };
  for (const Row& row : kRows) {
    const auto grant = rules->ForStream(row.peer, row.bucket, "");
    EXPECT_EQ(grant.ok() ? grant->rule : 0, row.rule) << row.peer.uid << " " << row.bucket << " " << grant.status();
  }
  const auto grant = rules->ForStream({.uid = 1, .gid = 1}, "s3://a", "");
  EXPECT_EQ(grant->memory, 10u);
  EXPECT_EQ(grant->streams, 1u);

  EXPECT_TRUE(rules->ForPeer({.uid = 1, .gid = 9}, 100).ok());
  EXPECT_TRUE(rules->ForPeer({.uid = 0, .gid = 0}, 100).ok());
  EXPECT_TRUE(rules->ForPeer({.uid = 100, .gid = 9}, 100).ok());
  EXPECT_TRUE(rules->ForPeer({.uid = 5, .gid = 9, .groups = {70}}, 100).ok());
  EXPECT_EQ(rules->ForPeer({.uid = 5, .gid = 9}, 100).code(), absl::StatusCode::kPermissionDenied);
}

TEST(AccessRules, RefusalsSayWhoWhatAndWhatToChange) {
  const auto rules = AccessRules::Create({{.uids = {7}, .buckets = {"s3://secret-project"}}});
  const absl::Status refused = rules->ForStream({.uid = 1, .gid = 1}, "s3://a/b", "").status();
  EXPECT_THAT(Text(refused), HasSubstr("s3://a/b/"));
  EXPECT_THAT(Text(refused), HasSubstr("no access rule lets uid 1 open it"));
  EXPECT_THAT(GetErrorInfo(refused).action, HasSubstr("`access` in the daemon's configuration"));
  EXPECT_EQ(FaultOf(refused), Fault::kAccess);
  EXPECT_THAT(Text(refused), ::testing::Not(HasSubstr("secret-project"))) << "what others may open is theirs";
}

TEST(AccessRules, WithoutRulesEverythingIsGranted) {
  const AccessRules none;
  EXPECT_TRUE(none.empty());
  EXPECT_TRUE(none.ForPeer({.uid = 5}, 100).ok());
  const auto grant = none.ForStream({.uid = 5}, "whatever the store will say to it", "");
  ASSERT_TRUE(grant.ok());
  EXPECT_EQ(grant->rule, 0u);
  EXPECT_EQ(grant->streams, 0u);
}

TEST(AccessRules, BadRulesAreNamed) {
  const absl::Status bad = AccessRules::Create({{.uids = {1}}, {.buckets = {"s3://a", "train/images"}}}).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(bad), HasSubstr("access: rule 2: "));
  EXPECT_THAT(Text(bad), HasSubstr("train/images"));
  EXPECT_FALSE(AccessRules::Create({{.buckets = {"s3://a/../b"}}}).ok());
}

TEST(AccessLedger, StreamsAndMemoryOfAUser) {
  AccessLedger ledger;
  const AccessGrant grant{.rule = 3, .memory = 100, .streams = 2};
  auto first = ledger.BeginStream(1, grant);
  auto second = ledger.BeginStream(1, grant);
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status third = ledger.BeginStream(1, grant).status();
  EXPECT_EQ(third.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Text(third), HasSubstr("uid 1 has 2 streams, and access rule 3 allows 2"));
  EXPECT_TRUE(ledger.BeginStream(2, grant).ok()) << "each user has a quota of its own";
  first->reset();
  EXPECT_TRUE(ledger.BeginStream(1, grant).ok());

  auto memory = ledger.ReserveMemory(1, 80, grant);
  ASSERT_TRUE(memory.ok());
  const absl::Status more = ledger.ReserveMemory(1, 21, grant).status();
  EXPECT_THAT(Text(more), HasSubstr("of the 100 bytes that access rule 3 allows uid 1, 80 are in use"));
  EXPECT_EQ(FaultOf(more), Fault::kQuota);
  EXPECT_FALSE(ledger.ReserveMemory(1, std::numeric_limits<uint64_t>::max(), grant).ok());
  EXPECT_TRUE(ledger.ReserveMemory(1, 20, grant).ok());
  EXPECT_TRUE(ledger.ReserveMemory(2, 100, grant).ok());
  // Rules that were tightened meanwhile take nothing away.
  EXPECT_FALSE(ledger.ReserveMemory(1, 1, {.rule = 1, .memory = 50}).ok());
  EXPECT_TRUE(ledger.ReserveMemory(1, 1000, {}).ok());
  // What grows and shrinks is of the same quota.
  ASSERT_TRUE(ledger.TakeMemory(1, 15, grant).ok());
  EXPECT_EQ(FaultOf(ledger.TakeMemory(1, 6, grant)), Fault::kQuota);
  EXPECT_FALSE(ledger.ReserveMemory(1, 6, grant).ok());
  ledger.GiveMemory(1, 15);
  memory->reset();
  EXPECT_TRUE(ledger.ReserveMemory(1, 100, grant).ok());
}

// What failed streams leave in a trainer's hands is beside what its streams have, and bounded as that is.
TEST(AccessLedger, KeptMemoryIsBesideStreams) {
  AccessLedger ledger;
  const AccessGrant grant{.rule = 1, .memory = 100};
  auto kept = ledger.ReserveKept(1, 100, grant);
  ASSERT_TRUE(kept.ok());
  auto streams = ledger.ReserveMemory(1, 100, grant);
  EXPECT_TRUE(streams.ok()) << streams.status();
  EXPECT_FALSE(ledger.ReserveKept(1, 1, grant).ok());
  EXPECT_TRUE(ledger.ReserveKept(2, 100, grant).ok());
  streams->reset();
  EXPECT_FALSE(ledger.ReserveKept(1, 1, grant).ok());
  kept->reset();
  EXPECT_TRUE(ledger.ReserveKept(1, 100, grant).ok());
}

TEST(BucketForLog, HasNoSecrets) {
  const std::pair<const char*, const char*> kRows[] = {
      {"s3://a/b", "s3://a/b/"},
      {"HTTP://h:80/x y", "HTTP://h:80/x y"},
      {"http://h/x?X-Amz-Signature=secret", "http://h/x"},
      {"s3://a#secret", "s3://a"},
      {"http://user:secret@h/x", "http://...@h/x"},
      {"user:secret@h/x", "://...@h/x"},
      {"http://h/user:secret@x?q", "http://...@x"},
      {"evil\nline", "evil\\x0aline"},
      {"", ""},
  };
  for (const auto& [bucket, shown] : kRows) EXPECT_EQ(BucketForLog(bucket), shown) << bucket;
}

}  // namespace
}  // namespace devmem
