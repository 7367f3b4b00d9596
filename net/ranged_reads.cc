// SPDX-License-Identifier: Apache-2.0
// What an answer to "Range: bytes=a-b" may be, and what becomes of it:
//   206: Content-Range must begin at a, its total is the object's size, the body must be as long as it says;
//   200: the server ignores ranges, or the object is empty: taken if the bytes up to b are few enough, and the
//        transfer is stopped after them; Content-Length then says how long the object is;
//   416 with "bytes */total": a lies at or beyond the end, the read is clipped to nothing. S3 servers answer 416
//        without a Content-Range: the read is asked for once more, without Range, and goes the way of a 200.
// The validator asked for goes into If-Match or If-Unmodified-Since, and is compared with what the answer carries:
// not every server heeds preconditions.
#include "net/ranged_reads.h"

#include <curl/curl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "base/text.h"
#include "net/http_fields.h"
#include "net/object_name.h"

namespace devmem {
namespace {

constexpr uint64_t kMaxSmallRead = uint64_t{64} << 20;  // SmallRead's contract

ErrorInfo Where(const SmallRead& read, Fault fault, std::string cause, std::string action) {
  return {.object = read.object,
          .offset = read.offset,
          .length = read.length,
          .fault = fault,
          .cause = std::move(cause),
          .action = std::move(action)};
}

absl::Status BadAnswer(const SmallRead& read, const std::string& message) {
  return MakeError(absl::StatusCode::kDataLoss,
                   read.elsewhere ? "it was redirected, and what is there is not what was asked for" : message,
                   Where(read, Fault::kBadAnswer, "wrong answer to a ranged GET", "check the server, or a proxy in between"));
}

absl::Status CheckRead(const SmallRead& read, std::string_view uri) {
  DEVMEM_RETURN_IF_ERROR(CheckObjectName(read.object, uri));
  if (read.length > kMaxSmallRead || read.offset > uint64_t{std::numeric_limits<int64_t>::max()} - kMaxSmallRead) {
    return MakeError(absl::StatusCode::kInvalidArgument, "a small read is 64 MiB at most, below 2^63",
                     Where(read, Fault::kBadRequest, "read too long", ""));
  }
  if (!read.validator.empty() && !IsStrongETag(read.validator) && !IsHttpDate(read.validator)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "the validator is neither a strong ETag nor an HTTP date",
                     Where(read, Fault::kBadRequest, "bad validator", "list the bucket again"));
  }
  return absl::OkStatus();
}

CurlRequest MakeRequest(const RangedReader& reader, const SmallRead& read, bool ranged, uint64_t tag) {
  // A read of nothing asks for a byte, to learn size and validator.
  const uint64_t ask = std::max<uint64_t>(read.length, 1);
  CurlRequest request{.origin = reader.origin,
                      .target = reader.target(read.object),
                      .name = read.object,
                      .redirects = reader.redirects,
                      .tag = tag};
  if (ranged)
    request.headers.emplace_back("Range", "bytes=" + std::to_string(read.offset) + "-" + std::to_string(read.offset + ask - 1));
  if (!read.validator.empty())
    request.headers.emplace_back(read.validator.front() == '"' ? "If-Match" : "If-Unmodified-Since", read.validator);
  // Room for the answer of a server that ignores ranges and starts at 0; and for an error page.
  request.max_body = std::max<uint64_t>(std::min(read.offset + ask, kMaxSmallRead), uint64_t{64} << 10);
  request.max_body = std::max(request.max_body, ask);
  request.cut_at_max = true;
  return request;
}

absl::Status TakeAnswer(const RangedReader& reader, CurlResponse response, SmallRead& read) {
  if (!response.status.ok()) return response.status;
  read.elsewhere = response.elsewhere;
  const int code = response.http_status;
  if (code != 200 && code != 206 && code != 416) {
    return reader.make_error(response, {.object = read.object, .offset = read.offset, .length = read.length});
  }
  if (!read.validator.empty() && code != 416) {
    const std::string& now = read.validator.front() == '"' ? response.etag : response.last_modified;
    if (now != read.validator) {
      return MakeError(absl::StatusCode::kAborted,
                       "the object changed since it was listed: it was " + read.validator + " and is " +
                           (now.empty() ? "without a validator" : Printable(now)),
                       Where(read, Fault::kObjectChanged, "object changed", "open the bucket again when nobody writes to it"));
    }
  }
  read.object_validator = ChooseValidator(response.etag, response.last_modified);
  if (IsHttpDate(response.last_modified)) {
    read.object_modified = std::max<int64_t>(0, ::curl_getdate(response.last_modified.c_str(), nullptr));
  }
  const std::optional<ContentRange> range = ParseContentRange(response.content_range);
  if (code == 416) {
    if (!range.has_value() || range->satisfied || range->total > read.offset) {
      return reader.make_error(response, {.object = read.object, .offset = read.offset, .length = read.length});
    }
    read.object_size = range->total;
    return absl::OkStatus();
  }
  if (code == 200) {
    if (response.cut) {
      // The size is on the answer's head even where its body was not read to the end.
      if (!response.content_length.has_value())
        return BadAnswer(read, "the server ignores Range and does not say how long the object is");
      if (response.body.size() < read.offset + read.length && *response.content_length > read.offset) {
        return BadAnswer(read, "the server ignores Range, and the range lies too far into the object to read up to it");
      }
    }
    read.object_size = response.cut ? *response.content_length : response.body.size();
    read.bytes = std::move(response.body);
    read.memory = std::move(response.memory);
    read.bytes.erase(0, std::min<uint64_t>(read.offset, read.bytes.size()));
    if (read.bytes.size() > read.length) read.bytes.resize(read.length);
    return absl::OkStatus();
  }
  if (!range.has_value() || !range->satisfied)
    return BadAnswer(read, "a 206 without a valid Content-Range: \"" + Printable(response.content_range) + "\"");
  if (range->first != read.offset || response.cut || response.body.size() != range->last - range->first + 1) {
    return BadAnswer(read, "the answer holds " + std::to_string(response.body.size()) + " bytes and claims \"" +
                               Printable(response.content_range) + "\"");
  }
  const uint64_t expected = std::min(std::max<uint64_t>(read.length, 1), range->total - range->first);
  if (response.body.size() != expected) {
    return BadAnswer(read,
                     "asked for " + std::to_string(expected) + " bytes, got \"" + Printable(response.content_range) + "\"");
  }
  read.object_size = range->total;
  read.bytes = std::move(response.body);
  read.memory = std::move(response.memory);
  read.bytes.resize(std::min<uint64_t>(read.bytes.size(), read.length));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PayloadRequest> FollowRedirect(const Redirects& redirects, const RequestSigner& signer,
                                              const PayloadRequest& from, const std::string& location) {
  const HttpOrigin asked{.host = from.host, .port = from.port, .host_header = from.host_header, .path = "/"};
  DEVMEM_ASSIGN_OR_RETURN(RedirectTarget to, redirects.Follow(asked, from.target, location));
  PayloadRequest request{.host = to.origin.host,
                         .port = to.origin.port,
                         .host_header = to.origin.host_header,
                         .target = std::move(to.target),
                         .elsewhere = to.elsewhere,
                         .named = to.named};
  if (!to.elsewhere) DEVMEM_RETURN_IF_ERROR(signer(to.origin, request.target, request.headers));
  return request;
}

absl::Status ReadRanges(const RangedReader& reader, std::span<SmallRead> reads, int parallel, Time deadline,
                        const ProgressFn& progress) {
  for (SmallRead& read : reads) {
    read.status =
        MakeError(absl::StatusCode::kCancelled, "cancelled by the caller", {.object = read.object, .cause = "cancelled"});
    read.bytes = {};
    read.memory.Clear();
    read.object_size = 0;
    read.object_validator.clear();
    read.elsewhere = false;
    read.object_modified = 0;
  }
  uint64_t next = 0, done = 0;
  std::vector<uint64_t> without_range;          // to be asked for again
  std::vector<bool> asked_again(reads.size());  // once each
  const auto next_request = [&]() -> std::optional<CurlRequest> {
    if (!without_range.empty()) {
      const uint64_t index = without_range.back();
      without_range.pop_back();
      return MakeRequest(reader, reads[index], false, index);
    }
    for (; next < reads.size(); ++next) {
      if (absl::Status status = CheckRead(reads[next], reader.uri); !status.ok()) {
        reads[next].status = std::move(status);
        ++done;
        continue;
      }
      const uint64_t index = next++;
      return MakeRequest(reader, reads[index], true, index);
    }
    return std::nullopt;
  };
  const auto take = [&](CurlResponse response) {
    SmallRead& read = reads[response.tag];
    if (response.status.ok() && response.http_status == 416 && response.content_range.empty() && !asked_again[response.tag]) {
      asked_again[response.tag] = true;
      without_range.push_back(response.tag);
      return;
    }
    read.status = TakeAnswer(reader, std::move(response), read);
    if (!read.status.ok()) {
      read.bytes = {};
      read.memory.Clear();
    }
    ++done;
  };
  DEVMEM_RETURN_IF_ERROR(
      reader.client.Run(next_request, take, parallel, deadline, [&] { return !progress || progress(done, reads.size()); }));
  if (progress && !progress(done, reads.size()))
    return MakeError(absl::StatusCode::kCancelled, "cancelled by the caller", {.object = reader.uri, .cause = "cancelled"});
  return absl::OkStatus();
}

}  // namespace devmem
