// SPDX-License-Identifier: Apache-2.0
// Whether a bucket's store answers, how soon, by which NIC, and what credentials there are for it. Credentials are looked for
// and never read out: a row says which kind was found.
//
//   const StoreFacts facts = LookAtStore({.uri = "http://192.0.2.2:8080/", .timeout = std::chrono::seconds(30)});
//   const Rows rows = StoreRows(facts, {.nics = {"eth0"}, .slow = std::chrono::milliseconds(250)});
//
// Threads: LookAtStore() blocks, up to its timeout; StoreRows() is a pure function.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "net/object_store.h"
#include "service/doctor/row.h"

namespace devmem::doctor {

struct StoreQuestion {
  std::string uri;
  std::string endpoint_url;  // s3
  Duration timeout{};        // of the listing, and again of the reads
};

struct StoreFacts {
  std::string uri;  // as asked for until it is parsed, then without what does not belong into a log
  absl::Status listed;
  std::shared_ptr<ObjectStore> store;  // null: it could not be opened
  size_t objects = 0;
  std::string largest;  // an object's name
  uint64_t largest_bytes = 0;
  absl::Status read;                     // of a byte of it
  std::optional<Duration> latency;       // the shortest of a few such reads, with their connections
  bool by_wire = false;                  // it is not this host's file system
  bool local = false;                    // it is this very host
  absl::Status routed;                   // whether a route was found
  std::string route;                     // the interface that the kernel sends by; empty: not known
  std::vector<std::string> devices;      // the physical ones under it
  std::vector<std::string> credentials;  // the kinds found: "AWS_ACCESS_KEY_ID"
  bool half_credentials = false;         // a key without its secret, or the other way round
};

[[nodiscard]] StoreFacts LookAtStore(const StoreQuestion& question);

using GetEnvironment = std::function<const char*(const char* name)>;
// The kinds of credentials that are set for S3, in the order in which tools look for them.
[[nodiscard]] std::vector<std::string> FindCredentials(const GetEnvironment& environment);

struct StoreNeeds {
  std::vector<std::string> nics;  // the physical devices that payload shall come by
  Duration slow{};                // from here on a read is slow
};
[[nodiscard]] Rows StoreRows(const StoreFacts& facts, const StoreNeeds& needs);

}  // namespace devmem::doctor
