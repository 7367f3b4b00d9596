// SPDX-License-Identifier: Apache-2.0
// A request goes through a slot:
//   1. `next` fills a free slot; the signer adds to its headers; it is added to the multi handle.
//   2. curl_multi_perform moves bytes; the callbacks collect them, and stop a body or head that grows too long.
//   3. A redirect that the rules allow goes back to 2 for its target, unsigned if that is another origin's.
//   4. When it ends and another attempt may help, the slot waits for its time and goes back to 1 with the same
//      request, signed afresh. Otherwise `done` gets the response and the slot is free.
#include "net/curl_client.h"

#include <curl/curl.h>
#include <net/if.h>
#include <strings.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "base/error.h"
#include "net/http_status.h"
#include "net/socket_address.h"

namespace devmem {
namespace {

constexpr size_t kMaxHead = 256 << 10;  // all header lines of one answer; servers send a few KiB
constexpr auto kProgressInterval = std::chrono::milliseconds(100);
constexpr int kHopelessRetries = 3;
constexpr size_t kMostOfRedirect = 64 << 10;  // of the body of a redirect, which nobody reads
constexpr auto kMaxBackoff = std::chrono::seconds(10);

struct EasyDeleter {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiDeleter {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
struct HeaderDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

enum class Phase { kFree, kWaiting, kRunning };

struct Slot {
  Phase phase = Phase::kFree;
  std::unique_ptr<CURL, EasyDeleter> easy;
  std::unique_ptr<curl_slist, HeaderDeleter> headers;
  std::array<char, CURL_ERROR_SIZE> error = {};
  CurlRequest request;
  CurlResponse response;
  // Where it is sent now: the request's own place, or that of the last hop.
  RedirectTarget place;
  int hops = 0;
  bool next_hop = false;       // it waits to be sent to `place`
  bool started_again = false;  // after a redirect's target refused it
  Reach bucket_reach = Reach::kNetwork;
  bool address_refused = false;
  bool redirecting = false;  // the answer under way is a redirect to be followed
  size_t redirect_bytes = 0;
  size_t head_bytes = 0;
  bool head_too_long = false;
  bool body_too_long = false;
  std::string tried;                      // addresses that were connected to
  absl::Status no_room;                   // for the body
  std::shared_ptr<MemoryAccount> memory;  // of the client
  Time start_at;

