// SPDX-License-Identifier: Apache-2.0
#include "net/object_pins.h"

#include <limits>

namespace devmem {

std::string_view ObjectPins::At(uint32_t place) const {
  if (place == 0) return {};
  const auto length = static_cast<unsigned char>(versions_[place - 1]);
  return std::string_view(versions_).substr(place, length);
}

std::string ObjectPins::Pin(size_t object, std::string_view version) {
  version = version.substr(0, kLongest);
  std::lock_guard lock(mutex_);
  std::unique_ptr<Chunk>& chunk = chunks_[object / kChunk];
  if (chunk == nullptr) chunk = std::make_unique<Chunk>(kChunk);
  uint32_t& place = (*chunk)[object % kChunk];
  if (place != 0) return std::string(At(place));
  // 4 GiB of versions are 2^25 objects at least, more than a listing may hold.
  if (!version.empty() && versions_.size() < std::numeric_limits<uint32_t>::max() - 2 * kLongest) {
    versions_.push_back(static_cast<char>(version.size()));
    place = static_cast<uint32_t>(versions_.size());
    versions_.append(version);
  }
  return std::string(version);
}

std::string ObjectPins::Pinned(size_t object) const {
  std::lock_guard lock(mutex_);
  const std::unique_ptr<Chunk>& chunk = chunks_[object / kChunk];
  return chunk == nullptr ? std::string() : std::string(At((*chunk)[object % kChunk]));
}

}  // namespace devmem
