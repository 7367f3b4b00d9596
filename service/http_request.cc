// SPDX-License-Identifier: Apache-2.0
#include "service/http_request.h"

#include <http_parser.h>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

absl::Status Bad(std::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, what,
                   {.cause = "malformed HTTP request", .action = "send GET with HTTP/1.1, without TLS"});
}

struct Collector {
  std::string target;
  bool complete = false;
};

int OnUrl(http_parser* parser, const char* at, size_t length) {
  static_cast<Collector*>(parser->data)->target.append(at, length);
  return 0;
}

int OnComplete(http_parser* parser) {
  static_cast<Collector*>(parser->data)->complete = true;
  http_parser_pause(parser, 1);  // the body is not its business
  return 1;
}

std::string PathOf(const std::string& target, bool connect) {
  http_parser_url url;
  http_parser_url_init(&url);
  if (http_parser_parse_url(target.data(), target.size(), connect ? 1 : 0, &url) != 0) return "";
  if ((url.field_set & (1 << UF_PATH)) == 0) return "";
  return target.substr(url.field_data[UF_PATH].off, url.field_data[UF_PATH].len);
}

}  // namespace

absl::StatusOr<std::optional<RequestHead>> ParseRequestHead(std::string_view bytes) {
  Collector collector;
  http_parser parser;
  http_parser_init(&parser, HTTP_REQUEST);
  parser.data = &collector;
  http_parser_settings settings;
  http_parser_settings_init(&settings);
  settings.on_url = OnUrl;
  settings.on_headers_complete = OnComplete;
  const std::string_view head = bytes.substr(0, kMaxRequestHead);
  http_parser_execute(&parser, &settings, head.data(), head.size());
  if (!collector.complete) {
    if (const http_errno error = HTTP_PARSER_ERRNO(&parser); error != HPE_OK) {
      return Bad(absl::StrCat("the request cannot be read: ", http_errno_description(error)));
    }
    if (head.size() == kMaxRequestHead)
      return Bad(absl::StrCat("the request's head is longer than ", kMaxRequestHead, " bytes"));
    return std::nullopt;
  }
  const auto method = static_cast<http_method>(parser.method);
  return RequestHead{.method = http_method_str(method), .path = PathOf(collector.target, method == HTTP_CONNECT)};
}

}  // namespace devmem
