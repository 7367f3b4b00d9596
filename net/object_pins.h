// SPDX-License-Identifier: Apache-2.0
// ObjectPins: which version of each object a stream reads. The first answer about an object says which, and every later range
// of it, on whichever worker, is held to that: a listing may say nothing of versions, or no more than a date.
//
//   ObjectPins pins(dataset.objects.size());
//   if (pins.Pin(object, etag) != etag) return Changed();   // the first caller gets back what it gave
//
// Thread-safe. Costs 4 bytes an object, for 4096 at a time of which one is read, and the version of each object that is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace devmem {

class ObjectPins {
 public:
  // Longer versions are cut to it: they come from other machines.
  static constexpr size_t kLongest = 128;

  explicit ObjectPins(size_t objects) : chunks_((objects + kChunk - 1) / kChunk) {}

  // Pins `version` unless another one is, and says which is pinned. `object` is less than `objects`.
  [[nodiscard]] std::string Pin(size_t object, std::string_view version);
  // Empty: none yet.
  [[nodiscard]] std::string Pinned(size_t object) const;

 private:
  static constexpr size_t kChunk = 4096;
  using Chunk = std::vector<uint32_t>;  // where in versions_ the object's begins, plus 1; 0: none
  [[nodiscard]] std::string_view At(uint32_t place) const;

  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::string versions_;  // each with a byte before it that says how long it is
};

}  // namespace devmem
