// SPDX-License-Identifier: Apache-2.0
// Where a store may send the daemon on to. A redirect is the store's word, or that of whoever may write to it, and the daemon
// stands elsewhere in the network than the trainer: so each hop is held against the rules that let the trainer open the bucket.
//
//   const Redirects redirects({.host = "store", .host_header = "store", .path = "/train/"}, policy);
//   DEVMEM_ASSIGN_OR_RETURN(RedirectTarget to, redirects.Follow(from, "/train/x", "http://other/x?signature=…"));
//
// What a name resolves to is known only later. Whoever connects asks MayReach() about the address, for a target that is
// `elsewhere` and not `named`. Values; thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "net/socket_address.h"
#include "net/uri.h"

namespace devmem {

// What the access rules say to a hop, for the user for whom the bucket was opened.
class RedirectPolicy {
 public:
  enum class Verdict : uint8_t {
    kAllowed,
    kNamed,  // by a rule that names where it leads, so it may also be an address of this machine or its link
  };
  virtual ~RedirectPolicy() = default;
  // `url` is "http://host[:port]/path", without a query. kPermissionDenied (Fault::kAccess) where no rule allows it.
  [[nodiscard]] virtual absl::StatusOr<Verdict> Judge(std::string_view url) const = 0;
};

struct RedirectTarget {
  HttpOrigin origin;       // its path means nothing
  std::string target;      // origin-form, percent-encoded, with its query: a secret, if it is presigned
  bool elsewhere = false;  // not the host and port of the bucket
  bool named = false;
};

class Redirects {
 public:
  static constexpr int kMost = 5;

  // `bucket` is where the bucket's objects lie, its path included. Without a policy there are no rules.
  Redirects(HttpOrigin bucket, std::shared_ptr<const RedirectPolicy> policy)
      : bucket_(std::move(bucket)), policy_(std::move(policy)) {}

  // Where `location`, the answer to `target` of `from`, leads.
  [[nodiscard]] absl::StatusOr<RedirectTarget> Follow(const HttpOrigin& from, std::string_view target,
                                                      const std::string& location) const;

 private:
  HttpOrigin bucket_;
  std::shared_ptr<const RedirectPolicy> policy_;
};

// Whether a redirect that no rule names may lead to an address that reaches as far as `target`, away from a bucket on one that
// reaches as far as `bucket`: out to the network always, and to the machine or its link only where the bucket is there itself.
[[nodiscard]] bool MayReach(Reach target, Reach bucket);
// What becomes of one that may not. `url` has no query. It does not say what the name resolves to.
[[nodiscard]] absl::Status RedirectRefused(std::string_view url, std::string_view object);

}  // namespace devmem
