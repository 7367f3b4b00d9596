// SPDX-License-Identifier: Apache-2.0
// Numbers of the `netdev` netlink family, as in include/uapi/linux/netdev.h of Linux 7.3; Debian 12's headers have no such
// file. They are ABI: numbers are only ever added. 6.12 lacks what is marked, and does not send or take it.
#pragma once

#include <cstdint>

namespace devmem::netdev_abi {

inline constexpr char kFamily[] = "netdev";

enum Command : uint8_t { kPagePoolGet = 5, kQueueGet = 10, kNapiGet = 11, kQstatsGet = 12, kBindRx = 13 };

enum QueueType : uint32_t { kRx = 0, kTx = 1 };

enum QueueAttribute : uint16_t {
  kQueueId = 1,
  kQueueIfindex = 2,
  kQueueType = 3,
  kQueueNapiId = 4,
  kQueueDmabuf = 5,
  kQueueIoUring = 6,  // nest; 6.15
  kQueueXsk = 7,      // nest; 6.15
};

enum NapiAttribute : uint16_t {
  kNapiIfindex = 1,
  kNapiId = 2,
  kNapiIrq = 3,
};

enum PagePoolAttribute : uint16_t {
  kPoolId = 1,  // uint
  kPoolIfindex = 2,
  kPoolNapiId = 3,         // uint
  kPoolInflight = 4,       // uint
  kPoolInflightBytes = 5,  // uint
  kPoolDetachTime = 6,     // uint
  kPoolDmabuf = 7,
  kPoolIoUring = 8,  // nest; 6.15
};

enum QstatsAttribute : uint16_t {
  kQstatsIfindex = 1,
  kQstatsQueueType = 2,
  kQstatsQueueId = 3,
  kQstatsScope = 4,      // uint; kScopeQueue
  kQstatsRxPackets = 8,  // uint, as the next
  kQstatsRxBytes = 9,
  kQstatsRxAllocFail = 12,
};
inline constexpr uint32_t kScopeQueue = 1;

enum DmabufAttribute : uint16_t {
  kDmabufIfindex = 1,
  kDmabufQueues = 2,  // nest of kQueueId, kQueueType; one each
  kDmabufFd = 3,
  kDmabufId = 4,
  kDmabufRxPageSize = 5,  // not in 6.12
};

}  // namespace devmem::netdev_abi
