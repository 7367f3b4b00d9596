// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "service/cli/doctor_verb.h"

namespace devmem::cli {
namespace {

using doctor::Rows;
using doctor::Verdict;
using Json = nlohmann::json;

const Rows kRows = {
    doctor::Pass("kernel", "", {.found = "7.3.4", .wanted = "6.12"}),
    doctor::Fail("link", "eth0", {.found = "down", .wanted = "up", .fix = "ip link set eth0 up"}),
    doctor::Skip("store", "", "no bucket was named", "--bucket URI"),
    doctor::Warn("mtu", "eth0", {.found = "1500", .wanted = "9000", .fix = "raise\nit"}),
    doctor::Skip("numa", "eth0", "no GPU"),
    doctor::Skip("latency", "", "no bucket was named", "--bucket URI"),
};

TEST(DoctorText, IsATableWithWhatToDoBelowEachRowThatWantsSomething) {
  EXPECT_EQ(DoctorText(kRows),
            "      CHECK   ON    FOUND\n"
            "PASS  kernel  -     7.3.4\n"
            "FAIL  link    eth0  down\n"
            "      wanted: up\n"
            "      fix:    ip link set eth0 up\n"
            "WARN  mtu     eth0  1500\n"
            "      wanted: 9000\n"
            "      fix:    raise\\x0ait\n"
            "SKIP  store, latency: no bucket was named (--bucket URI)\n"
            "SKIP  numa of eth0: no GPU\n"
            "\n"
            "1 PASS, 1 WARN, 1 FAIL, 3 SKIP: this machine cannot receive into device memory as it is\n");
}

TEST(DoctorText, WithoutAFail) {
  EXPECT_EQ(DoctorText({kRows[0]}),
            "      CHECK   ON  FOUND\n"
            "PASS  kernel  -   7.3.4\n"
            "\n"
            "1 PASS, 0 WARN, 0 FAIL, 0 SKIP: nothing found that keeps this machine from receiving into device memory\n");
}

TEST(DoctorJson, HasEveryRowInOrder) {
  const Json told = Json::parse(DoctorJson(kRows));
  EXPECT_EQ(told["healthy"], false);
  EXPECT_EQ(told["counts"], Json::parse(R"({"PASS": 1, "WARN": 1, "FAIL": 1, "SKIP": 3})"));
  ASSERT_EQ(told["rows"].size(), kRows.size());
  EXPECT_EQ(told["rows"][1],
            Json::parse(R"({"check": "link", "object": "eth0", "verdict": "FAIL", "found": "down", "wanted": "up",
                                             "fix": "ip link set eth0 up"})"));
  EXPECT_EQ(Json::parse(DoctorJson({kRows[0], kRows[3]}))["healthy"], true);
}

TEST(DoctorJson, BytesThatAreNoTextDoNotBreakIt) {
  EXPECT_EQ(Json::parse(DoctorJson({doctor::Pass("driver", "eth0", {.found = "\xff firmware"})}))["rows"][0]["found"],
            "\xef\xbf\xbd firmware");
}

}  // namespace
}  // namespace devmem::cli
