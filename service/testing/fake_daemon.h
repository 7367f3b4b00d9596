// SPDX-License-Identifier: Apache-2.0
// FakeDaemon: a daemon with real sockets and real slabs that invents its batches, and misbehaves as told. For tests.
//
// Batch k of an epoch has one tensor "x" of uint64, shape [1, kWords], word i = Word(epoch, k, i), and the cursor
// {epoch, k + 1}. A resume cursor is honoured. Owns its server; thread-safe where tests need it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "devmem_loader/v1/handle_socket.pb.h"
#include "devmem_loader/v1/loader.pb.h"

namespace devmem::testing {

inline constexpr size_t kWords = 64;
[[nodiscard]] constexpr uint64_t Word(uint64_t epoch, uint64_t k, uint64_t i) { return epoch << 48 | k << 16 | i; }

struct FakeDaemonOptions {
  std::string path;
  uint64_t batches = 10;  // an epoch
  uint64_t epochs = 1;
  uint64_t per_message = 1;
  uint64_t slots = 4;
  uint32_t slabs = 1;
  uint64_t kill_after = 0;  // SIGKILL to this process after sending so many batches; 0: never
  bool answer = true;       // OpenStream with `opened`, rather than never
  bool seal = true;
  bool send_slabs = true;
  uint64_t fail_after = ~uint64_t{0};  // end with `failure` after so many batches
  absl::Status failure;
  bool knows_faults = true;  // false: as a daemon up to 0.1.0, whose errors are told by their words
  std::function<void(devmem_loader::v1::OpenStreamResponse&)> edit;  // every message, just before it is sent
  std::function<void(devmem_loader::v1::SlabHandle&)> edit_handle;
  std::function<absl::Status()> admit;
  bool releases_streams = true;  // ReleaseStream is answered; else it is unknown, as to daemons of earlier versions
};

class FakeDaemon {
 public:
  static std::unique_ptr<FakeDaemon> Start(FakeDaemonOptions options);
  virtual ~FakeDaemon() = default;
  [[nodiscard]] virtual uint64_t releases() const = 0;  // received so far, of all streams
  [[nodiscard]] virtual uint64_t release_messages() const = 0;
  [[nodiscard]] virtual bool WaitForReleases(uint64_t count) = 0;
  [[nodiscard]] virtual bool WaitForStreamsToEnd() = 0;  // all that began
  [[nodiscard]] virtual uint64_t opens() const = 0;
  [[nodiscard]] virtual std::vector<std::string> released_streams() const = 0;  // by ReleaseStream, answered or not
};

}  // namespace devmem::testing
