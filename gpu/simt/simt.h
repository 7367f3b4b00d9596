// SPDX-License-Identifier: Apache-2.0
// Runs a kernel's source on the CPU: every lane of a block is a fiber, and a lane that exchanges with its warp waits there for
// the others. Slow, and exact: a lane that reads or writes where it must not is seen by AddressSanitizer, an unaligned access
// or an exchange that not all lanes of a warp come to ends the program, and the order in which lanes run changes with the seed.
//
//   simt::Launch({.blocks = 4, .seed = 1}, [&] { lane::GatherBody(task); });
//
// One thread; Launch returns when every lane is done.
#pragma once

#include <cstdint>
#include <functional>

namespace devmem::simt {

struct Grid {
  uint32_t blocks = 1;
  uint64_t seed = 0;  // of the order in which lanes run
};

// Of kBlockThreads threads each. `body` must not throw.
void Launch(const Grid& grid, const std::function<void()>& body);

// For the lane that runs.
[[nodiscard]] uint32_t Block();
[[nodiscard]] uint32_t Thread();
[[nodiscard]] uint32_t Blocks();

// Gives `value` and returns what lane `from` of this warp gave to the same exchange.
[[nodiscard]] uint64_t Exchange(uint64_t value, uint32_t from);
[[nodiscard]] uint32_t Vote(bool value);
void Barrier();

// Ends the program with `what` and where the lane is: a kernel that does this is wrong.
[[noreturn]] void Fault(const char* what, uint64_t address);

}  // namespace devmem::simt
