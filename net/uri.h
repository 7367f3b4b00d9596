// SPDX-License-Identifier: Apache-2.0
// Bucket URIs, parsed by libcurl's URL parser, and the percent-encoding of object names. Values; thread-safe.
//
//   DEVMEM_ASSIGN_OR_RETURN(StoreUri uri, ParseStoreUri("http://[::1]:8080/train"));
//   // uri.http.host "::1", .port 8080, .host_header "[::1]:8080", .path "/train/"
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace devmem {

enum class StoreScheme { kHttp, kS3, kFile };

// Where plain HTTP is spoken and below which path.
struct HttpOrigin {
  std::string host;  // name or address literal, without brackets, with a zone where one was given
  uint16_t port = 80;
  std::string host_header;  // what the Host header holds: brackets for IPv6, no port if it is 80
  std::string path;         // percent-encoded, begins and ends with '/'
  bool operator==(const HttpOrigin&) const = default;
};

struct StoreUri {
  StoreScheme scheme = StoreScheme::kFile;
  std::string text;       // the URI in one canonical form, fit for logs
  HttpOrigin http;        // kHttp
  std::string bucket;     // kS3
  std::string prefix;     // kS3: empty, or ends with '/': a prefix is a folder here
  std::string directory;  // kFile: decoded, absolute, without a trailing '/'
};

// "http://host[:port][/path]", "s3://bucket[/prefix]" (taken literally, as aws-cli does) or "file:///path".
// kInvalidArgument with what to write instead; kUnimplemented for https and gs. A URI with user information is
// refused and not repeated in the error.
[[nodiscard]] absl::StatusOr<StoreUri> ParseStoreUri(std::string_view uri);

// An "http://host[:port][/path]" on its own: an S3 endpoint. `what` names it in errors.
[[nodiscard]] absl::StatusOr<HttpOrigin> ParseHttpOrigin(std::string_view url, std::string_view what);

// kInvalidArgument for a bucket, by its StoreUri::text, that is an object, with what to write instead.
[[nodiscard]] absl::Status NotAFolder(std::string_view text);

// "http://<host_header>", with no path.
[[nodiscard]] std::string OriginText(const HttpOrigin& origin);

// The URL as a log or an error may have it: without user information, query and fragment, where secrets are (a presigned URL is
// one), and with what does not print escaped. Also of what is no URL.
[[nodiscard]] std::string WithoutQuery(std::string_view url);

// Percent-encodes everything but RFC 3986's unreserved characters (curl_easy_escape's rule, and SigV4's).
[[nodiscard]] std::string EncodeSegment(std::string_view text);
// The same for each segment of an object name; '/' stays.
[[nodiscard]] std::string EncodePath(std::string_view name);
// Undoes either. A '%' without two hex digits stays as it is.
[[nodiscard]] std::string DecodePercent(std::string_view text);

}  // namespace devmem
