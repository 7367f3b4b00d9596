// SPDX-License-Identifier: Apache-2.0
// CurlClient: many small GETs at once through one libcurl multi handle, with retries. For listings, headers of files
// and an index; payload never comes this way. Every request is attempted again after 408, 429, 500, 502, 503, 504 and
// broken or refused connections, with exponential back-off and full jitter, no sooner than Retry-After asks, at most
// max_retries times and never past the deadline.
//
// Redirects are followed here and not by libcurl: each hop is held against the rules, and its address before it is connected
// to. A retry begins at the request's own origin again, and so does, once, a request that a redirect's target refuses (400,
// 401, 403).
//
// A client is immutable: Run may be called from any thread, any number at once; each has its own connections. The
// callbacks run on the calling thread.
//
//   CurlClient client({.max_retries = 5}, AnonymousSigner());
//   CurlResponse response = client.Get({.origin = origin, .target = "/x", .max_body = 1 << 20}, deadline);
//   if (!response.status.ok()) return response.status;                      // no HTTP answer
//   if (response.http_status != 200) return HttpStatusError(response.http_status, {.object = "x"});
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/memory_account.h"
#include "net/redirect.h"
#include "net/request_signer.h"
#include "net/uri.h"

namespace devmem {

struct CurlRequest {
  HttpOrigin origin;
  std::string target;  // origin-form, percent-encoded
  HeaderList headers;
  std::string name;                      // what errors call it; empty: the URL
  uint64_t max_body = 0;                 // more is an error, or
  bool cut_at_max = false;               // the transfer is stopped there, and `cut` set
  const Redirects* redirects = nullptr;  // says which are followed; null: none
  uint64_t tag = 0;                      // the caller's own; comes back with the response
};

struct CurlResponse {
  absl::Status status;  // OK: there was an HTTP answer, be it a 404
  int http_status = 0;
  std::string body;
  HeldMemory memory;  // what the body takes
  bool cut = false;
  std::string etag, last_modified, content_range, content_type, retry_after, location;
  std::optional<uint64_t> content_length;
  bool elsewhere = false;  // this is what another origin answered, where the store redirected to
  int attempts = 0;
  uint64_t tag = 0;
};

struct CurlOptions {
  Duration connect_timeout = std::chrono::seconds(5);
  Duration request_timeout = std::chrono::seconds(30);  // of one attempt
  int max_retries = 5;
  Duration first_backoff = std::chrono::milliseconds(400);  // doubles each time: 6 retries wait 11 to 22 s
};

class CurlClient {
 public:
  // Bodies are counted in `memory`, if there is one, as they grow; a body for which there is no room ends its request with
  // kResourceExhausted.
  CurlClient(CurlOptions options, RequestSigner signer, std::shared_ptr<MemoryAccount> memory = nullptr);

  // The next request to send; nothing if there is none now (Run ends when none is under way either).
  using Next = std::function<std::optional<CurlRequest>()>;
  using Done = std::function<void(CurlResponse)>;
  using KeepGoing = std::function<bool()>;  // asked at least every 100 ms; false cancels

  // Sends what `next` gives, up to `parallel` at once, and hands each response to `done`. kCancelled after
  // `keep_going` said no: the responses under way are not delivered. Past the deadline requests still complete, each
  // with kDeadlineExceeded.
  [[nodiscard]] absl::Status Run(const Next& next, const Done& done, int parallel, Time deadline,
                                 const KeepGoing& keep_going) const;

  [[nodiscard]] CurlResponse Get(CurlRequest request, Time deadline) const;

  [[nodiscard]] const RequestSigner& signer() const { return signer_; }

 private:
  CurlOptions options_;
  RequestSigner signer_;
  std::shared_ptr<MemoryAccount> memory_;
};

}  // namespace devmem
