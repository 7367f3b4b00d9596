// SPDX-License-Identifier: Apache-2.0
// A keyed pseudorandom permutation of [0, n), computed and not stored: 128 bytes whatever n is.
//
//   Permutation order(samples, PermutationKey({seed, epoch}));
//   uint64_t sample = order.Forward(position);   // order.Inverse(sample) == position
//
// An immutable value; thread-safe. The mapping is part of the plan's version (kPlanVersion): changing it changes
// the order every saved cursor speaks of.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

namespace devmem {

// A 64-bit key from several words; each word and its place matter.
[[nodiscard]] uint64_t PermutationKey(std::initializer_list<uint64_t> words);

class Permutation {
 public:
  static constexpr uint64_t kMaxSize = uint64_t{1} << 63;

  Permutation() = default;                   // of nothing
  Permutation(uint64_t size, uint64_t key);  // size <= kMaxSize

  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] uint64_t Forward(uint64_t index) const;  // index < size()
  [[nodiscard]] uint64_t Inverse(uint64_t value) const;  // value < size()

 private:
  static constexpr int kMaxRounds = 12;

  uint64_t size_ = 0;
  uint32_t low_bits_ = 0;  // the two halves a round works on; they differ by one bit at most
  uint32_t high_bits_ = 0;
  uint32_t rounds_ = 0;
  std::array<uint64_t, kMaxRounds> round_keys_{};
};

}  // namespace devmem
