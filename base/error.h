// SPDX-License-Identifier: Apache-2.0
// The error currency: absl::Status, with an ErrorInfo that says what kind of fault it is, whose, on what it happened and
// what to do next. errno, CURLcode and the rest become a Status in exactly one adapter each; this is errno's.
//
//   return MakeError(absl::StatusCode::kDataLoss, "body ended 12 bytes early",
//                    {.object = "train/0001.npy", .offset = 4096, .length = 1024, .fault = Fault::kTruncated,
//                     .cause = "truncated body", .action = "check the store; the range was retried 5 times"});
//   if (ScopeOf(status) == Scope::kObject) Skip();
//
// Code branches on the fault and its scope. The words (message, cause, action) are for people: a Cause cannot be compared.
// The detail travels inside the Status as a payload, and the gRPC server turns it into the typed
// devmem_loader.v1.ErrorDetail that trainers see. Thread-safe: these are values.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace devmem {

// What went wrong, as far as any code acts on it. The numbers are those of devmem_loader.v1.Fault.
enum class Fault : uint8_t {
  kUnspecified = 0,  // nothing acts on it: the status code and the words say all
  // An object.
  kObjectGone = 1,
  kObjectChanged = 2,    // it is another version than was listed
  kObjectMalformed = 3,  // not of its format, or not like its siblings
  // An object, or the store it is in: another object must be read to tell (MayBeTheObjects).
  kForbidden = 4,  // HTTP 403
  kTruncated = 5,  // the body keeps ending early
  kEncoded = 6,    // a Content-Encoding that was not asked for
  // A store, or the way to it.
  kCredentials = 7,  // none, wrong or expired
  kThrottled = 8,
  kServerError = 9,
  kBadAnswer = 10,        // HTTP, but not an answer to what was asked: no length, another range, ranges ignored
  kMalformedAnswer = 11,  // not HTTP
  kRedirect = 12,         // endless, or to what is no URL
  kConnection = 13,
  kConnectionRefused = 14,
  kConnectionEnded = 15,  // by the other end, between two messages
  kNoSuchHost = 16,
  kTimeout = 17,
  // A rule, a limit or the request itself.
  kBadRequest = 18,  // what the user asked for makes no sense
  kAccess = 19,      // no rule allows it
  kQuota = 20,
  kMemoryLimit = 21,
  kNoZeroCopy = 22,  // required, and not to be had
  kTooManySkipped = 23,
  kListingChanged = 24,  // not the listing that a cursor, or another rank, speaks of
  kDraining = 25,        // the daemon is about to end; its successor serves on
  kToken = 26,           // not of this daemon
  // This machine.
  kOutOfDescriptors = 27,
  kLandingPoolFull = 28,
  kSteering = 29,  // a flow's rule could not be made, or is not there any more
  kNoModule = 30,  // devmem_binding is not loaded
  kDevice = 31,
  kRuleTableFull = 32,
  kNoRoute = 33,
  kOtherNic = 34,       // the route to a peer leads through a NIC that is not bound
  kHostBytes = 35,      // a steered connection's payload came through host memory
  kForeignMemory = 36,  // payload lay in device memory that is not ours
  kNoNameServer = 37,   // none answered: nobody knows whether there is such a host
};
inline constexpr uint8_t kFaults = 38;
[[nodiscard]] std::string_view Name(Fault fault);  // "object_gone"; "" for kUnspecified

// Whose fault it is, and so who else suffers: the readers of one object, of one store, or whoever the rule is for. The numbers
// are those of devmem_loader.v1.Scope.
enum class Scope : uint8_t {
  kUnspecified = 0,  // the daemon's, the machine's or nobody knows
  kObject = 1,
  kStore = 2,
  kPolicy = 3,
};
[[nodiscard]] std::string_view Name(Scope scope);  // "object"; "" for kUnspecified

// The scope of a fault where nobody knows better. What may be either the object's or the store's is the store's.
[[nodiscard]] Scope ScopeOf(Fault fault);
// Whether a fault of the store's turns out to be the object's if another object of the store can be read since.
[[nodiscard]] bool MayBeTheObjects(Fault fault);
// Whether it may be gone when the same is asked again a little later, although nobody did anything about it.
[[nodiscard]] bool MayPass(Fault fault);

