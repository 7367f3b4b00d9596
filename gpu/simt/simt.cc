// SPDX-License-Identifier: Apache-2.0
// Blocks run one after the other. In a block:
//
//   1. Every thread gets a fiber, which runs until it ends or waits: at an exchange for its warp, at a barrier for its block.
//   2. The last lane of a warp to come to an exchange wakes the others; each reads what it asked for.
//   3. When nobody can run and somebody waits, the kernel is wrong (its lanes went different ways): Fault().
#include "gpu/simt/simt.h"

#include <ucontext.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "gpu/kernels/tasks.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace devmem::simt {
namespace {

constexpr size_t kStack = 128 << 10;

struct Fiber {
  enum class State : uint8_t { kReady, kAtExchange, kAtBarrier, kDone } state = State::kReady;
  ucontext_t context{};
  std::unique_ptr<std::byte[]> stack;
  uint64_t given = 0;
  std::array<uint64_t, kWarp> seen{};  // what the warp gave to the exchange
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

struct Machine {
  std::array<Fiber, kBlockThreads> fibers;
  ucontext_t scheduler{};
  const std::function<void()>* body = nullptr;
  uint32_t block = 0, blocks = 0, thread = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  size_t stack_size = 0;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

thread_local Machine* machine = nullptr;

// The sanitizers must know on whose stack the program is.
void Leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fiber.state == Fiber::State::kDone ? nullptr : &fiber.fake_stack, machine->stack,
                                 machine->stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(machine->tsan, 0);
#endif
  ::swapcontext(&fiber.context, &machine->scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &machine->stack, &machine->stack_size);
#endif
}

void Enter(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&machine->fake_stack, fiber.stack.get(), kStack);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber.tsan, 0);
#endif
  ::swapcontext(&machine->scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(machine->fake_stack, nullptr, nullptr);
#endif
}

void Trampoline() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine->stack, &machine->stack_size);
#endif
  (*machine->body)();
  Fiber& fiber = machine->fibers[machine->thread];
  fiber.state = Fiber::State::kDone;
  Leave(fiber);
}

// Wakes those of `threads` from `begin` on if all of them wait for the same thing; exited threads count for a barrier only.
void WakeWarp(uint32_t begin) {
  std::array<uint64_t, kWarp> given;
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    const Fiber& fiber = machine->fibers[begin + lane];
    if (fiber.state != Fiber::State::kAtExchange) return;
    given[lane] = fiber.given;
  }
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    machine->fibers[begin + lane].seen = given;
    machine->fibers[begin + lane].state = Fiber::State::kReady;
  }
}

void WakeBlock() {
  for (const Fiber& fiber : machine->fibers) {
    if (fiber.state != Fiber::State::kAtBarrier && fiber.state != Fiber::State::kDone) return;
  }
  for (Fiber& fiber : machine->fibers) {
    if (fiber.state == Fiber::State::kAtBarrier) fiber.state = Fiber::State::kReady;
  }
}

const std::array<uint64_t, kWarp>& ExchangeAll(uint64_t value) {
  Fiber& fiber = machine->fibers[machine->thread];
  fiber.given = value;
  fiber.state = Fiber::State::kAtExchange;
  WakeWarp(machine->thread / kWarp * kWarp);
  if (fiber.state != Fiber::State::kReady) Leave(fiber);
  return fiber.seen;
}

void RunBlock(std::mt19937_64& random) {
  for (Fiber& fiber : machine->fibers) {
    fiber.state = Fiber::State::kReady;
    ::getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    ::makecontext(&fiber.context, Trampoline, 0);
#if defined(__SANITIZE_THREAD__)
    fiber.tsan = __tsan_create_fiber(0);
#endif
  }
  for (bool ran = true; ran;) {
    ran = false;
    const auto first = static_cast<uint32_t>(random() % kBlockThreads);
    for (uint32_t i = 0; i < kBlockThreads; ++i) {
      machine->thread = (first + i) % kBlockThreads;
      Fiber& fiber = machine->fibers[machine->thread];
      if (fiber.state != Fiber::State::kReady) continue;
      ran = true;
      Enter(fiber);
    }
  }
  for (Fiber& fiber : machine->fibers) {
    if (fiber.state != Fiber::State::kDone) Fault("waits for lanes that went another way", 0);
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(fiber.tsan);
#endif
  }
}

}  // namespace

void Launch(const Grid& grid, const std::function<void()>& body) {
  // The stacks are kept: tests launch thousands of grids.
  static thread_local const auto kept = [] {
    auto made = std::make_unique<Machine>();
    for (Fiber& fiber : made->fibers) fiber.stack = std::make_unique<std::byte[]>(kStack);
    return made;
  }();
  machine = kept.get();
  machine->body = &body;
  machine->blocks = grid.blocks;
#if defined(__SANITIZE_THREAD__)
  machine->tsan = __tsan_get_current_fiber();
#endif
  std::mt19937_64 random(grid.seed);
  for (machine->block = 0; machine->block < grid.blocks; ++machine->block) RunBlock(random);
}

uint32_t Block() { return machine->block; }
uint32_t Thread() { return machine->thread; }
uint32_t Blocks() { return machine->blocks; }

uint64_t Exchange(uint64_t value, uint32_t from) { return ExchangeAll(value)[from % kWarp]; }

uint32_t Vote(bool value) {
  uint32_t mask = 0;
  const auto& all = ExchangeAll(value ? 1 : 0);
  for (uint32_t lane = 0; lane < kWarp; ++lane) mask |= static_cast<uint32_t>(all[lane]) << lane;
  return mask;
}

void Barrier() {
  Fiber& fiber = machine->fibers[machine->thread];
  fiber.state = Fiber::State::kAtBarrier;
  WakeBlock();
  if (fiber.state != Fiber::State::kReady) Leave(fiber);
}

void Fault(const char* what, uint64_t address) {
  std::fprintf(stderr, "simt: block %u, thread %u: %s (address %#llx)\n", machine->block, machine->thread, what,
               static_cast<unsigned long long>(address));
  std::abort();
}

}  // namespace devmem::simt
