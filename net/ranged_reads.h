// SPDX-License-Identifier: Apache-2.0
// Small ranged GETs of many objects, for every store that speaks HTTP: ObjectStore::ReadSmall is this with the
// store's own targets and errors. Runs on the calling thread.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "net/curl_client.h"
#include "net/object_store.h"

namespace devmem {

struct RangedReader {
  const CurlClient& client;
  HttpOrigin origin;
  const Redirects* redirects = nullptr;                                    // null: none is followed
  std::string uri;                                                         // the store's, for errors
  std::function<std::string(std::string_view object)> target;              // origin-form
  std::function<absl::Status(const CurlResponse&, ErrorInfo)> make_error;  // of an answer that is neither 200, 206 nor 416
};

// ObjectStore::Redirect for them. Headers of the store are made anew for its own origin, and go to no other.
[[nodiscard]] absl::StatusOr<PayloadRequest> FollowRedirect(const Redirects& redirects, const RequestSigner& signer,
                                                            const PayloadRequest& from, const std::string& location);

[[nodiscard]] absl::Status ReadRanges(const RangedReader& reader, std::span<SmallRead> reads, int parallel, Time deadline,
                                      const ProgressFn& progress);

}  // namespace devmem
