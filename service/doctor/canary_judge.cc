// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/canary_judge.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace devmem::doctor {
namespace {

constexpr size_t kNeedle = 64;  // bytes that are looked for: more than chance would bring together,
constexpr size_t kLeast = 7;    // down to these ("HTTP/1."): 2^25 places in a pool against 2^56 values

// Fragments of which the bytes are looked for, from the first wrong one to the last: where writes went astray in a row, later
// ones have covered most.
constexpr size_t kLookedFor = 8;

struct Wrong {
  uint64_t stream, pool;
  std::span<const std::byte> needle;
};

// A part of a fragment that `sent` speaks of.
struct Part {
  uint64_t pool, stream, bytes;
};

std::optional<Part> Clip(const PoolFragment& fragment, uint64_t from, uint64_t until) {
  const uint64_t first = std::max(fragment.stream, from), last = std::min(fragment.stream + fragment.bytes, until);
  if (first >= last) return std::nullopt;
  return Part{.pool = fragment.pool + (first - fragment.stream), .stream = first, .bytes = last - first};
}

// Where `needle` lies in the pool but for `known`, where it may well be by right.
std::optional<uint64_t> FindElsewhere(std::span<const std::byte> pool, std::span<const std::byte> needle,
                                      const std::vector<std::pair<uint64_t, uint64_t>>& known) {
  for (uint64_t at = 0; at < pool.size();) {
    const void* const found = ::memmem(pool.data() + at, pool.size() - at, needle.data(), needle.size());
    if (found == nullptr) return std::nullopt;
    const auto offset = static_cast<uint64_t>(static_cast<const std::byte*>(found) - pool.data());
    const bool by_right = std::any_of(known.begin(), known.end(), [&](const auto& range) {
      return offset < range.second && range.first < offset + needle.size();
    });
    if (!by_right) return offset;
    at = offset + 1;
  }
  return std::nullopt;
}

}  // namespace

uint64_t Poison::Word(uint64_t index) const {
  // splitmix64 (Steele, Lea, Flood 2014): neighbours have nothing in common.
  uint64_t x = seed_ + (index + 1) * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

std::byte Poison::At(uint64_t offset) const { return static_cast<std::byte>(Word(offset / 8) >> (offset % 8 * 8)); }

void Poison::Fill(std::span<std::byte> to, uint64_t offset) const {
  for (size_t at = 0; at < to.size(); at += 8) {
    const uint64_t word = Word((offset + at) / 8);
    std::memcpy(to.data() + at, &word, std::min<size_t>(8, to.size() - at));
  }
}

std::optional<Fault> Judge(std::span<const std::byte> pool, const Poison& poison, std::span<const PoolFragment> fragments,
                           std::span<const std::byte> sent, uint64_t from) {
  std::optional<Fault> fault;
  uint64_t as_before = 0;     // wrong bytes that are the poison's
  std::vector<Wrong> wrongs;  // the first of each fragment
  std::vector<std::pair<uint64_t, uint64_t>> known;
  for (const PoolFragment& fragment : fragments) {
    if (fragment.stream + fragment.bytes <= from) known.emplace_back(fragment.pool, fragment.pool + fragment.bytes);
    const std::optional<Part> part = Clip(fragment, from, from + sent.size());
    if (!part || part->pool > pool.size() || part->bytes > pool.size() - part->pool) continue;
    const std::span<const std::byte> here = pool.subspan(part->pool, part->bytes);
    const std::span<const std::byte> wanted = sent.subspan(part->stream - from, part->bytes);
    const auto first = static_cast<size_t>(std::mismatch(here.begin(), here.end(), wanted.begin()).first - here.begin());
    if (first == here.size()) {
      known.emplace_back(part->pool, part->pool + part->bytes);
      continue;
    }
    wrongs.push_back({.stream = part->stream + first,
                      .pool = part->pool + first,
                      .needle = wanted.subspan(first, std::min(kNeedle, wanted.size() - first))});
    if (!fault) fault = Fault{.stream = wrongs.front().stream, .pool = wrongs.front().pool};
    for (size_t i = first; i < here.size(); ++i) {
      if (here[i] == wanted[i]) continue;
      ++fault->bytes;
      as_before += here[i] == poison.At(part->pool + i) ? 1 : 0;
    }
  }
  if (!fault) return std::nullopt;
  if (as_before < fault->bytes) fault->kind = Fault::Kind::kGarbled;
  for (size_t i = 0; i < kLookedFor; ++i) {
    const Wrong& wrong = wrongs[i * (wrongs.size() - 1) / (kLookedFor - 1)];
    if (wrong.needle.size() < kLeast) continue;
    const std::optional<uint64_t> found = FindElsewhere(pool, wrong.needle, known);
    if (!found) continue;
    return Fault{
        .kind = Fault::Kind::kMisplaced, .stream = wrong.stream, .pool = wrong.pool, .bytes = fault->bytes, .found = *found};
  }
  return fault;
}

}  // namespace devmem::doctor
