// SPDX-License-Identifier: Apache-2.0
// ListObjectsV2's answer and S3's error document. Pure functions; what they are given comes from another machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/error.h"

namespace devmem {

struct S3Object {
  std::string key;  // decoded, whole: with the prefix
  uint64_t size = 0;
  std::string etag;  // in its quotes; empty if it is not a strong one
  bool operator==(const S3Object&) const = default;
};

struct S3Page {
  std::vector<S3Object> objects;
  std::string next_token;  // empty: this was the last page
};

// What ParseS3Page takes besides `xml` while it works, at most.
[[nodiscard]] uint64_t S3PageMemory(std::string_view xml);

// `where` is the bucket's URI, for errors.
[[nodiscard]] absl::StatusOr<S3Page> ParseS3Page(std::string_view xml, std::string_view where);

// What an answer other than 2xx means: <Code> and <Message> where `body` has them, else the status alone.
// NoSuchBucket and NoSuchKey are kNotFound, AccessDenied kPermissionDenied, PreconditionFailed kAborted, SlowDown
// kUnavailable.
[[nodiscard]] absl::Status S3Error(int http_status, std::string_view body, ErrorInfo where);

}  // namespace devmem
