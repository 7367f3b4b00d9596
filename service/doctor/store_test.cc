// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "service/doctor/testing/fake_host.h"

namespace devmem::doctor {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const StoreNeeds kNeeds{.nics = {"eth0", "eth1"}, .slow = milliseconds(250)};

// A store that lacks nothing; its bucket is never opened.
StoreFacts Whole() {
  StoreFacts facts{.uri = "s3://bucket/"};
  facts.store = std::shared_ptr<ObjectStore>(OpenStore("file:///", {}).value());
  facts.objects = 3;
  facts.largest = "x";
  facts.largest_bytes = 1;
  facts.latency = milliseconds(3);
  facts.by_wire = true;
  facts.route = "bond0";
  facts.devices = {"eth1", "eth2"};
  facts.credentials = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"};
  return facts;
}

Row Of(const StoreFacts& facts, const std::string& check) {
  const Rows rows = StoreRows(facts, kNeeds);
  const auto found = std::find_if(rows.begin(), rows.end(), [&check](const Row& row) { return row.check == check; });
  if (found == rows.end()) ADD_FAILURE() << "no row " << check;
  return found == rows.end() ? Row{} : *found;
}

TEST(StoreRows, AllIsWell) {
  for (const Row& row : StoreRows(Whole(), kNeeds)) EXPECT_EQ(row.verdict, Verdict::kPass) << row.check << ": " << row.found;
  EXPECT_EQ(Of(Whole(), "latency").found, "3.0 ms, the shortest of 5");
  EXPECT_EQ(Of(Whole(), "credentials").found, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (not shown)");
}

TEST(StoreRows, Faults) {
  StoreFacts facts = Whole();
  facts.listed = MakeError(absl::StatusCode::kUnavailable, "refused", {.object = "s3://bucket/", .action = "check it"});
  EXPECT_EQ(Of(facts, "store").verdict, Verdict::kFail);
  EXPECT_EQ(Of(facts, "store").found, "refused");
  EXPECT_EQ(Of(facts, "store").fix, "check it");
  EXPECT_EQ(Of(facts, "latency").verdict, Verdict::kSkip);

  facts = Whole();
  facts.objects = 0;
  EXPECT_EQ(Of(facts, "store").verdict, Verdict::kWarn);

  facts = Whole();
  facts.latency = milliseconds(251);
  EXPECT_EQ(Of(facts, "latency").verdict, Verdict::kWarn);
  facts.read = absl::DeadlineExceededError("no answer");
  EXPECT_EQ(Of(facts, "latency").verdict, Verdict::kFail);

  facts = Whole();
  facts.half_credentials = true;
  EXPECT_EQ(Of(facts, "credentials").verdict, Verdict::kWarn);
  facts.uri = "http://host/";
  EXPECT_EQ(Of(facts, "credentials").verdict, Verdict::kSkip);
}

TEST(StoreRows, ARouteByAnotherNic) {
  StoreFacts facts = Whole();
  facts.devices = {"eth2"};
  EXPECT_EQ(Of(facts, "route").verdict, Verdict::kWarn);
  EXPECT_THAT(Of(facts, "route").found, HasSubstr("by bond0"));
  EXPECT_EQ(Of(facts, "route").wanted, "by eth0 or eth1");
  facts = Whole();
  facts.local = true;
  EXPECT_THAT(Of(facts, "route").found, HasSubstr("this host itself"));
  facts = Whole();
  facts.by_wire = false;
  EXPECT_EQ(Of(facts, "route").verdict, Verdict::kWarn);
  facts.routed = absl::UnavailableError("no route");
  EXPECT_EQ(Of(facts, "route").verdict, Verdict::kFail);
  facts.store = nullptr;
  EXPECT_EQ(Of(facts, "route").verdict, Verdict::kSkip);
}

TEST(FindCredentials, NamesTheKindsAndNeverTheValues) {
  FakeHost host;
  host.Write("home/.aws/credentials", "[default]\naws_secret_access_key = hush\n");
  std::map<std::string, std::string> environment = {
      {"AWS_SECRET_ACCESS_KEY", "hush"}, {"AWS_PROFILE", ""}, {"HOME", host.Path("home")}};
  const auto get = [&environment](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  };
  EXPECT_THAT(FindCredentials(get), ElementsAre("AWS_SECRET_ACCESS_KEY", host.Path("home/.aws/credentials")));
  environment = {};
  EXPECT_THAT(FindCredentials(get), IsEmpty());
  environment = {{"AWS_SHARED_CREDENTIALS_FILE", host.Path("none")}, {"HOME", host.Path("home")}};
  EXPECT_THAT(FindCredentials(get), IsEmpty());
}

TEST(LookAtStore, OfFiles) {
  FakeHost host;
  host.Write("bucket/small", "x");
  host.Write("bucket/large", "xyz");
  const StoreFacts facts = LookAtStore({.uri = "file://" + host.Path("bucket"), .timeout = std::chrono::seconds(20)});
  ASSERT_TRUE(facts.listed.ok()) << facts.listed;
  EXPECT_EQ(facts.objects, 2U);
  EXPECT_EQ(facts.largest, "large");
  EXPECT_EQ(facts.largest_bytes, 3U);
  EXPECT_TRUE(facts.read.ok()) << facts.read;
  EXPECT_TRUE(facts.latency.has_value());
  EXPECT_FALSE(facts.by_wire);
}

TEST(LookAtStore, OfNone) {
  const StoreFacts dead = LookAtStore({.uri = "http://127.0.0.1:1/", .timeout = std::chrono::seconds(20)});
  EXPECT_FALSE(dead.listed.ok());
  EXPECT_TRUE(dead.local);
  const StoreFacts secret = LookAtStore({.uri = "http://user:hush@host/", .timeout = std::chrono::seconds(20)});
  EXPECT_FALSE(secret.listed.ok());
  for (const Row& row : StoreRows(secret, kNeeds)) {
    EXPECT_THAT(row.object + row.found + row.wanted + row.fix, Not(HasSubstr("hush"))) << row.check;
  }
}

}  // namespace
}  // namespace devmem::doctor
