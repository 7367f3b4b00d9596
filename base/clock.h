// SPDX-License-Identifier: Apache-2.0
// The one clock for deadlines and for attribution: CLOCK_MONOTONIC.
#pragma once

#include <chrono>

namespace devmem {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using Duration = Clock::duration;

}  // namespace devmem
