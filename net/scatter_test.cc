// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <random>

#include "gpu/cpu_device.h"
#include "gtest/gtest.h"
#include "net/byte_stream.h"

namespace devmem {
namespace {

// Whatever mixture of Place, Fill and skip moves a body, each byte lands where a plain walk says it does.
TEST(Scatter, RandomPiecesAndChunksLandInPlace) {
  const auto device = MakeCpuDevice();
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const auto memory = device->Allocate(1 << 16, {.name = "scatter"});
    ASSERT_TRUE(memory.ok());
    const auto all = *(*memory)->HostSpan(0, 1 << 16);
    std::memset(all.data(), 0xee, all.size());
    std::vector<DeviceSpan> list;
    std::vector<int> expected(1 << 16, 0xee);
    uint64_t at = 0;
    uint64_t body = 0;
    const uint64_t skip = random() % 500;
    for (int i = 0; i < 40; ++i) {
      const uint64_t bytes = random() % 4 == 0 ? 0 : random() % 900;
      const bool discard = random() % 3 == 0;
      if (at + bytes > all.size()) break;
      list.push_back({.memory = discard ? nullptr : memory->get(), .offset = discard ? 0 : at, .bytes = bytes});
      for (uint64_t k = 0; k < bytes; ++k, ++body) {
        if (!discard && body >= skip) expected[at + k] = static_cast<int>(body % 251);
      }
      if (!discard) at += bytes + random() % 10;
    }
    std::vector<std::byte> waste(64);
    std::array<iovec, 7> pieces;
    Scatter scatter(list, skip);
    uint64_t position = std::min(skip, body);
    ASSERT_EQ(scatter.remaining(), body - position);
    while (scatter.remaining() > 0) {
      std::vector<std::byte> chunk(1 + random() % 300);
      if (random() % 2 == 0) {
        chunk.resize(std::min<uint64_t>(chunk.size(), scatter.remaining()));
        for (size_t k = 0; k < chunk.size(); ++k) chunk[k] = static_cast<std::byte>((position + k) % 251);
        ASSERT_TRUE(scatter.Place(chunk).ok());
        position += chunk.size();
      } else {
        const auto count = scatter.Fill(pieces, chunk.size(), waste);
        ASSERT_TRUE(count.ok());
        ASSERT_GT(*count, 0u);
        uint64_t filled = 0;
        for (size_t p = 0; p < *count; ++p) {
          ASSERT_GT(pieces[p].iov_len, 0u);
          for (size_t k = 0; k < pieces[p].iov_len; ++k, ++filled) {
            static_cast<std::byte*>(pieces[p].iov_base)[k] = static_cast<std::byte>((position + filled) % 251);
          }
        }
        ASSERT_LE(filled, chunk.size());
        scatter.Advance(filled);
        position += filled;
      }
    }
    for (size_t k = 0; k < all.size(); ++k)
      ASSERT_EQ(std::to_integer<int>(all[k]), expected[k]) << "byte " << k << " in round " << round;
  }
}

}  // namespace
}  // namespace devmem
