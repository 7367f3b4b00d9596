// SPDX-License-Identifier: Apache-2.0
// What every ByteStream over TCP says and does alike about its socket.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace devmem {

// A non-blocking TCP socket, without Nagle's delay.
[[nodiscard]] absl::StatusOr<UniqueFd> OpenStreamSocket(int family);

// Whatever broke a connection, another one may work: always kUnavailable, which the caller retries.
[[nodiscard]] absl::Status ConnectionError(int error_number, std::string_view what);
[[nodiscard]] absl::Status ConnectionEnded();

// Whether a receive would find nothing: no byte, no end, no error. Whatever SO_RCVLOWAT is, and whichever memory bytes lie in.
[[nodiscard]] bool IsQuiet(int fd);

// SO_RCVLOWAT as it was last set, so that it is not set twice.
class LowWater {
 public:
  void Set(int fd, uint64_t bytes);

 private:
  uint64_t bytes_ = 1;
};

}  // namespace devmem
