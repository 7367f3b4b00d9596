// SPDX-License-Identifier: Apache-2.0
// Whether this machine can receive into device memory, and if not, why: every check, in the order in which a person would look.
// docs/doctor.md says what each means.
//
//   const Rows rows = Examine({.interfaces = {"eth0"}, .device = "cpu", .bucket = "http://192.0.2.2:8080/train/"});
//   const bool able = Healthy(rows);
//
// Nothing is changed but by the canary, which puts the NIC back. Works without root as far as it can.
// Threads: everything happens in the network namespace of the calling thread; it blocks, the timeout a few times at worst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "service/doctor/row.h"

namespace devmem::doctor {

struct DoctorOptions {
  std::vector<std::string> interfaces;  // empty: the NIC that a daemon would choose
  std::string device = "cpu";           // or "cuda:N"
  std::string bucket;                   // empty: no store is looked at
  std::string endpoint_url;             // s3
  bool canary = false;                  // needs a bucket
  size_t queues = 4;                    // as the daemon will be given
  size_t connections = 16;
  std::string journal_folder = "/run/devmem-loader";
  Duration timeout = std::chrono::seconds(30);     // of each wait for the store
  Duration slow = std::chrono::milliseconds(250);  // from here on a store's first byte is slow
};

[[nodiscard]] Rows Examine(const DoctorOptions& options);

// No row is a FAIL.
[[nodiscard]] bool Healthy(const Rows& rows);

}  // namespace devmem::doctor
