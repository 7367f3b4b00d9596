// SPDX-License-Identifier: Apache-2.0
#include "net/redirect.h"

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const HttpOrigin kBucket = {.host = "store", .port = 80, .host_header = "store", .path = "/train/"};

// Allows what begins with one of its prefixes; names what begins with the last.
class Prefixes final : public RedirectPolicy {
 public:
  explicit Prefixes(std::vector<std::string> prefixes) : prefixes_(std::move(prefixes)) {}
  absl::StatusOr<Verdict> Judge(std::string_view url) const override {
    for (const std::string& prefix : prefixes_) {
      if (url.starts_with(prefix)) return &prefix == &prefixes_.back() ? Verdict::kNamed : Verdict::kAllowed;
    }
    return MakeError(absl::StatusCode::kPermissionDenied, "no rule", {.action = "add a rule"});
  }

 private:
  std::vector<std::string> prefixes_;
};

TEST(Redirects, WhereALocationLeads) {
  struct Row {
    const char* location;
    const char* host;
    uint16_t port;
    const char* host_header;
    const char* target;
    bool elsewhere;
  };
  const Redirects redirects(kBucket, nullptr);
  for (const Row& row : {
           Row{"http://other/x", "other", 80, "other", "/x", true},
           Row{"http://other:8080/x?s=%20a", "other", 8080, "other:8080", "/x?s=%20a", true},
           Row{"http://[::1]:81/x", "::1", 81, "[::1]:81", "/x", true},
           Row{"//other/x", "other", 80, "other", "/x", true},
           Row{"/elsewhere", "store", 80, "store", "/elsewhere", false},
           Row{"y", "store", 80, "store", "/train/y", false},
           Row{"?a", "store", 80, "store", "/train/x?a", false},
           Row{"http://STORE/y", "STORE", 80, "STORE", "/y", false},
           Row{"http://store:81/y", "store", 81, "store:81", "/y", true},
           Row{"http://store.evil/y", "store.evil", 80, "store.evil", "/y", true},
       }) {
    const auto to = redirects.Follow(kBucket, "/train/x", row.location);
    ASSERT_TRUE(to.ok()) << row.location << ": " << to.status();
    EXPECT_EQ(to->origin.host, row.host) << row.location;
    EXPECT_EQ(to->origin.port, row.port) << row.location;
    EXPECT_EQ(to->origin.host_header, row.host_header) << row.location;
    EXPECT_EQ(to->target, row.target) << row.location;
    EXPECT_EQ(to->elsewhere, row.elsewhere) << row.location;
    EXPECT_FALSE(to->named) << row.location;
  }
}

TEST(Redirects, WhatIsNoPlaceToGo) {
  const Redirects redirects(kBucket, nullptr);
  for (const char* location :
       {"https://store/x?secret", "ftp://store/x?secret", "http://u:secret@store/x", "http://store:0/x?secret",
        "http://store:99999/x?secret", "http://[::1/x?secret", "http:///x?secret"}) {
    const absl::Status status = redirects.Follow(kBucket, "/train/x", location).status();
    if (status.ok()) continue;  // libcurl's parser finds a place in some of them
    EXPECT_EQ(FaultOf(status), Fault::kRedirect) << location;
    EXPECT_THAT(Text(status), Not(HasSubstr("secret"))) << location;
  }
  EXPECT_FALSE(redirects.Follow(kBucket, "/train/x", "https://store/x").ok());
  EXPECT_FALSE(redirects.Follow(kBucket, "/train/x", "http://u:secret@store/x").ok());
  EXPECT_FALSE(redirects.Follow(kBucket, "/train/x", "http://store/" + std::string(20'000, 'x')).ok());
}

TEST(Redirects, WithRulesEachHopNeedsOne) {
  const Redirects redirects(kBucket,
                            std::make_shared<Prefixes>(std::vector<std::string>{"http://mirror/a/", "http://10.0.0.1/"}));
  struct Row {
    const char* location;
    bool allowed, named;
  };
  for (const Row& row : {
           Row{"http://mirror/a/x?secret", true, false},
           Row{"http://10.0.0.1/x?secret", true, true},
           Row{"/train/y?secret", true, false},  // the bucket itself
           Row{"http://mirror/b?secret", false, false},
           Row{"http://169.254.169.254/latest?secret", false, false},
           Row{"/private/y?secret", false, false},  // of the same host
           Row{"/train/../private/y?secret", false, false},
           Row{"/train/%2e%2e/private/y?secret", false, false},
           Row{"/train/..;/private/y?secret", false, false},
           Row{"/train/..%2fprivate?secret", false, false},
       }) {
    const auto to = redirects.Follow(kBucket, "/train/x", row.location);
    EXPECT_EQ(to.ok(), row.allowed) << row.location << ": " << to.status();
    if (to.ok()) {
      EXPECT_EQ(to->named, row.named) << row.location;
    } else {
      EXPECT_EQ(to.status().code(), absl::StatusCode::kPermissionDenied) << row.location;
      EXPECT_EQ(FaultOf(to.status()), Fault::kAccess) << row.location;
      EXPECT_EQ(ScopeOf(to.status()), Scope::kPolicy) << "neither skipped nor retried";
      EXPECT_THAT(Text(to.status()), HasSubstr("add a rule")) << row.location;
      EXPECT_THAT(Text(to.status()), Not(HasSubstr("secret"))) << row.location;
    }
  }
}

TEST(MayReach, OutAlwaysAndInOnlyFromThere) {
  for (const Reach bucket : {Reach::kNetwork, Reach::kLink, Reach::kMachine}) {
    EXPECT_TRUE(MayReach(Reach::kNetwork, bucket));
    EXPECT_EQ(MayReach(Reach::kLink, bucket), bucket == Reach::kLink);
    EXPECT_EQ(MayReach(Reach::kMachine, bucket), bucket == Reach::kMachine);
  }
  EXPECT_EQ(ScopeOf(RedirectRefused("http://h/x", "o")), Scope::kPolicy);
}

}  // namespace
}  // namespace devmem
