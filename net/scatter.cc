// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "net/byte_stream.h"

namespace devmem {
namespace {

absl::Status NotWritable() {
  return MakeError(absl::StatusCode::kUnimplemented, "the CPU cannot write to a destination, and was to",
                   {.cause = "memory of a device", .action = "report a bug with this message"});
}

}  // namespace

Scatter::Scatter(std::span<const DeviceSpan> destinations, uint64_t skip) : list_(destinations) {
  for (const DeviceSpan& piece : list_) remaining_ += piece.bytes;
  Advance(std::min(skip, remaining_));
}

absl::StatusOr<size_t> Scatter::Fill(std::span<iovec> pieces, uint64_t max_bytes, std::span<std::byte> waste) const {
  size_t count = 0;
  size_t index = index_;
  uint64_t within = within_;
  uint64_t left = std::min(remaining_, max_bytes);
  while (left > 0 && count < pieces.size()) {
    const DeviceSpan& piece = list_[index];
    uint64_t bytes = std::min(piece.bytes - within, left);
    std::byte* data;
    if (piece.memory == nullptr) {
      bytes = std::min<uint64_t>(bytes, waste.size());
      data = waste.data();
    } else {
      const auto host = piece.memory->HostSpan(piece.offset + within, bytes);
      if (!host.has_value()) return NotWritable();
      data = host->data();
    }
    if (bytes > 0) pieces[count++] = {.iov_base = data, .iov_len = bytes};
    left -= bytes;
    within += bytes;
    if (within == piece.bytes) {
      ++index;
      within = 0;
    }
  }
  return count;
}

DeviceSpan Scatter::Front(uint64_t max_bytes) const {
  const DeviceSpan& piece = list_[index_];
  return {.memory = piece.memory, .offset = piece.offset + within_, .bytes = std::min(piece.bytes - within_, max_bytes)};
}

absl::Status Scatter::Place(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const DeviceSpan& piece = list_[index_];
    const size_t count = std::min<uint64_t>(piece.bytes - within_, bytes.size());
    if (piece.memory != nullptr && count > 0) {
      const auto host = piece.memory->HostSpan(piece.offset + within_, count);
      if (!host.has_value()) return NotWritable();
      std::memcpy(host->data(), bytes.data(), count);
    }
    Advance(count);
    bytes = bytes.subspan(count);
    if (count == 0) Advance(0);
  }
  return absl::OkStatus();
}

std::span<std::byte> Waste() {
  static thread_local std::array<std::byte, 64 << 10> waste;
  return waste;
}

void Scatter::Advance(uint64_t bytes) {
  remaining_ -= bytes;
  while (index_ < list_.size()) {
    const uint64_t step = std::min(bytes, list_[index_].bytes - within_);
    within_ += step;
    bytes -= step;
    if (within_ < list_[index_].bytes) return;
    ++index_;
    within_ = 0;
  }
}

}  // namespace devmem
