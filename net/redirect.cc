// SPDX-License-Identifier: Apache-2.0
#include "net/redirect.h"

#include <curl/curl.h>

#include <charconv>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "net/object_name.h"

namespace devmem {
namespace {

constexpr size_t kLongestLocation = 16 << 10;

std::string Part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
  std::string result = text;
  curl_free(text);
  return result;
}

absl::Status BadLocation(std::string_view location, std::string_view what) {
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   absl::StrCat("redirected to \"", WithoutQuery(location), "\"", std::string(what)),
                   {.fault = Fault::kRedirect, .cause = "bad redirect", .action = "check the store's configuration"});
}

// Whether a server may read the path as another one than it says.
bool IsPlain(std::string_view path) {
  for (const absl::string_view part : absl::StrSplit(absl::string_view(path.data(), path.size()), '/')) {
    const std::string segment = DecodePercent(std::string_view(part.data(), part.size()));
    const std::string name = segment.substr(0, segment.find(';'));
    if (name == "." || name == ".." || segment.find_first_of("/\\%") != std::string::npos) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<RedirectTarget> Redirects::Follow(const HttpOrigin& from, std::string_view target,
                                                 const std::string& location) const {
  if (location.size() > kLongestLocation) return BadLocation(location.substr(0, 64), ", which is too long");
  const std::unique_ptr<CURLU, void (*)(CURLU*)> url(curl_url(), curl_url_cleanup);
  if (url == nullptr) return absl::ResourceExhaustedError("curl_url: out of memory");
  const std::string base = absl::StrCat(OriginText(from), std::string(target));
  if (curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) {
    return BadLocation(location, ", which is no URL");
  }
  if (Part(url.get(), CURLUPART_SCHEME) != "http") return BadLocation(location, ": only http is supported");
  if (!Part(url.get(), CURLUPART_USER).empty() || !Part(url.get(), CURLUPART_PASSWORD).empty()) {
    return BadLocation(location, " with user information, which is refused");
  }
  RedirectTarget to;
  to.origin.host = to.origin.host_header = Part(url.get(), CURLUPART_HOST);
  if (to.origin.host.size() > 2 && to.origin.host.front() == '[') {
    to.origin.host = to.origin.host.substr(1, to.origin.host.size() - 2);
    if (const std::string zone = Part(url.get(), CURLUPART_ZONEID); !zone.empty()) absl::StrAppend(&to.origin.host, "%", zone);
  }
  const std::string port = Part(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
  std::from_chars(port.data(), port.data() + port.size(), to.origin.port);
  if (to.origin.host.empty() || to.origin.port == 0) return BadLocation(location, ", which names no host or port");
  if (to.origin.port != 80) absl::StrAppend(&to.origin.host_header, ":", port);
  const std::string path = Part(url.get(), CURLUPART_PATH);
  to.target = path;
  if (const std::string query = Part(url.get(), CURLUPART_QUERY); !query.empty()) absl::StrAppend(&to.target, "?", query);
  if (to.origin.host_header == from.host_header) to.origin = from;  // which may have a zone
  to.elsewhere = !absl::EqualsIgnoreCase(to.origin.host, bucket_.host) || to.origin.port != bucket_.port;
  // What lies at or below the bucket was allowed when it was opened.
  if (!to.elsewhere && absl::StartsWith(path, bucket_.path) && IsPlain(path)) return to;
  if (policy_ == nullptr) return to;
  const std::string plain = absl::StrCat(OriginText(to.origin), path);
  const absl::StatusOr<RedirectPolicy::Verdict> verdict = policy_->Judge(plain);
  if (!verdict.ok()) {
    return MakeError(absl::StatusCode::kPermissionDenied,
                     absl::StrCat("redirected to ", WithoutQuery(plain), ", which no access rule lets this user open"),
                     {.fault = Fault::kAccess, .cause = "redirect refused", .action = GetErrorInfo(verdict.status()).action});
  }
  to.named = *verdict == RedirectPolicy::Verdict::kNamed;
  return to;
}

bool MayReach(Reach target, Reach bucket) { return target == Reach::kNetwork || target == bucket; }

absl::Status RedirectRefused(std::string_view url, std::string_view object) {
  return MakeError(absl::StatusCode::kPermissionDenied,
                   absl::StrCat("redirected to ", std::string(url), ", which is an address of this machine or of its link"),
                   {.object = std::string(object),
                    .fault = Fault::kAccess,
                    .cause = "redirect refused",
                    .action = "if it shall be followed, have a rule that names it added to `access`"});
}

}  // namespace devmem
