// SPDX-License-Identifier: Apache-2.0
// Numbers of ethtool netlink that Debian 12's linux/ethtool_netlink.h (6.1) does not have yet, as in
// include/uapi/linux/ethtool_netlink_generated.h of Linux 7.3.
#pragma once

#include <cstdint>

namespace devmem::ethtool_abi {

inline constexpr uint8_t kMsgRssGet = 38;  // 6.3; dump with contexts: 6.12
inline constexpr uint8_t kMsgRssSet = 48;  // 6.17

enum RingsAttribute : uint16_t {  // behind ETHTOOL_A_RINGS_TX_PUSH
  kRingsHdsThresh = 17,           // u32; 6.14
  kRingsHdsThreshMax = 18,        // u32; 6.14
};

enum RssAttribute : uint16_t {
  kRssHeader = 1,
  kRssContext = 2,  // u32; absent in an answer for the main context
  kRssIndir = 4,    // array of u32
};

}  // namespace devmem::ethtool_abi
