// SPDX-License-Identifier: Apache-2.0
#include "net/http_status.h"

#include <string>
#include <utility>

namespace devmem {
namespace {

struct Meaning {
  absl::StatusCode code;
  Fault fault;
  const char* cause;
  const char* action;
};

Meaning MeaningOf(int http_status) {
  switch (http_status) {
    case 400:
      return {absl::StatusCode::kInvalidArgument, Fault::kBadAnswer, "bad request", "check the URI"};
    case 401:
      return {absl::StatusCode::kPermissionDenied, Fault::kCredentials, "access refused",
              "allow anonymous reading of the bucket; signed requests come in a later release"};
    case 403:
      return {absl::StatusCode::kPermissionDenied, Fault::kForbidden, "access refused",
              "allow anonymous reading of the bucket; signed requests come in a later release"};
    case 404:
    case 410:
      return {absl::StatusCode::kNotFound, Fault::kObjectGone, "no such object",
              "check the URI and that the object still exists"};
    case 408:
      return {absl::StatusCode::kUnavailable, Fault::kTimeout, "server timed out the request",
              "try again; check the store's health"};
    case 412:
      return {absl::StatusCode::kAborted, Fault::kObjectChanged, "object changed",
              "it was written to after it was listed: open the bucket again"};
    case 416:
      return {absl::StatusCode::kOutOfRange, Fault::kObjectChanged, "range beyond the object",
              "the object is shorter than expected: list the bucket again"};
    case 429:
      return {absl::StatusCode::kUnavailable, Fault::kThrottled, "too many requests",
              "lower the number of parallel requests or raise the store's limit"};
    case 501:
    case 505:
      return {absl::StatusCode::kFailedPrecondition, Fault::kBadAnswer, "not supported by the server",
              "check that the URI is served by an object store or web server"};
    default:
      break;
  }
  if (http_status >= 500 && http_status < 600) {
    return {absl::StatusCode::kUnavailable, Fault::kServerError, "server error", "check the store's health and its log"};
  }
  if (http_status >= 300 && http_status < 400) {
    return {absl::StatusCode::kFailedPrecondition, Fault::kRedirect, "redirected", "use the URI it redirects to"};
  }
  if (http_status >= 200 && http_status < 300) {
    return {absl::StatusCode::kFailedPrecondition, Fault::kBadAnswer, "unexpected success status",
            "the server must answer ranged GETs with 206"};
  }
  return {absl::StatusCode::kUnknown, Fault::kBadAnswer, "unexpected status",
          "check that the URI is served by an object store or web server"};
}

const char* Reason(int http_status) {
  switch (http_status) {
    case 200:
      return "OK";
    case 206:
      return "Partial Content";
    case 301:
      return "Moved Permanently";
    case 302:
      return "Found";
    case 304:
      return "Not Modified";
    case 307:
      return "Temporary Redirect";
    case 308:
      return "Permanent Redirect";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 410:
      return "Gone";
    case 412:
      return "Precondition Failed";
    case 416:
      return "Range Not Satisfiable";
    case 429:
      return "Too Many Requests";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "";
  }
}

}  // namespace

absl::Status HttpStatusError(int http_status, ErrorInfo where) {
  const Meaning meaning = MeaningOf(http_status);
  if (where.cause.empty()) where.cause = meaning.cause;
  if (where.fault == Fault::kUnspecified) where.fault = meaning.fault;
  where.http_status = http_status;
  if (where.action.empty()) where.action = meaning.action;
  std::string message = "the server answered " + std::to_string(http_status);
  if (const char* reason = Reason(http_status); *reason != '\0') message.append(" ").append(reason);
  return MakeError(meaning.code, message, std::move(where));
}

Fault FaultOfHttpStatus(int http_status) { return MeaningOf(http_status).fault; }

}  // namespace devmem
