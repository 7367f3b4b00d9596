// SPDX-License-Identifier: Apache-2.0
// What became of payload that should lie in a landing pool, by the pool's contents alone: every byte of it was made to differ
// from what is to come (Poison), each buffer is written once at most, and what was sent is known. So a write that never came
// shows the poison, and one that went astray within the pool is found where nothing was expected.
//
//   const Poison poison(seed);
//   poison.Fill(bytes, 0);                                   // into the pool, before it is bound
//   auto fault = Judge(image_of_the_pool, poison, fragments, sent, 0);
//
// Pure functions; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace devmem::doctor {

class Poison {
 public:
  explicit Poison(uint64_t seed) : seed_(seed) {}
  [[nodiscard]] std::byte At(uint64_t offset) const;
  // What the pool holds from `offset` on, a multiple of 8.
  void Fill(std::span<std::byte> to, uint64_t offset) const;

 private:
  [[nodiscard]] uint64_t Word(uint64_t index) const;
  uint64_t seed_;
};

// Where bytes of the stream should lie, as the kernel told it.
struct PoolFragment {
  uint64_t pool = 0;    // offset into the pool
  uint64_t stream = 0;  // and of the stream
  uint64_t bytes = 0;
};

struct Fault {
  enum class Kind : uint8_t {
    kLost,       // the place holds what it held before
    kMisplaced,  // and the bytes lie elsewhere in the pool
    kGarbled,    // the place holds other bytes, and what was sent is nowhere
  };
  Kind kind = Kind::kLost;
  uint64_t stream = 0;  // the first wrong byte; kMisplaced: the first that was found
  uint64_t pool = 0;    // where it should be
  uint64_t bytes = 0;   // wrong ones in all
  uint64_t found = 0;   // kMisplaced: where it is
  bool operator==(const Fault&) const = default;
};

// `sent` are the stream's bytes from offset `from` on. Fragments before that were found right earlier; those beyond its end are
// not looked at. nullopt: every byte is in its place.
[[nodiscard]] std::optional<Fault> Judge(std::span<const std::byte> pool, const Poison& poison,
                                         std::span<const PoolFragment> fragments, std::span<const std::byte> sent,
                                         uint64_t from);

}  // namespace devmem::doctor
