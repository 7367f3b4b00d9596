// SPDX-License-Identifier: Apache-2.0
#include "net/socket_address.h"

#include "gtest/gtest.h"

namespace devmem {
namespace {

TEST(SocketAddress, Reach) {
  struct Row {
    const char* host;
    Reach reach;
  };
  for (const Row& row : {
           Row{"10.0.0.1", Reach::kNetwork},
           Row{"169.253.255.255", Reach::kNetwork},
           Row{"169.254.169.254", Reach::kLink},
           Row{"169.255.0.0", Reach::kNetwork},
           Row{"126.255.255.255", Reach::kNetwork},
           Row{"127.0.0.1", Reach::kMachine},
           Row{"127.255.255.254", Reach::kMachine},
           Row{"128.0.0.1", Reach::kNetwork},
           Row{"0.0.0.0", Reach::kMachine},
           Row{"0.1.2.3", Reach::kMachine},
           Row{"1.0.0.0", Reach::kNetwork},
           Row{"::", Reach::kMachine},
           Row{"::1", Reach::kMachine},
           Row{"fe80::1", Reach::kLink},
           Row{"febf::1", Reach::kLink},
           Row{"fec0::1", Reach::kNetwork},
           Row{"2001:db8::1", Reach::kNetwork},
           Row{"::ffff:127.0.0.1", Reach::kMachine},
           Row{"::ffff:169.254.169.254", Reach::kLink},
           Row{"::ffff:10.0.0.1", Reach::kNetwork},
           Row{"::169.254.169.254", Reach::kLink},
           Row{"64:ff9b::169.254.169.254", Reach::kLink},
           Row{"64:ff9b::8.8.8.8", Reach::kNetwork},
       }) {
    const auto address = ParseAddress(row.host, 80);
    ASSERT_TRUE(address.has_value()) << row.host;
    EXPECT_EQ(ReachOf(address->get()), row.reach) << row.host;
  }
}

TEST(SocketAddress, NamesAreNoAddresses) {
  for (const char* name : {"localhost", "127.1", "0x7f000001", "2130706433", "10.0.0.1.", "", "store-1", "::g"}) {
    EXPECT_FALSE(ParseAddress(name, 80).has_value()) << name;
  }
}

TEST(SocketAddress, EqualIfWhatTheySayIs) {
  const auto address = *ParseAddress("::1", 80);
  EXPECT_EQ(address, *ParseAddress("0:0::1", 80));
  EXPECT_NE(address, *ParseAddress("::1", 81));
  EXPECT_NE(address, *ParseAddress("::2", 80));
  EXPECT_NE(*ParseAddress("127.0.0.1", 80), *ParseAddress("::ffff:127.0.0.1", 80));
  EXPECT_EQ(*ParseAddress("127.0.0.1", 80), *ParseAddress("127.0.0.1", 80));
  const sockaddr unknown{};
  EXPECT_EQ(AddressText(&unknown), "an address of family 0");
  EXPECT_EQ(AddressText(address), "[::1]:80");
  EXPECT_EQ(AddressText(*ParseAddress("127.0.0.1", 8080)), "127.0.0.1:8080");
  EXPECT_EQ(AddressText(*ParseAddress("fe80::1%lo", 80)), "[fe80::1%lo]:80");
}

}  // namespace
}  // namespace devmem
