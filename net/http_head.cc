// SPDX-License-Identifier: Apache-2.0
#include "net/http_head.h"

#include <http_parser.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

absl::Status Bad(std::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, what,
                   {.cause = "malformed HTTP response", .action = "check that the address is an HTTP/1.1 store"});
}

struct Collector {
  ResponseHead head;
  std::string name;
  std::string value;
  bool in_value = false;
  bool complete = false;
  absl::Status status;

  void Field() {
    const auto is = [&](std::string_view wanted) {
      return name.size() == wanted.size() && ::strncasecmp(name.data(), wanted.data(), wanted.size()) == 0;
    };
    std::string text = std::move(value);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.pop_back();
    if (is("content-length")) {
      // http_parser itself refuses a second Content-Length and one beside chunked.
      uint64_t length = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
      if (error != std::errc() || end != text.data() + text.size()) {
        status = Bad(absl::StrCat("Content-Length is not a number: '", text, "'"));
      } else {
        head.content_length = length;
      }
    } else if (is("content-range")) {
      if (head.content_range.has_value()) status = Bad("two Content-Range fields");
      head.content_range = ParseContentRange(text);
    } else if (is("content-encoding")) {
      head.content_encoding = std::move(text);
    } else if (is("etag")) {
      head.etag = std::move(text);
    } else if (is("last-modified")) {
      head.last_modified = std::move(text);
    } else if (is("location")) {
      head.location = std::move(text);
    } else if (is("retry-after")) {
      head.retry_after = std::move(text);
    }
    name.clear();
    value.clear();
    in_value = false;
  }
};

Collector& Of(http_parser* parser) { return *static_cast<Collector*>(parser->data); }

int OnField(http_parser* parser, const char* at, size_t length) {
  Collector& collector = Of(parser);
  if (collector.in_value) collector.Field();
  collector.name.append(at, length);
  return 0;
}

int OnValue(http_parser* parser, const char* at, size_t length) {
  Collector& collector = Of(parser);
  collector.head.status = parser->status_code;
  collector.in_value = true;
  collector.value.append(at, length);
  return 0;
}

int OnComplete(http_parser* parser) {
  Collector& collector = Of(parser);
  if (collector.in_value) collector.Field();
  collector.complete = true;
  collector.head.status = parser->status_code;
  collector.head.chunked = (parser->flags & F_CHUNKED) != 0;
  collector.head.keep_alive = http_should_keep_alive(parser) != 0;
  http_parser_pause(parser, 1);  // the body is not its business
  return 1;
}

}  // namespace

absl::StatusOr<std::optional<ResponseHead>> ParseResponseHead(std::string_view bytes) {
  // Garbage is told from a slow head by its first bytes, not after 16 KiB of it.
  constexpr std::string_view kStart = "HTTP/1.";
  if (bytes.substr(0, kStart.size()) != kStart.substr(0, std::min(bytes.size(), kStart.size()))) {
    return Bad("the response does not start with an HTTP/1 status line");
  }
  const size_t end = bytes.find("\r\n\r\n");
  const size_t end_bare = bytes.find("\n\n");
  if (end == std::string_view::npos && end_bare == std::string_view::npos) {
    if (bytes.size() >= kMaxHeadBytes) return Bad(absl::StrCat("the response's head is longer than ", kMaxHeadBytes, " bytes"));
    return std::nullopt;
  }
  const size_t head_bytes =
      std::min(end == std::string_view::npos ? end : end + 4, end_bare == std::string_view::npos ? end_bare : end_bare + 2);

  Collector collector;
  http_parser parser;
  http_parser_init(&parser, HTTP_RESPONSE);
  parser.data = &collector;
  http_parser_settings settings;
  http_parser_settings_init(&settings);
  settings.on_header_field = OnField;
  settings.on_header_value = OnValue;
  settings.on_headers_complete = OnComplete;
  http_parser_execute(&parser, &settings, bytes.data(), head_bytes);
  const http_errno error = HTTP_PARSER_ERRNO(&parser);
  if (!collector.complete) {
    return Bad(absl::StrCat("the response's head cannot be read: ", http_errno_description(error)));
  }
  DEVMEM_RETURN_IF_ERROR(collector.status);
  if (collector.head.status < 100 || collector.head.status > 599)
    return Bad(absl::StrCat("HTTP status ", collector.head.status));
  collector.head.bytes = head_bytes;
  return std::move(collector.head);
}

}  // namespace devmem
