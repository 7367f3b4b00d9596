// SPDX-License-Identifier: Apache-2.0
// The one place every outgoing request's headers pass, each time it is sent: where a store that needs credentials
// adds its authorization. Today's stores are anonymous; a signer must be thread-safe.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "net/uri.h"

namespace devmem {

using HeaderList = std::vector<std::pair<std::string, std::string>>;

// Adds to `headers` what a GET of `target` (origin-form, percent-encoded, with its query) from `origin` needs.
using RequestSigner = std::function<absl::Status(const HttpOrigin& origin, std::string_view target, HeaderList& headers)>;

[[nodiscard]] inline RequestSigner AnonymousSigner() {
  return [](const HttpOrigin&, std::string_view, HeaderList&) { return absl::OkStatus(); };
}

}  // namespace devmem
