// SPDX-License-Identifier: Apache-2.0
#include "net/uri.h"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace devmem {
namespace {

struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, UrlDeleter>;

std::string Part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* value = nullptr;
  if (curl_url_get(url, part, &value, flags) != CURLUE_OK) return "";
  std::string text(value);
  curl_free(value);
  return text;
}

absl::Status Invalid(std::string_view uri, std::string_view message, std::string action) {
  return MakeError(absl::StatusCode::kInvalidArgument, message,
                   {.object = std::string(uri), .cause = "malformed URI", .action = std::move(action)});
}

absl::Status HasCredentials(std::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "user information in a URI is refused",
                   {.object = std::string(what),
                    .cause = "credentials in URI",
                    .action = "remove what stands before '@': URIs are logged, and credentials never belong in them"});
}

// Levenshtein distance; both are a few characters long.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

constexpr char kSupported[] = "supported are http://host[:port]/path/, s3://bucket[/prefix] and file:///path";

absl::Status UnknownScheme(std::string_view uri, std::string_view scheme) {
  std::string action;
  for (const std::string_view known : {"http", "s3", "file"}) {
    if (scheme.size() <= 8 && Distance(scheme, known) <= (known.size() > 2 ? 2 : 1)) {
      action = "did you mean \"" + std::string(known) + std::string(uri.substr(scheme.size())) + "\"? ";
      break;
    }
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "scheme \"" + std::string(scheme) + "\" is not known",
                   {.object = std::string(uri), .cause = "unknown scheme", .action = action + kSupported});
}

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

absl::StatusOr<Url> ParseUrl(std::string_view url, std::string_view what) {
  // Control characters are refused here so that no version of the parser has to be trusted with a CR in a host.
  if (HasControl(url)) return Invalid(what, "it contains a control character", "percent-encode it");
  if (url.find(' ') != std::string_view::npos) return Invalid(what, "it contains a blank", "write %20 for it: it is a URL");
  Url parsed(curl_url());
  if (parsed == nullptr) return absl::ResourceExhaustedError("curl_url: out of memory");
  const std::string text(url);
  if (const CURLUcode code = curl_url_set(parsed.get(), CURLUPART_URL, text.c_str(), 0); code != CURLUE_OK) {
    return Invalid(what, curl_url_strerror(code), kSupported);
  }
  return parsed;
}

// `text` names the whole URI in errors; `url` is what is parsed.
absl::StatusOr<HttpOrigin> ParseHttp(std::string_view url, std::string_view what) {
  // libcurl takes "http:///x" for "http://x".
  if (url.substr(0, 8) == "http:///") return Invalid(what, "the host is missing", kSupported);
  DEVMEM_ASSIGN_OR_RETURN(Url parsed, ParseUrl(url, what));
  if (!Part(parsed.get(), CURLUPART_QUERY).empty() || !Part(parsed.get(), CURLUPART_FRAGMENT).empty()) {
    return Invalid(what, "a query or a fragment means nothing here",
                   "remove what follows '?' or '#'; write a '?' in a name as %3F");
  }
  HttpOrigin origin;
  origin.host_header = Part(parsed.get(), CURLUPART_HOST);
  if (origin.host_header.empty()) return Invalid(what, "the host is missing", kSupported);
  origin.host = origin.host_header;
  if (origin.host.front() == '[') {
    origin.host = origin.host.substr(1, origin.host.size() - 2);
    if (const std::string zone = Part(parsed.get(), CURLUPART_ZONEID); !zone.empty()) origin.host.append("%").append(zone);
  }
  if (const std::string port = Part(parsed.get(), CURLUPART_PORT); !port.empty()) {
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), origin.port);
    if (error != std::errc() || end != port.data() + port.size() || origin.port == 0) {
      return Invalid(what, "the port is not one of 1 to 65535", kSupported);
    }
  }
  if (origin.port != 80) origin.host_header.append(":").append(std::to_string(origin.port));
  std::string path = Part(parsed.get(), CURLUPART_PATH);
  if (path.empty() || path.back() != '/') path.push_back('/');
  // Decoded and encoded segment by segment: one spelling for each path, and a %2F stays a character of its segment.
  for (size_t begin = 1; begin < path.size();) {
    const size_t end = path.find('/', begin);
    const std::string segment = DecodePercent(std::string_view(path).substr(begin, end - begin));
    if (HasControl(segment)) return Invalid(what, "it contains an encoded control character", "remove it");
    origin.path.append("/").append(EncodeSegment(segment));
    begin = end + 1;
  }
  origin.path.push_back('/');
  return origin;
}

