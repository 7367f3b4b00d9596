// SPDX-License-Identifier: Apache-2.0
#include "net/s3_listing.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <pugixml.hpp>
#include <utility>

#include "base/text.h"
#include "net/http_fields.h"
#include "net/http_status.h"
#include "net/uri.h"

namespace devmem {
namespace {

absl::Status NotAListing(std::string_view where, const std::string& what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "the answer is not a ListObjectsV2 page: " + what,
                   {.object = std::string(where), .cause = "not a listing", .action = "check that the endpoint speaks S3"});
}

// With encoding-type=url servers write a space as "+" (AWS, MinIO) or "%20" (moto), and a plus always as "%2B".
std::string DecodeKey(const char* text, bool encoded) {
  if (!encoded) return text;
  std::string spaced(text);
  for (char& c : spaced) c = c == '+' ? ' ' : c;
  return DecodePercent(spaced);
}

}  // namespace

// A page of a thousand keys is a few hundred KB, and four bytes of XML, "<a/>", are enough for a node of the parser's.
uint64_t S3PageMemory(std::string_view xml) {
  constexpr uint64_t kNode = 64;       // of pugixml: eight words; attributes are smaller
  constexpr uint64_t kPage = 2 << 15;  // its allocations
  const auto count = [xml](char c) { return static_cast<uint64_t>(std::count(xml.begin(), xml.end(), c)); };
  // Its own copy of the text; an element and the text after it for each "<"; what we make of an element.
  return xml.size() + (2 * kNode + sizeof(S3Object)) * count('<') + kNode * count('=') + xml.size() + kPage;
}

absl::StatusOr<S3Page> ParseS3Page(std::string_view xml, std::string_view where) {
  pugi::xml_document document;
  // No document types, no entities but the five of XML: parse_default expands nothing else.
  const pugi::xml_parse_result parsed =
      document.load_buffer(xml.data(), xml.size(), pugi::parse_default | pugi::parse_ws_pcdata_single, pugi::encoding_utf8);
  if (!parsed) return NotAListing(where, std::string(parsed.description()) + " at byte " + std::to_string(parsed.offset));
  const pugi::xml_node root = document.child("ListBucketResult");
  if (!root) return NotAListing(where, "there is no ListBucketResult");
  const bool encoded = std::strcmp(root.child_value("EncodingType"), "url") == 0;
  S3Page page;
  for (pugi::xml_node node = root.child("Contents"); node; node = node.next_sibling("Contents")) {
    S3Object object{.key = DecodeKey(node.child_value("Key"), encoded)};
    if (object.key.empty()) return NotAListing(where, "an object without a key");
    const std::string_view size = node.child_value("Size");
    const auto [end, error] = std::from_chars(size.data(), size.data() + size.size(), object.size);
    if (size.empty() || error != std::errc() || end != size.data() + size.size() ||
        object.size > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return NotAListing(where, "object \"" + Printable(object.key) + "\" has size \"" + Printable(size) + "\"");
    }
    if (const std::string_view etag = node.child_value("ETag"); IsStrongETag(etag)) object.etag = etag;
    page.objects.push_back(std::move(object));
  }
  const std::string_view truncated = root.child_value("IsTruncated");
  if (truncated == "true") {
    page.next_token = root.child_value("NextContinuationToken");
    if (page.next_token.empty()) return NotAListing(where, "it is truncated, but has no NextContinuationToken");
  } else if (truncated != "false") {
    return NotAListing(where, "IsTruncated is neither true nor false");
  }
  return page;
}

absl::Status S3Error(int http_status, std::string_view body, ErrorInfo where) {
  constexpr size_t kLongest = size_t{64} << 10;  // an error document is a few hundred bytes
  pugi::xml_document document;
  const bool parsed = body.size() <= kLongest && static_cast<bool>(document.load_buffer(
                                                     body.data(), body.size(), pugi::parse_default, pugi::encoding_utf8));
  const pugi::xml_node root = parsed ? document.child("Error") : pugi::xml_node();
  const std::string code = Printable(root.child_value("Code"));
  const std::string text = Printable(root.child_value("Message"));
  if (code.empty()) return HttpStatusError(http_status, std::move(where));
  where.cause = code;
  if (code == "NoSuchBucket" && where.action.empty()) where.action = "check the bucket's name and the endpoint";
  const absl::Status plain = HttpStatusError(http_status, where);
  absl::StatusCode status = plain.code();
  if (code == "NoSuchBucket" || code == "NoSuchKey") status = absl::StatusCode::kNotFound;
  if (code == "AccessDenied" || code == "InvalidAccessKeyId") status = absl::StatusCode::kPermissionDenied;
  if (code == "PreconditionFailed") status = absl::StatusCode::kAborted;
  if (code == "SlowDown" || code == "InternalError" || code == "ServiceUnavailable") status = absl::StatusCode::kUnavailable;
  where = GetErrorInfo(plain);
  if (code == "NoSuchBucket") where.scope = Scope::kStore;
  // Not this object, but who asks: nothing else of the store can be read either (AWS, "Error responses").
  for (const std::string_view of_credentials :
       {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "RequestTimeTooSkewed",
        "TokenRefreshRequired", "AccountProblem", "NotSignedUp"}) {
    if (code == of_credentials) where.fault = Fault::kCredentials;
  }
  if (code == "SlowDown") where.fault = Fault::kThrottled;
  return MakeError(status,
                   "the server answered " + std::to_string(http_status) + " " + code + (text.empty() ? "" : ": " + text),
                   std::move(where));
}

}  // namespace devmem
