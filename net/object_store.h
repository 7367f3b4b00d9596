// SPDX-License-Identifier: Apache-2.0
// ObjectStore: a bucket, whatever serves it. Lists it, reads small pieces (headers of files, an index) through
// libcurl, and says how a Transport shall ask for payload. Credentials and signing live behind this interface and
// nowhere else: a request is prepared each time it is sent, and what was signed for one is used for no other.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto store, OpenStore("http://127.0.0.1:8080/train/", {}));
//   DEVMEM_ASSIGN_OR_RETURN(ObjectTable objects, store->List(deadline, nullptr));
//
// Threads: every method may be called from any thread. List and ReadSmall block; PrepareGet does not.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/memory_account.h"
#include "net/object_table.h"
#include "net/redirect.h"

namespace devmem {

// How payload of one object is to be had: a path on this host, or an HTTP request to an origin.
struct PayloadRequest {
  std::string file_path;  // not empty: a local file; all else is unused

  std::string host;  // name or address literal, without brackets
  uint16_t port = 80;
  std::string host_header;                                   // "host:port", brackets for IPv6
  std::string target;                                        // origin-form, percent-encoded: "/train/0001.npy?x=y"
  std::vector<std::pair<std::string, std::string>> headers;  // of the store (later: authorization)

  // Of a redirect that was followed (net/redirect.h).
  bool elsewhere = false;  // not the host and port of the bucket
  bool named = false;      // a rule names where it leads
};

struct SmallRead {
  std::string object;
  uint64_t offset = 0;
  uint64_t length = 0;    // at most 64 MiB; clipped to the object
  std::string validator;  // if not empty: fail with kAborted unless the object still has it

  // Results.
  absl::Status status;
  std::string bytes;
  HeldMemory memory;  // what the bytes take
  uint64_t object_size = 0;
  std::string object_validator;  // as in ObjectTable
  bool elsewhere = false;        // the store redirected to another origin: what is not the bucket's is not to be told of
  int64_t object_modified = 0;   // unix seconds; 0: the store does not say
};

struct StoreOptions {
  std::string endpoint_url;  // s3: "http://127.0.0.1:5000"; empty: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL
  Duration connect_timeout = std::chrono::seconds(5);
  Duration request_timeout = std::chrono::seconds(30);  // of one small request, retries excluded
  bool portable_validators = false;  // file: HTTP dates, as a web server over the same folder would give (for an index)
  std::shared_ptr<const RedirectPolicy> redirects;  // what the access rules say to a hop; null: there are no rules
  int max_retries = 6;                              // of 408, 429, 5xx and broken connections, with back-off and jitter
  // Where listings and small reads are counted while they are there; null: nowhere. No room ends them: kResourceExhausted.
  std::shared_ptr<MemoryAccount> memory;
};

// Called now and then from the calling thread; false cancels (kCancelled).
using ProgressFn = std::function<bool(uint64_t done, uint64_t total)>;

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  // The URI it was opened with, without credentials: what errors and status pages show.
  [[nodiscard]] virtual const std::string& uri() const = 0;

  // Every object below the bucket's root, sorted by name; an empty bucket is an empty table, a missing one
  // kNotFound. Folders are walked. `progress` may be null.
  [[nodiscard]] virtual absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const = 0;

  // Performs all reads, up to `parallel` at once, and fills in their results. One read's failure is its own
  // status; the function itself fails only if nothing could be tried. Reads longer than the object are clipped.
  [[nodiscard]] virtual absl::Status ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline,
                                               const ProgressFn& progress) const = 0;

  [[nodiscard]] virtual absl::StatusOr<PayloadRequest> PrepareGet(std::string_view object) const = 0;

  // What to ask for in place of `from`, which was answered by a redirect to `location`; kPermissionDenied (Scope::kPolicy)
  // where the rules do not let it go there.
  [[nodiscard]] virtual absl::StatusOr<PayloadRequest> Redirect(const PayloadRequest& /*from*/,
                                                                const std::string& /*location*/) const {
    return absl::UnimplementedError("this store sends nobody on");
  }
};

// Opens "http://host[:port]/path/", "s3://bucket[/prefix]" or "file:///path". kInvalidArgument for another scheme or
// a malformed URI, saying what is supported. Nothing is contacted yet.
[[nodiscard]] absl::StatusOr<std::unique_ptr<ObjectStore>> OpenStore(std::string_view uri, const StoreOptions& options);

}  // namespace devmem