// The fault in a few words, for people. It can be added to a message; it cannot be compared or looked into, so no code can
// depend on how it is worded (tests/lint/prose_test.py holds this).
class Cause {
 public:
  Cause() = default;
  Cause(std::string text) : text_(std::move(text)) {}  // NOLINT(google-explicit-constructor)
  Cause(std::string_view text) : text_(text) {}        // NOLINT(google-explicit-constructor)
  Cause(const char* text) : text_(text) {}             // NOLINT(google-explicit-constructor)
  bool operator==(const Cause&) const = delete;

  [[nodiscard]] bool empty() const { return text_.empty(); }
  void AppendTo(std::string& message) const { message += text_; }
  friend std::ostream& operator<<(std::ostream& out, const Cause& cause) { return out << cause.text_; }

 private:
  std::string text_;
};

struct ErrorInfo {
  std::string object;   // object name or URI, socket path, queue: what it happened on
  uint64_t offset = 0;  // byte range within the object, where that means something
  uint64_t length = 0;
  Fault fault = Fault::kUnspecified;
  Scope scope = Scope::kUnspecified;  // in MakeError: kUnspecified means ScopeOf(fault)
  int http_status = 0;                // what a store answered, where it did
  int error_number = 0;               // errno, where a system call gave it
  Cause cause;                        // the fault in a few words
  std::string action;                 // what a person should do next
};

// A Status whose message holds `message` and every part of `info`, so that it reads whole in a log; the
// parts can be had again with GetErrorInfo.
[[nodiscard]] absl::Status MakeError(absl::StatusCode code, std::string_view message, const ErrorInfo& info);

// The same for a text that holds every part already, because it comes from another process of ours.
[[nodiscard]] absl::Status MakeErrorVerbatim(absl::StatusCode code, std::string_view text, const ErrorInfo& info);

// The detail of `status`; empty fields where none was attached.
[[nodiscard]] ErrorInfo GetErrorInfo(const absl::Status& status);

// The same for one part of it.
[[nodiscard]] Fault FaultOf(const absl::Status& status);
[[nodiscard]] Scope ScopeOf(const absl::Status& status);

// A short name of what went wrong, out of a bounded list, for metrics and to say a thing but once: the fault's, else errno's
// ("EIO"), else the code's ("internal").
[[nodiscard]] std::string LabelOf(const absl::Status& status);

// `status` with another scope: for a layer that knows more of who else suffers.
[[nodiscard]] absl::Status WithScope(const absl::Status& status, Scope scope);

// `status` with its object filled in (where it has none) — for a layer that knows the name when the one
// below did not.
[[nodiscard]] absl::Status WithObject(const absl::Status& status, std::string_view object);

// errno as a Status: code from absl::ErrnoToStatusCode, text "<what>: <strerror>", and the fault where errno tells one.
[[nodiscard]] absl::Status ErrnoError(int error_number, std::string_view what, ErrorInfo info = {});

// absl 20220623 prints its own string_view; ours is std's everywhere.
[[nodiscard]] inline std::string Text(const absl::Status& status) { return std::string(status.message()); }

}  // namespace devmem

// Returns from the enclosing function if `expr` is a Status that is not OK.
#define DEVMEM_RETURN_IF_ERROR(expr)                                                       \
  do {                                                                                     \
    if (absl::Status devmem_status_ = (expr); !devmem_status_.ok()) return devmem_status_; \
  } while (false)

// DEVMEM_ASSIGN_OR_RETURN(auto x, MakeX());
#define DEVMEM_ASSIGN_OR_RETURN(lhs, expr) DEVMEM_ASSIGN_OR_RETURN_IMPL_(DEVMEM_CONCAT_(devmem_or_, __LINE__), lhs, expr)
#define DEVMEM_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return std::move(tmp).status();      \
  lhs = std::move(*tmp)
#define DEVMEM_CONCAT_(a, b) DEVMEM_CONCAT_IMPL_(a, b)
#define DEVMEM_CONCAT_IMPL_(a, b) a##b
