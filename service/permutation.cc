// SPDX-License-Identifier: Apache-2.0
// An alternating Feistel network on ceil(log2 n) bits, and cycle walking: what falls outside [0, n) is permuted again
// until it falls inside. Less than half of the domain is outside, so that takes 2 passes at most on average.
#include "service/permutation.h"

#include <bit>

namespace devmem {
namespace {

// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
constexpr uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Halves of a bit or two mix slowly: permutation_test.cc finds 6 rounds over 3 bits uneven.
constexpr uint32_t kSmallBits = 6;
constexpr uint32_t kUsualRounds = 6;

constexpr uint64_t Mask(uint32_t bits) { return (uint64_t{1} << bits) - 1; }

}  // namespace

uint64_t PermutationKey(std::initializer_list<uint64_t> words) {
  uint64_t key = kGolden;
  for (const uint64_t word : words) key = Mix((key ^ Mix(word + kGolden)) + kGolden);
  return key;
}

Permutation::Permutation(uint64_t size, uint64_t key) : size_(size) {
  const auto bits = size <= 1 ? 0U : static_cast<uint32_t>(std::bit_width(size - 1));  // at most 63
  high_bits_ = bits / 2;
  low_bits_ = bits - high_bits_;
  rounds_ = bits <= kSmallBits ? kMaxRounds : kUsualRounds;
  for (uint32_t round = 0; round < rounds_; ++round) round_keys_[round] = Mix(key += kGolden);
}

// Even rounds change the high half by the low, odd rounds the low by the high. A round is its own inverse.
uint64_t Permutation::Forward(uint64_t index) const {
  if (size_ <= 1) return index;
  do {
    uint64_t low = index & Mask(low_bits_);
    uint64_t high = index >> low_bits_;
    for (uint32_t round = 0; round < rounds_; round += 2) {
      high ^= Mix(low ^ round_keys_[round]) & Mask(high_bits_);
      low ^= Mix(high ^ round_keys_[round + 1]) & Mask(low_bits_);
    }
    index = (high << low_bits_) | low;
  } while (index >= size_);
  return index;
}

uint64_t Permutation::Inverse(uint64_t value) const {
  if (size_ <= 1) return value;
  do {
    uint64_t low = value & Mask(low_bits_);
    uint64_t high = value >> low_bits_;
    for (uint32_t round = rounds_; round > 0; round -= 2) {
      low ^= Mix(high ^ round_keys_[round - 1]) & Mask(low_bits_);
      high ^= Mix(low ^ round_keys_[round - 2]) & Mask(high_bits_);
    }
    value = (high << low_bits_) | low;
  } while (value >= size_);
  return value;
}

}  // namespace devmem
