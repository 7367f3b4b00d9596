// SPDX-License-Identifier: Apache-2.0
// The kernel parks packets that one CPU received and another has done with, up to 64 a CPU, until that CPU next receives
// something: without traffic, for ever, and the buffers of a page pool with them. So before a pool is waited for:
#pragma once

namespace devmem {

// Has every CPU that this thread may run on receive a datagram to itself. Does its best and says nothing: where it cannot
// (no loopback device up), a wait runs into its deadline and tells.
void FreeDeferredSkbs();

}  // namespace devmem
