// SPDX-License-Identifier: Apache-2.0
// One steered connection of the canary's: HTTP requests, and their answers as the NIC put them into the landing pool. It keeps
// every token until it is closed, so that no buffer is written twice and the pool can be held against what was sent.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto stream, CanaryStream::Connect(parts, address, deadline));
//   DEVMEM_ASSIGN_OR_RETURN(CanaryStream::Answer answer, stream->Ask("GET / HTTP/1.1\r\n\r\n", deadline));
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "gpu/device.h"
#include "net/http_head.h"
#include "net/resolver.h"
#include "net/rx/flow_steering.h"
#include "service/doctor/canary_judge.h"

namespace devmem::doctor {

class CanaryStream {
 public:
  // Borrowed; they outlive the stream.
  struct Parts {
    FlowSteering* steering = nullptr;
    Device* device = nullptr;
    DeviceMemory* pool = nullptr;
    uint32_t dmabuf = 0;          // the pool's id as it is bound
    uint64_t receive_buffer = 0;  // bytes as the kernel counts them
  };

  struct Answer {
    uint64_t begin = 0;                // of the stream
    std::optional<ResponseHead> head;  // nullopt: what lies there is none
  };

  // kUnavailable where the connection came by another queue than the rule says.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<CanaryStream>> Connect(const Parts& parts, const SocketAddress& address,
                                                                             Time deadline);

  // Sends a request, and receives until its answer is whole, or until its beginning turns out to be no HTTP.
  [[nodiscard]] absl::StatusOr<Answer> Ask(const std::string& request, Time deadline);

  // All that came so far, as it lies in the pool or came through host memory.
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  [[nodiscard]] const std::vector<PoolFragment>& fragments() const { return fragments_; }
  [[nodiscard]] uint64_t device_bytes() const { return device_bytes_; }
  [[nodiscard]] uint64_t linear_bytes() const { return linear_bytes_; }  // that the NIC left beside the headers
  // Bytes that came whole into host memory, and the NAPIs that such came by.
  [[nodiscard]] uint64_t host_bytes() const { return host_bytes_; }
  [[nodiscard]] const std::set<uint32_t>& host_napis() const { return host_napis_; }
  // Bytes in a dma-buf that is not the pool, and its id.
  [[nodiscard]] uint64_t foreign_bytes() const { return foreign_bytes_; }
  [[nodiscard]] uint32_t foreign_dmabuf() const { return foreign_dmabuf_; }

 private:
  explicit CanaryStream(const Parts& parts);
  [[nodiscard]] absl::Status Open(const SocketAddress& address, Time deadline);
  [[nodiscard]] absl::Status Await(short events, Time deadline) const;
  [[nodiscard]] absl::Status Send(const std::string& request, Time deadline);
  [[nodiscard]] absl::Status Receive(Time deadline);
  [[nodiscard]] absl::Status Take(msghdr& message, uint64_t bytes);

  const Parts parts_;
  std::vector<char> host_, control_;
  std::unique_ptr<FlowSteering::Lease> lease_;  // its rule goes after the socket
  UniqueFd fd_;
  std::string bytes_;
  std::vector<PoolFragment> fragments_;
  uint64_t device_bytes_ = 0, linear_bytes_ = 0, host_bytes_ = 0, foreign_bytes_ = 0;
  uint32_t foreign_dmabuf_ = 0;
  std::set<uint32_t> host_napis_;
};

}  // namespace devmem::doctor