  [[nodiscard]] CurlResponse Unanswered(bool elsewhere, int attempts) const {
    return {.memory = HeldMemory(memory), .elsewhere = elsewhere, .attempts = attempts, .tag = request.tag};
  }
};

std::string NameOf(const CurlRequest& request) {
  return request.name.empty() ? WithoutQuery(OriginText(request.origin) + request.target) : request.name;
}

bool IsRedirect(int http_status) {
  return http_status == 301 || http_status == 302 || http_status == 303 || http_status == 307 || http_status == 308;
}

std::string UrlOf(const Slot& slot) { return OriginText(slot.place.origin) + slot.place.target; }

// For so much more of the body, counted before it is allocated. A body that moves is there twice meanwhile.
absl::Status MakeRoom(uint64_t more, const CurlRequest& request, CurlResponse& response) {
  std::string& body = response.body;
  const uint64_t needed = body.size() + more;
  if (needed <= body.capacity()) return absl::OkStatus();
  const uint64_t wanted = std::max(needed, std::min<uint64_t>(2 * body.capacity(), request.max_body));
  DEVMEM_RETURN_IF_ERROR(response.memory.Resize(body.capacity() + wanted));
  body.reserve(wanted);
  return response.memory.Resize(body.capacity());
}

size_t OnBody(char* data, size_t, size_t size, void* user) {
  Slot& slot = *static_cast<Slot*>(user);
  if (slot.redirecting) {
    slot.redirect_bytes += size;
    return slot.redirect_bytes <= kMostOfRedirect ? size : 0;
  }
  const uint64_t room = slot.request.max_body - slot.response.body.size();
  const uint64_t taken = std::min<uint64_t>(size, room);
  slot.no_room = MakeRoom(taken, slot.request, slot.response);
  if (!slot.no_room.ok()) return 0;
  slot.response.body.append(data, taken);
  if (size <= room) return size;
  (slot.request.cut_at_max ? slot.response.cut : slot.body_too_long) = true;
  return 0;  // CURLE_WRITE_ERROR ends the transfer
}

size_t OnHeader(char* data, size_t, size_t size, void* user) {
  Slot& slot = *static_cast<Slot*>(user);
  slot.head_bytes += size;
  if (slot.head_bytes > kMaxHead) {
    slot.head_too_long = true;
    return 0;
  }
  std::string_view line(data, size);
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
  CurlResponse& response = slot.response;
  // A new answer, after a redirect or a 1xx: what the one before said is void.
  if (line.substr(0, 5) == "HTTP/") {
    response = slot.Unanswered(response.elsewhere, response.attempts);
    return size;
  }
  if (line.empty()) {  // the head is complete
    long http_status = 0;
    curl_easy_getinfo(slot.easy.get(), CURLINFO_RESPONSE_CODE, &http_status);
    slot.redirecting =
        slot.request.redirects != nullptr && IsRedirect(static_cast<int>(http_status)) && !response.location.empty();
    return size;
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size;
  const std::string_view field = line.substr(0, colon);
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  const auto is = [field](std::string_view name) {
    return field.size() == name.size() && ::strncasecmp(field.data(), name.data(), name.size()) == 0;
  };
  if (is("etag")) response.etag = value;
  if (is("last-modified")) response.last_modified = value;
  if (is("content-range")) response.content_range = value;
  if (is("content-type")) response.content_type = value;
  if (is("retry-after")) response.retry_after = value;
  if (is("location")) response.location = value;
  return size;
}

// Whether the slot's request may go to an address: the bucket's own may be anywhere, and a hop that no rule names must not lead
// to this machine or its link.
bool MayUse(Slot& slot, const sockaddr* address) {
  if (!slot.place.elsewhere || slot.place.named || MayReach(ReachOf(address), slot.bucket_reach)) return true;
  slot.address_refused = true;
  return false;
}

curl_socket_t OnSocket(void* user, curlsocktype, curl_sockaddr* address) {
  Slot& slot = *static_cast<Slot*>(user);
  if (!MayUse(slot, &address->addr)) return CURL_SOCKET_BAD;
  // libcurl's errors name the host, and not which of its addresses were tried.
  slot.tried += (slot.tried.empty() ? "" : " and ") + AddressText(&address->addr);
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

bool IsLoopback(const std::string& host) { return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

// Whether the bucket itself is asked by way of a proxy of the environment; then its address is not known.
bool ByProxy(const Slot& slot) {
  const auto set = [](const char* name) {
    const char* const value = std::getenv(name);
    return value != nullptr && *value != '\0';
  };
  return !IsLoopback(slot.place.origin.host) && (set("http_proxy") || set("all_proxy") || set("ALL_PROXY"));
}

// A connection is there, maybe one that was used before, and the request is about to be sent.
int OnRequest(void* user, char* primary_ip, char*, int primary_port, int) {
  Slot& slot = *static_cast<Slot*>(user);
  const std::optional<SocketAddress> address = ParseAddress(primary_ip, static_cast<uint16_t>(primary_port));
  if (!slot.place.elsewhere) {
    if (address.has_value() && !ByProxy(slot)) slot.bucket_reach = ReachOf(address->get());
    return CURL_PREREQFUNC_OK;
  }
  return address.has_value() && MayUse(slot, address->get()) ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

// For libcurl, which is C: no exception goes through it.
template <size_t (*callback)(char*, size_t, size_t, void*)>
size_t Caught(char* data, size_t item, size_t size, void* user) {
  try {
    return callback(data, item, size, user);
  } catch (const std::bad_alloc&) {
    static_cast<Slot*>(user)->no_room = MakeError(absl::StatusCode::kResourceExhausted, "out of memory",
                                                  {.fault = Fault::kMemoryLimit, .cause = "out of memory"});
    return 0;
  }
}

// The one adapter from CURLcode to absl::Status.
absl::Status CurlError(CURLcode code, const Slot& slot) {
  curl_off_t connected = 0;
  curl_easy_getinfo(slot.easy.get(), CURLINFO_CONNECT_TIME_T, &connected);
  // Where there is no connection yet it is the server's fault, whichever object was to be read.
  const bool of_server = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
                         (code == CURLE_OPERATION_TIMEDOUT && connected == 0);
  const std::string where = of_server ? OriginText(slot.request.origin) : NameOf(slot.request);
  std::string detail = slot.error[0] != '\0' ? slot.error.data() : curl_easy_strerror(code);
  if (of_server && !slot.tried.empty()) detail = "connecting to " + slot.tried;
  const auto fault = [&](absl::StatusCode status, Fault kind, std::string cause, std::string action) {
    const std::string message = cause + (detail.empty() ? "" : ": " + detail);
    return MakeError(status, message, {.object = where, .fault = kind, .cause = std::move(cause), .action = std::move(action)});
  };
  switch (code) {
    case CURLE_COULDNT_CONNECT: {
      long error = 0;
      curl_easy_getinfo(slot.easy.get(), CURLINFO_OS_ERRNO, &error);
      return fault(absl::StatusCode::kUnavailable, error == ECONNREFUSED ? Fault::kConnectionRefused : Fault::kConnection,
                   error == ECONNREFUSED ? "connection refused" : "cannot connect",
                   "check that the server runs and that host and port are right");
    }
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return fault(absl::StatusCode::kUnavailable, Fault::kNoSuchHost, "no such host",
                   "check the host's spelling and this host's DNS");
    case CURLE_OPERATION_TIMEDOUT:
      return fault(absl::StatusCode::kDeadlineExceeded, Fault::kTimeout, "timed out", "check the network and the store's load");
    case CURLE_PARTIAL_FILE:
      return fault(absl::StatusCode::kDataLoss, Fault::kTruncated, "truncated body", "check the server, or a proxy in between");
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
      return fault(absl::StatusCode::kUnavailable, Fault::kConnection, "connection lost", "check the server's log");
    case CURLE_UNSUPPORTED_PROTOCOL:  // how libcurl refuses an HTTP/0.9 answer, that is, one without a status line
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_HTTP2:
    case CURLE_BAD_CONTENT_ENCODING:
      return fault(absl::StatusCode::kFailedPrecondition, Fault::kMalformedAnswer, "not an HTTP/1.1 answer",
                   "check that the port speaks HTTP without TLS");
    case CURLE_OUT_OF_MEMORY:
      return fault(absl::StatusCode::kResourceExhausted, Fault::kMemoryLimit, "out of memory", "");
    default:
      return fault(absl::StatusCode::kUnknown, Fault::kUnspecified, "request failed", "");
  }
}

long Milliseconds(Duration duration) {
  return static_cast<long>(std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()));
}

absl::Status DeadlinePassed(const CurlRequest& request) {
  return MakeError(absl::StatusCode::kDeadlineExceeded, "the deadline passed",
                   {.object = NameOf(request),
                    .fault = Fault::kTimeout,
                    .cause = "timed out",
                    .action = "allow more time, or check the store's load"});
}

class Runner {
 public:
  Runner(const CurlOptions& options, const RequestSigner& signer, std::shared_ptr<MemoryAccount> memory, Time deadline)
      : options_(options), signer_(signer), memory_(std::move(memory)), deadline_(deadline), random_(std::random_device{}()) {}

  absl::Status Run(const CurlClient::Next& next, const CurlClient::Done& done, int parallel,
                   const CurlClient::KeepGoing& keep_going);
  ~Runner() {
    for (const auto& slot : slots_) {
      if (slot->phase == Phase::kRunning) curl_multi_remove_handle(multi_.get(), slot->easy.get());
    }
  }

 private:
  absl::Status Start(Slot& slot);
  absl::Status Send(Slot& slot);
  // Whether the slot's request is over; else it waits for its next attempt, or its next hop.
  bool Finish(Slot& slot, CURLcode code);
  // Prepares the next hop; false where there is none, with the reason in the response.
  bool FollowRedirect(Slot& slot);

  const CurlOptions& options_;
  const RequestSigner& signer_;
  const std::shared_ptr<MemoryAccount> memory_;
  const Time deadline_;
  std::minstd_rand random_;
  std::unique_ptr<CURLM, MultiDeleter> multi_;  // outlives the easy handles in slots_
  std::vector<std::unique_ptr<Slot>> slots_;
};

absl::Status Runner::Start(Slot& slot) {
  const CurlRequest& request = slot.request;
  if (!std::exchange(slot.next_hop, false)) {
    slot.place = {.origin = request.origin, .target = request.target};
    slot.hops = 0;
    ++slot.response.attempts;
  }
  slot.response = slot.Unanswered(slot.place.elsewhere, slot.response.attempts);
  slot.no_room = absl::OkStatus();
  slot.head_bytes = slot.redirect_bytes = 0;
  slot.head_too_long = slot.body_too_long = slot.address_refused = slot.redirecting = false;
  slot.error[0] = '\0';
  slot.tried.clear();
  return Send(slot);
}

absl::Status Runner::Send(Slot& slot) {
  const CurlRequest& request = slot.request;
  const Time now = Clock::now();
  if (now >= deadline_) return DeadlinePassed(request);
  HeaderList headers = request.headers;
  if (!slot.place.elsewhere) DEVMEM_RETURN_IF_ERROR(signer_(slot.place.origin, slot.place.target, headers));
  curl_slist* list = nullptr;
  for (const auto& [field, value] : headers)
    list = curl_slist_append(list, std::string(field).append(": ").append(value).c_str());
  slot.headers.reset(list);

  if (slot.easy == nullptr) slot.easy.reset(curl_easy_init());
  if (slot.easy == nullptr) return absl::ResourceExhaustedError("curl_easy_init: out of memory");
  CURL* const easy = slot.easy.get();
  curl_easy_reset(easy);
  const std::string url = UrlOf(slot);
  curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, slot.headers.get());
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  // A look-up cannot be cancelled. Without this a request that is over its time would wait for it all the same.
  curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
  curl_easy_setopt(easy, CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);  // all addresses of a store are as good
  if (slot.response.attempts > 1) curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, 0L);  // it may have moved
  curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, OnRequest);
  curl_easy_setopt(easy, CURLOPT_PREREQDATA, &slot);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, OnSocket);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, &slot);
  curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "identity");
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "devmem-loader");
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, Milliseconds(std::min(options_.connect_timeout, deadline_ - now)));
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, Milliseconds(std::min(options_.request_timeout, deadline_ - now)));
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, slot.error.data());
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, Caught<OnBody>);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &slot);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, Caught<OnHeader>);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &slot);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, &slot);
  const std::string& host = slot.place.origin.host;
  if (const size_t zone = host.find('%'); zone != std::string::npos) {
    // The Host header carries no zone, so neither does the URL; curl takes it as an interface index.
    const unsigned scope = ::if_nametoindex(host.c_str() + zone + 1);
    curl_easy_setopt(easy, CURLOPT_ADDRESS_SCOPE, static_cast<long>(scope));
  }
  // A proxy of the environment is for other hosts; loopback behind one cannot work, and which address it would send a redirect
  // to could not be told.
  if (IsLoopback(host) || slot.place.elsewhere) curl_easy_setopt(easy, CURLOPT_PROXY, "");
  if (const CURLMcode code = curl_multi_add_handle(multi_.get(), easy); code != CURLM_OK) {
    return absl::InternalError(curl_multi_strerror(code));
  }
  slot.phase = Phase::kRunning;
  return absl::OkStatus();
}

