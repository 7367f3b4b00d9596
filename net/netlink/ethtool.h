// SPDX-License-Identifier: Apache-2.0
// What ethtool sets: rings with header split, channels, features, the RSS table. By ethtool netlink, and by ioctl where
// the kernel is too old to set it so (6.12 has no RSS_SET).
//
// Errors as in netdev.h. Interfaces go by name, in the network namespace of the thread that opened this; an object
// belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace devmem {

enum class HeaderSplit : uint8_t { kUnknown = 0, kOff = 1, kOn = 2 };  // tcp-data-split; set kUnknown: as the driver likes

struct Rings {
  uint32_t rx = 0;  // descriptors
  uint32_t rx_max = 0;
  bool has_header_split = false;  // the driver reports tcp-data-split at all
  HeaderSplit header_split = HeaderSplit::kUnknown;
  std::optional<uint32_t> threshold;  // hds-thresh, bytes; nullopt before 6.14
  std::optional<uint32_t> threshold_max;
};

struct Channels {
  uint32_t rx = 0, combined = 0;
  uint32_t rx_max = 0, combined_max = 0;
  [[nodiscard]] uint32_t rx_queues() const { return rx + combined; }
};

struct Feature {
  bool active = false;
  bool fixed = false;  // cannot be changed
};

struct RssTable {
  std::vector<uint32_t> queues;  // entry -> queue
};

// What a network device keeps across names, indexes and network namespaces.
struct NicIdentity {
  std::string driver;
  std::string bus;            // its parent device: a PCI address, say
  std::string permanent_mac;  // "02:64:6d:73:00:00"; empty: it has none
  bool operator==(const NicIdentity& other) const = default;
};

class Ethtool {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Ethtool>> Open();
  virtual ~Ethtool() = default;

  [[nodiscard]] virtual absl::StatusOr<std::string> Driver(const std::string& interface) = 0;
  [[nodiscard]] virtual absl::StatusOr<NicIdentity> Identity(const std::string& interface) = 0;
  [[nodiscard]] virtual absl::StatusOr<Rings> GetRings(const std::string& interface) = 0;
  // `threshold` is ignored on kernels that have none and where it already is so.
  [[nodiscard]] virtual absl::Status SetHeaderSplit(const std::string& interface, HeaderSplit split,
                                                    std::optional<uint32_t> threshold) = 0;
  [[nodiscard]] virtual absl::StatusOr<Channels> GetChannels(const std::string& interface) = 0;

  // `name` as in `ethtool -k` ("rx-gro-hw", "rx-ntuple-filter"); kNotFound if this kernel knows none of that name.
  [[nodiscard]] virtual absl::StatusOr<Feature> GetFeature(const std::string& interface, const std::string& name) = 0;
  // kFailedPrecondition if the driver refused: the kernel says OK then, and leaves it as it was.
  [[nodiscard]] virtual absl::Status SetFeature(const std::string& interface, const std::string& name, bool on) = 0;

  // Of the main context, or of an additional one.
  [[nodiscard]] virtual absl::StatusOr<RssTable> GetRss(const std::string& interface, uint32_t context = 0) = 0;
  [[nodiscard]] virtual absl::StatusOr<std::vector<uint32_t>> RssContexts(const std::string& interface) = 0;  // without 0
  [[nodiscard]] virtual absl::Status SetRss(const std::string& interface, const RssTable& table) = 0;
  // To the driver's default; channel counts may change freely again.
  [[nodiscard]] virtual absl::Status ResetRss(const std::string& interface) = 0;
};

}  // namespace devmem
