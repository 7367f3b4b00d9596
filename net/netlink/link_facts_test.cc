// SPDX-License-Identifier: Apache-2.0
// On links that every machine can have; NICs with drivers and XDP programs are in the guest (tests/guest/e2e/doctor_test.py).
#include "net/netlink/link_facts.h"

#include <gtest/gtest.h>

#include "net/netlink/testing/own_namespace.h"

namespace devmem {
namespace {

TEST(LookAtLink, OfALoopbackDevice) {
  InOwnNamespace([] {
    const absl::StatusOr<LinkFacts> facts = LookAtLink("lo");
    ASSERT_TRUE(facts.ok()) << facts.status();
    EXPECT_EQ(facts->mtu, 65536);
    EXPECT_FALSE(facts->xdp);
    EXPECT_EQ(facts->firmware, "");
  });
}

TEST(LookAtLink, OfNone) {
  for (const char* name : {"none0", "", "a-name-that-is-longer-than-any"}) {
    EXPECT_FALSE(LookAtLink(name).ok()) << name;
  }
  InOwnNamespace([] { EXPECT_EQ(LookAtLink("none0").status().code(), absl::StatusCode::kNotFound); });
}

}  // namespace
}  // namespace devmem