absl::StatusOr<StoreUri> ParseS3(std::string_view uri, std::string_view rest) {
  StoreUri parsed{.scheme = StoreScheme::kS3};
  const size_t slash = std::min(rest.find('/'), rest.size());
  parsed.bucket = rest.substr(0, slash);
  if (parsed.bucket.empty()) return Invalid(uri, "the bucket is missing", "write s3://bucket[/prefix]");
  const bool valid =
      parsed.bucket.size() <= 255 && std::all_of(parsed.bucket.begin(), parsed.bucket.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
      });
  if (!valid || parsed.bucket == "." || parsed.bucket == "..") {
    return Invalid(uri, "the bucket's name may hold letters, digits, '.', '-' and '_' only",
                   "write s3://bucket[/prefix]; a port belongs to --endpoint-url");
  }
  if (slash < rest.size()) parsed.prefix = rest.substr(slash + 1);
  if (!parsed.prefix.empty() && parsed.prefix.back() != '/') parsed.prefix.push_back('/');
  if (HasControl(parsed.prefix)) return Invalid(uri, "it contains a control character", "remove it");
  if (("/" + parsed.prefix).find("/../") != std::string::npos || ("/" + parsed.prefix).find("/./") != std::string::npos) {
    return Invalid(uri, "the prefix has a \".\" or \"..\" segment", "write the prefix in full");
  }
  parsed.text = "s3://" + parsed.bucket + "/" + parsed.prefix;
  return parsed;
}

absl::StatusOr<StoreUri> ParseFile(std::string_view uri, std::string_view rest) {
  constexpr std::string_view kLocal = "localhost";
  if (rest.substr(0, kLocal.size() + 1) == "localhost/") rest.remove_prefix(kLocal.size());
  if (rest.empty() || rest.front() != '/') {
    return Invalid(uri, "file:// needs an absolute path, after three slashes", "write file:///" + std::string(rest));
  }
  DEVMEM_ASSIGN_OR_RETURN(Url url, ParseUrl("file://" + std::string(rest), uri));
  if (!Part(url.get(), CURLUPART_QUERY).empty() || !Part(url.get(), CURLUPART_FRAGMENT).empty()) {
    return Invalid(uri, "a query or a fragment means nothing here", "write a '?' in a name as %3F, a '#' as %23");
  }
  StoreUri parsed{.scheme = StoreScheme::kFile};
  parsed.directory = DecodePercent(Part(url.get(), CURLUPART_PATH));
  if (parsed.directory.find('\0') != std::string::npos) return Invalid(uri, "it contains an encoded NUL byte", "remove it");
  while (parsed.directory.size() > 1 && parsed.directory.back() == '/') parsed.directory.pop_back();
  parsed.text = "file://" + EncodePath(parsed.directory);
  return parsed;
}

}  // namespace

absl::StatusOr<StoreUri> ParseStoreUri(std::string_view uri) {
  const size_t colon = uri.find("://");
  if (colon == std::string_view::npos) {
    if (uri.empty()) return Invalid("the bucket's URI", "it is empty", kSupported);
    std::string action = std::string("write file://") + (uri.front() == '/' ? "" : "/absolute/path/to/");
    action.append(uri.substr(uri.substr(0, 2) == "./" ? 2 : 0)).append(" for a folder of this host; ").append(kSupported);
    return MakeError(absl::StatusCode::kInvalidArgument, "it is a path, not a URI",
                     {.object = Printable(uri), .cause = "no scheme", .action = std::move(action)});
  }
  std::string scheme(uri.substr(0, colon));
  for (char& c : scheme) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  const std::string_view rest = uri.substr(colon + 3);
  if (rest.substr(0, rest.find('/')).find('@') != std::string_view::npos) return HasCredentials(scheme + "://...");
  if (scheme == "https" || scheme == "gs") {
    return MakeError(absl::StatusCode::kUnimplemented, "scheme \"" + scheme + "\" comes in a later release",
                     {.object = std::string(uri), .cause = "scheme not supported yet", .action = kSupported});
  }
  if (scheme == "s3") return ParseS3(uri, rest);
  if (scheme == "file") return ParseFile(uri, rest);
  if (scheme != "http") return UnknownScheme(uri, scheme);
  DEVMEM_ASSIGN_OR_RETURN(HttpOrigin origin, ParseHttp("http://" + std::string(rest), uri));
  StoreUri parsed{.scheme = StoreScheme::kHttp};
  parsed.text = OriginText(origin) + origin.path;
  parsed.http = std::move(origin);
  return parsed;
}