bool Runner::FollowRedirect(Slot& slot) {
  CurlResponse& response = slot.response;
  if (++slot.hops > Redirects::kMost) {
    response.status = MakeError(
        absl::StatusCode::kFailedPrecondition,
        "more than " + std::to_string(Redirects::kMost) + " redirects, the last to " + WithoutQuery(response.location),
        {.object = NameOf(slot.request),
         .fault = Fault::kRedirect,
         .cause = "endless redirect",
         .action = "open the URI it should lead to"});
    return false;
  }
  absl::StatusOr<RedirectTarget> to = slot.request.redirects->Follow(slot.place.origin, slot.place.target, response.location);
  if (!to.ok()) {
    response.status = WithObject(to.status(), NameOf(slot.request));
    return false;
  }
  slot.place = *std::move(to);
  slot.next_hop = true;
  slot.start_at = Clock::now();
  slot.phase = Phase::kWaiting;
  return true;
}

bool Runner::Finish(Slot& slot, CURLcode code) {
  CurlResponse& response = slot.response;
  long http_status = 0;
  curl_easy_getinfo(slot.easy.get(), CURLINFO_RESPONSE_CODE, &http_status);
  response.http_status = static_cast<int>(http_status);
  curl_off_t length = -1;
  curl_easy_getinfo(slot.easy.get(), CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  if (length >= 0) response.content_length = static_cast<uint64_t>(length);
  bool retry = false;
  curl_off_t retry_after = 0;
  bool hopeless = false;
  const int answer = response.http_status;
  if (slot.redirecting && (code == CURLE_OK || code == CURLE_WRITE_ERROR)) {
    return !FollowRedirect(slot);
  }
  if (code == CURLE_OK && slot.hops > 0 && (answer == 400 || answer == 401 || answer == 403) &&
      !std::exchange(slot.started_again, true)) {  // what was signed for some minutes is over: ask for a new one
    slot.start_at = Clock::now();
    slot.phase = Phase::kWaiting;
    return false;
  }
  if (slot.address_refused && (code == CURLE_COULDNT_CONNECT || code == CURLE_ABORTED_BY_CALLBACK)) {
    response.status = RedirectRefused(WithoutQuery(UrlOf(slot)), NameOf(slot.request));
  } else if (slot.head_too_long) {
    response.status = MakeError(absl::StatusCode::kFailedPrecondition, "the answer's header is longer than 256 KiB",
                                {.object = NameOf(slot.request),
                                 .fault = Fault::kBadAnswer,
                                 .cause = "header too long",
                                 .action = "check what answers on that port"});
  } else if (!slot.no_room.ok()) {
    response.status = WithObject(slot.no_room, NameOf(slot.request));
    response.body = {};
    response.memory.Clear();
  } else if (slot.body_too_long) {
    response.status = MakeError(absl::StatusCode::kResourceExhausted,
                                "the answer is longer than " + std::to_string(slot.request.max_body) + " bytes",
                                {.object = NameOf(slot.request),
                                 .fault = Fault::kBadAnswer,
                                 .cause = "answer too long",
                                 .action = "check what the server sends"});
  } else if (code != CURLE_OK && !(code == CURLE_WRITE_ERROR && response.cut)) {
    response.status = CurlError(code, slot);
    const Fault fault = FaultOf(response.status);
    retry = MayPass(fault);
    hopeless = fault == Fault::kConnectionRefused || fault == Fault::kMalformedAnswer;
  } else if (MayPass(FaultOfHttpStatus(response.http_status))) {
    retry = true;
    curl_easy_getinfo(slot.easy.get(), CURLINFO_RETRY_AFTER, &retry_after);
  }
  // Nobody listens, or nobody who speaks HTTP: a restart takes a moment, a wrong port stays wrong, and a person waits.
  const int retries = hopeless ? std::min(options_.max_retries, kHopelessRetries) : options_.max_retries;
  if (!retry || response.attempts > retries) return true;
  // Half fixed, half random: clients that failed together do not come back together, and the whole is bounded from
  // below, so that an outage of a known length is survived for sure.
  const int doublings = std::min(response.attempts - 1, 20);
  const Duration ceiling = std::min<Duration>(options_.first_backoff * (int64_t{1} << doublings), kMaxBackoff);
  const Duration jittered(std::uniform_int_distribution<Duration::rep>(ceiling.count() / 2, ceiling.count())(random_));
  const Duration asked = std::chrono::seconds(std::clamp<curl_off_t>(retry_after, 0, 86400));
  const Time at = Clock::now() + std::max(jittered, asked);
  if (at >= deadline_) return true;  // it could only be late: the fault at hand says more than a deadline would
  slot.start_at = at;
  slot.phase = Phase::kWaiting;
  return false;
}

absl::Status Runner::Run(const CurlClient::Next& next, const CurlClient::Done& done, int parallel,
                         const CurlClient::KeepGoing& keep_going) {
  multi_.reset(curl_multi_init());
  if (multi_ == nullptr) return absl::ResourceExhaustedError("curl_multi_init: out of memory");
  parallel = std::clamp(parallel, 1, 256);
  curl_multi_setopt(multi_.get(), CURLMOPT_MAXCONNECTS, static_cast<long>(parallel));
  for (int i = 0; i < parallel; ++i) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->memory = memory_;
  }
  const auto deliver = [&done](Slot& slot) {
    slot.phase = Phase::kFree;
    done(std::move(slot.response));
    slot.response = {};
  };
  Time ask_at = Clock::now() + kProgressInterval;
  for (;;) {
    bool busy = false;
    Time wake = std::min(deadline_, Clock::now() + kProgressInterval);
    for (const auto& slot : slots_) {
      while (slot->phase == Phase::kFree) {
        std::optional<CurlRequest> request = next();
        if (!request.has_value()) break;
        slot->request = *std::move(request);
        slot->response = {};
        slot->started_again = false;
        slot->bucket_reach = Reach::kNetwork;
        if (absl::Status status = Start(*slot); !status.ok()) {
          slot->response.status = std::move(status);
          deliver(*slot);
        }
      }
      if (slot->phase == Phase::kWaiting) {
        if (slot->start_at <= Clock::now()) {
          if (absl::Status status = Start(*slot); !status.ok()) {
            slot->response.status = std::move(status);
            deliver(*slot);
          }
        } else {
          wake = std::min(wake, slot->start_at);
        }
      }
      busy |= slot->phase != Phase::kFree;
    }
    if (!busy) {
      // A delivery above may have made work for a slot already passed.
      std::optional<CurlRequest> request = next();
      if (!request.has_value()) return absl::OkStatus();
      slots_.front()->request = *std::move(request);
      slots_.front()->response = {};
      slots_.front()->started_again = false;
      slots_.front()->bucket_reach = Reach::kNetwork;
      slots_.front()->start_at = Clock::now();
      slots_.front()->phase = Phase::kWaiting;
      continue;
    }
    int running = 0;
    if (const CURLMcode code = curl_multi_perform(multi_.get(), &running); code != CURLM_OK)
      return absl::InternalError(curl_multi_strerror(code));
    bool finished = false;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const CURLcode code = message->data.result;  // `message` does not outlive the handle's removal
      Slot* slot = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &slot);
      curl_multi_remove_handle(multi_.get(), slot->easy.get());
      if (Finish(*slot, code)) deliver(*slot);
      finished = true;
    }
    if (Clock::now() >= ask_at) {
      if (keep_going && !keep_going())
        return MakeError(absl::StatusCode::kCancelled, "cancelled by the caller", {.cause = "cancelled"});
      ask_at = Clock::now() + kProgressInterval;
    }
    if (finished) continue;
    const int wait_ms = static_cast<int>(Milliseconds(wake - Clock::now()));
    if (const CURLMcode code = curl_multi_poll(multi_.get(), nullptr, 0, wait_ms, nullptr); code != CURLM_OK) {
      return absl::InternalError(curl_multi_strerror(code));
    }
  }
}

void InitializeCurlOnce() {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)once;
}

}  // namespace

CurlClient::CurlClient(CurlOptions options, RequestSigner signer, std::shared_ptr<MemoryAccount> memory)
    : options_(options), signer_(std::move(signer)), memory_(std::move(memory)) {
  InitializeCurlOnce();
}

absl::Status CurlClient::Run(const Next& next, const Done& done, int parallel, Time deadline,
                             const KeepGoing& keep_going) const {
  return Runner(options_, signer_, memory_, deadline).Run(next, done, parallel, keep_going);
}

CurlResponse CurlClient::Get(CurlRequest request, Time deadline) const {
  std::optional<CurlRequest> pending = std::move(request);
  CurlResponse response;
  const absl::Status status = Run([&pending] { return std::exchange(pending, std::nullopt); },
                                  [&response](CurlResponse got) { response = std::move(got); }, 1, deadline, nullptr);
  if (!status.ok()) response.status = status;
  return response;
}

}  // namespace devmem