absl::StatusOr<HttpOrigin> ParseHttpOrigin(std::string_view url, std::string_view what) {
  const size_t colon = url.find("://");
  const std::string_view rest = colon == std::string_view::npos ? std::string_view() : url.substr(colon + 3);
  if (rest.substr(0, rest.find('/')).find('@') != std::string_view::npos) return HasCredentials(what);
  const std::string where = std::string(what) + " \"" + Printable(url) + "\"";
  if (url.substr(0, 8) == "https://") {
    return MakeError(absl::StatusCode::kUnimplemented, "https comes in a later release",
                     {.object = where, .cause = "scheme not supported yet", .action = "give an http:// endpoint"});
  }
  if (url.substr(0, 7) != "http://") return Invalid(where, "it is not an http:// URL", "write http://host[:port]");
  return ParseHttp(url, where);
}

absl::Status NotAFolder(std::string_view text) {
  if (text.ends_with('/')) text.remove_suffix(1);
  const std::string_view folder = text.substr(0, text.rfind('/') + 1);
  const std::string_view last = text.substr(folder.size());
  std::string action = "give its folder, --bucket '" + Printable(folder) + "'";
  if (last.ends_with(".safetensors")) {
    action += ": every .safetensors object there is a shard";
  } else {
    const std::string name = text.starts_with("s3://") ? std::string(last) : DecodePercent(last);
    action.append(" --tensor 'NAME=").append(Printable(name)).append("' for this object alone");
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "it is an object, not a folder",
                   {.object = std::string(text),
                    .fault = Fault::kBadRequest,
                    .cause = "an object, not a folder",
                    .action = std::move(action)});
}

std::string OriginText(const HttpOrigin& origin) { return "http://" + origin.host_header; }

std::string WithoutQuery(std::string_view url) {
  url = url.substr(0, url.find_first_of("?#"));
  const size_t authority = url.find("//");
  if (authority == std::string_view::npos) return Printable(url);
  // The last '@', wherever it stands: rather too little of the URL than a password.
  const size_t at = url.rfind('@');
  if (at == std::string_view::npos || at < authority) return Printable(url);
  return Printable(std::string(url.substr(0, authority + 2)).append("...").append(url.substr(at)));
}

std::string EncodeSegment(std::string_view text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
        c == '~') {
      encoded.push_back(c);
    } else {
      encoded.append({'%', kHex[byte >> 4], kHex[byte & 15]});
    }
  }
  return encoded;
}

std::string EncodePath(std::string_view name) {
  std::string encoded;
  for (size_t begin = 0;;) {
    const size_t end = std::min(name.find('/', begin), name.size());
    encoded.append(EncodeSegment(name.substr(begin, end - begin)));
    if (end == name.size()) return encoded;
    encoded.push_back('/');
    begin = end + 1;
  }
}

std::string DecodePercent(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char byte = 0;
    if (text[i] == '%' && text.size() - i > 2) {
      const char* const begin = text.data() + i + 1;
      if (const auto [end, error] = std::from_chars(begin, begin + 2, byte, 16); error == std::errc() && end == begin + 2) {
        decoded.push_back(static_cast<char>(byte));
        i += 2;
        continue;
      }
    }
    decoded.push_back(text[i]);
  }
  return decoded;
}

}  // namespace devmem
