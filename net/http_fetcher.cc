// SPDX-License-Identifier: Apache-2.0
// The life of a range:
//   1. Start: the task waits at its origin until a connection is free or may be made.
//   2. The connection sends GET with Range and If-Match (or If-Unmodified-Since) and peeks for the head.
//   3. 206 (or a 200 that is exactly the range wanted from byte 0): sizes, range and validator are checked against
//      the listing and against what the stream saw of the object before, then the body moves to its destinations without
//      passing through here.
//   4. A connection that breaks, stalls or answers what may pass (408, 429, 503) hands the task back with the byte reached;
//      it waits (exponential, jittered, Retry-After respected) and goes to 1 from that byte.
//   5. A redirect that the store's rules allow sends the task to 1 at another origin. It is good for one attempt: a retry
//   begins
//      at the store again.
//   6. Anything else ends the task with an error that names the object and the range.
//
// An origin's addresses are looked up again when they are kRefresh old, or when a connection failed or another worker found
// others. Connections go to all of them in turn. When an address is in the answer no more, its idle connections are closed and
// the others after their range.
//
// Destinations are never touched after Done(): a connection is closed, and known to be closed, before its task moves on.
#include "net/http_fetcher.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/text.h"
#include "net/http_fields.h"
#include "net/http_head.h"
#include "net/http_status.h"
#include "net/object_pins.h"
#include "net/redirect.h"
#include "net/stream_socket.h"
#include "net/uri.h"

namespace devmem {
namespace {

constexpr Duration kIdle = std::chrono::seconds(30);  // shorter than the keep-alive of common servers (nginx: 75 s)

// How old an origin's addresses are when they are looked up again, and when they are used no more. If the name server does not
// answer they are used on, for as long as they work: its failure shall stop no stream.
constexpr Duration kRefresh = std::chrono::seconds(30);
constexpr Duration kExpire = std::chrono::seconds(60);
constexpr Duration kKeepAtMost = std::chrono::minutes(5);
constexpr Duration kAskAgain = std::chrono::seconds(5);     // after a look-up that failed
constexpr Duration kFreshEnough = std::chrono::seconds(1);  // an answer so old is not asked for anew when a connection fails

constexpr size_t kMostOriginsKept = 64;  // without a connection

std::string NotWithin(Duration limit) {
  return absl::StrCat("not done within ", std::chrono::duration<double>(limit).count(), " s");
}

// Weak tags compare by their opaque part when all we ask is "did it change between two answers".
std::string_view Opaque(std::string_view etag) {
  return absl::StartsWith(absl::string_view(etag.data(), etag.size()), "W/") ? etag.substr(2) : etag;
}

// What an answer says of the object's version, as it is pinned: the date, a line's end, the ETag. The ETag comes last: where it
// is long it ends with a hash of the whole, and is not sent.
std::string VersionOf(const ResponseHead& head) {
  const std::string date = IsHttpDate(head.last_modified) ? head.last_modified : "";
  if (date.empty() && head.etag.empty()) return "";
  std::string version = absl::StrCat(date, "\n", head.etag);
  if (version.size() > ObjectPins::kLongest) {  // what is cut off counts too
    const std::string rest = absl::StrCat("~", absl::Hex(std::hash<std::string>()(version), absl::kZeroPad16));
    version.resize(ObjectPins::kLongest - rest.size());
    version += rest;
  }
  return version;
}
std::pair<std::string_view, std::string_view> DateAndETag(std::string_view version) {
  const size_t end = version.find('\n');
  if (end == std::string_view::npos) return {};
  return {version.substr(0, end), version.substr(end + 1)};
}

// In words; empty: as far as the two tell they are the same.
std::string Difference(std::string_view pinned, std::string_view now) {
  const auto [date_then, etag_then] = DateAndETag(pinned);
  const auto [date_now, etag_now] = DateAndETag(now);
  const bool tags = !etag_then.empty() && !etag_now.empty();
  if (tags && Opaque(etag_then) != Opaque(etag_now)) {
    return absl::StrCat("its ETag was ", std::string(etag_then), " and is ", std::string(etag_now));
  }
  // A weak tag may stay where bytes change.
  if (tags && etag_then.front() == '"' && etag_now.front() == '"') return "";
  if (date_then.empty() || date_now.empty() || date_then == date_now) return "";
  return absl::StrCat("it was last modified ", std::string(date_then), " and now ", std::string(date_now));
}

bool Contains(const std::vector<SocketAddress>& addresses, const SocketAddress& address) {
  return std::find(addresses.begin(), addresses.end(), address) != addresses.end();
}

absl::Status Changed(const RangeRead& read, std::string_view how) {
  return MakeError(absl::StatusCode::kAborted, absl::StrCat("the object changed after it was listed: ", std::string(how)),
                   {.object = read.object,
                    .offset = read.offset,
                    .length = read.length,
                    .fault = Fault::kObjectChanged,
                    .cause = "object changed",
                    .action = "open the stream again (and write the index again, if there is one)"});
}

}  // namespace

struct HttpFetcher::Task {
  RangeRead* read = nullptr;
  PayloadRequest request;
  Origin* origin = nullptr;
  Connection* connection = nullptr;  // while an attempt is under way
  bool waiting = false;              // in its origin's queue
  uint64_t reached = 0;              // bytes in place
  uint64_t reached_before = 0;       // at the start of this attempt
  int failures = 0;                  // in a row without progress
  int redirects = 0;                 // of this attempt
  bool started_again = false;        // after a redirect's target refused it, since the last progress
  bool cancelled = false;
  Time began{};
  Time give_up{};
  Reach bucket_reach = Reach::kNetwork;    // of the address that sent the redirect
  absl::Status refused;                    // where it was redirected to; ends it
  std::optional<SocketAddress> failed_at;  // where the last attempt got no byte
  std::optional<ObjectPins> own_pins;      // where the read has none
  std::unique_ptr<Reactor::Timer> retry;

  [[nodiscard]] bool redirected() const { return redirects > 0; }
  [[nodiscard]] bool MayUse(const SocketAddress& address) const {
    return !request.elsewhere || request.named || MayReach(ReachOf(address.get()), bucket_reach);
  }
  [[nodiscard]] ObjectPins& pins() { return read->pins != nullptr ? *read->pins : *own_pins; }
  [[nodiscard]] size_t pin() const { return read->pins != nullptr ? read->pin : 0; }
  [[nodiscard]] std::string url() const { return WithoutQuery(absl::StrCat("http://", request.host_header, request.target)); }

  // The error of a range that is not whole when we end it: names what is missing.
  [[nodiscard]] absl::Status Unfinished(absl::StatusCode code, std::string_view why, std::string_view last,
                                        const ErrorInfo& info) const {
    return MakeError(code, absl::StrCat(std::string(why), "; last: ", std::string(last)),
                     {.object = read->object,
                      .offset = read->offset + reached,
                      .length = read->length - reached,
                      .fault = info.fault,
                      .scope = info.scope,
                      .http_status = info.http_status,
                      .error_number = info.error_number,
                      .cause = info.cause,
                      .action = info.action.empty() ? "check the store and the network" : info.action});
  }
};

struct HttpFetcher::Origin {
  std::string host;
  uint16_t port = 0;
  std::vector<SocketAddress> addresses;
  Time looked_up{};  // when the addresses were
  Time refresh_at{};
  Time good_until{};
  uint64_t changes = 0;                  // Resolver::changes() when they were last asked for
  size_t turn = 0;                       // whose turn it is
  bool asking = false;                   // a look-up is under way
  bool tasks_wait = false;               // for it
  Time asked{};                          // when they began to
  std::unique_ptr<Reactor::Timer> late;  // while tasks wait for the answer
  std::deque<Task*> waiting;
  std::vector<Connection*> idle;
  std::list<std::unique_ptr<Connection>> connections;
  size_t limit = 0;
};

class HttpFetcher::Connection final : public ByteStream::Owner {
 public:
  Connection(HttpFetcher& fetcher, Origin& origin)
      : fetcher_(fetcher),
        origin_(origin),
        timer_(&fetcher.reactor_, [this] { OnTimer(); }),
        stream_(fetcher.factory_(*this)) {}

  std::list<std::unique_ptr<Connection>>::iterator self;
  [[nodiscard]] Origin& origin() { return origin_; }

  [[nodiscard]] const SocketAddress& address() const { return address_; }
  // Nothing came since the last answer was read: neither an answer that nobody asked for nor the end.
  [[nodiscard]] bool Quiet() const { return stream_->Quiet(); }

  void Connect(Task* task, const SocketAddress& address) {
    Take(task);
    address_ = address;
    ExpectWithin(fetcher_.policy_.connect_timeout, absl::StrCat("a connection to ", AddressText(address)));
    stream_->Connect(address_.get(), address_.length);
  }

  void Begin(Task* task) {
    if (task != task_) Take(task);
    RangeRead& read = *task->read;
    if (!task->redirected()) {  // prepared when it is sent: what signs it may have changed while it waited
      absl::StatusOr<PayloadRequest> prepared = read.store->PrepareGet(read.object);
      if (!prepared.ok()) return Close(prepared.status());
      task->request = *std::move(prepared);
    }
    const std::string pinned = task->pins().Pinned(task->pin());
    const std::string_view pinned_etag = DateAndETag(pinned).second;
    ++read.requests;
    const uint64_t first = read.offset + task->reached;
    request_ = absl::StrCat("GET ", task->request.target, " HTTP/1.1\r\nHost: ", task->request.host_header,
                            "\r\nUser-Agent: devmem-loader\r\nAccept-Encoding: identity\r\nRange: bytes=", first, "-",
                            read.offset + read.length - 1, "\r\n");
    if (IsStrongETag(read.validator)) {
      absl::StrAppend(&request_, "If-Match: ", read.validator, "\r\n");
    } else if (IsStrongETag(pinned_etag)) {
      absl::StrAppend(&request_, "If-Match: ", std::string(pinned_etag), "\r\n");
    } else if (!read.validator.empty()) {
      absl::StrAppend(&request_, "If-Unmodified-Since: ", read.validator, "\r\n");
    }
    for (const auto& [name, value] : task->request.headers) absl::StrAppend(&request_, name, ": ", value, "\r\n");
    request_ += "\r\n";
    ExpectWithin(fetcher_.policy_.first_byte_timeout, "the first byte of the answer");
    asked_ = waiting_since_;
    stream_->Send(request_);
    stream_->Peek();
  }

  // Ends this connection; its task, if any, fails with `status` once nothing touches its destinations.
  void Close(absl::Status status, Duration at_least = Duration::zero()) {
    if (closing_) return;
    closing_ = true;
    ++fetcher_.closing_;
    std::erase(origin_.idle, this);
    failure_ = std::move(status);
    retry_after_ = at_least;
    timer_.Clear();
    stream_->Close();
  }

  // Ends it while its task, already done with it, goes on.
  void Discard() {
    task_ = nullptr;
    Close(absl::OkStatus());
  }

  void OnConnected(absl::Status status) override {
    if (!status.ok()) {
      mute_ = FaultOf(status) != Fault::kOutOfDescriptors;
      return Close(std::move(status));
    }
    fetcher_.resolver_.Answered(address_);
    Begin(task_);
  }

  void OnSent(absl::Status status) override {
    // A server may answer and close before it read all: its answer tells more than our failed send, and the peek,
    // which is under way, sees either the answer or the end.
    if (!status.ok()) send_failed_ = std::move(status);
    sent_ = true;
    if (finish_after_send_) Settle();
  }

  void OnPeek(absl::Status status) override {
    if (!status.ok()) {
      // A server closes idle connections when it likes; that is no failure of the request.
      if (reused_ && stream_->held().empty()) stale_ = true;
      return Close(send_failed_.ok() ? std::move(status) : send_failed_);
    }
    absl::StatusOr<std::optional<ResponseHead>> head = ParseResponseHead(stream_->held());
    if (!head.ok()) {
      // Garbage may come of a broken proxy or a connection out of step: worth another connection, not forever.
      return Close(MakeError(absl::StatusCode::kUnavailable,
                             head.status().message().empty() ? "bad answer" : Text(head.status()),
                             {.fault = Fault::kMalformedAnswer, .cause = "malformed HTTP response"}));
    }
    if (!head->has_value()) return stream_->Peek();
    if ((*head)->status / 100 == 1) {  // an interim answer: the real one follows
      stream_->Skip((*head)->bytes);
      if (stream_->held().empty()) return stream_->Peek();
      return OnPeek(absl::OkStatus());
    }
    head_ = *std::move(*head);
    fetcher_.counters_.first_byte[Index(KindOfStore(task_->read->store->uri()))].Observe(fetcher_.reactor_.Now() - asked_);
    HandleHead();
  }

  void OnProgress(uint64_t bytes, uint64_t copied) override {
    if (task_ == nullptr) return;
    RangeRead& read = *task_->read;
    waiting_since_ = fetcher_.reactor_.Now();
    nudged_ = false;
    if (read.first_byte == Time{}) read.first_byte = waiting_since_;
    read.received += bytes;
    read.copied += copied;
    task_->reached += bytes;
    if (read.require_zero_copy && copied > 0) {
      Close(MakeError(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("zero copy is required, and the CPU copied ", copied, " bytes: ", std::string(stream_->why_copied())),
          {.object = read.object,
           .offset = read.offset,
           .length = read.length,
           .fault = Fault::kNoZeroCopy,
           .cause = "no zero copy",
           .action = "see the daemon's log for why connections fall back, or run without --require-zero-copy"}));
    }
  }

  void OnMoved(absl::Status status) override {
    if (!status.ok()) {
      if (FaultOf(status) == Fault::kConnectionEnded) {
        const uint64_t missing = task_->read->length - task_->reached;
        status = MakeError(absl::StatusCode::kUnavailable,
                           absl::StrCat("the body ended ", missing, " bytes early: ", status.message()),
                           {.fault = Fault::kTruncated, .cause = "truncated body"});
      }
      return Close(std::move(status));
    }
    moved_ = true;
    if (!sent_) {  // all of the answer came before the send was reported
      finish_after_send_ = true;
      return;
    }
    Settle();
  }

  void OnClosed() override {
    Task* const task = std::exchange(task_, nullptr);
    HttpFetcher& fetcher = fetcher_;
    const bool stale = stale_, all_there = moved_;
    absl::Status failure = std::move(failure_);
    const Duration at_least = retry_after_;
    if (stale) {  // the server dropped one idle connection; the others are likely dead as well
      for (Connection* idle : std::exchange(origin_.idle, {})) idle->Discard();
    }
    fetcher.Gone(this);  // deletes this from a later loop round
    if (task == nullptr) return;
    task->connection = nullptr;
    if (mute_ && !task->cancelled) fetcher.resolver_.DidNotAnswer(address_);
    if (stale && !task->cancelled) return fetcher.Enqueue(task);
    task->failed_at.reset();
    if (task->reached == task->reached_before) task->failed_at = address_;
    if (all_there && !task->cancelled) return fetcher.Finish(task, absl::OkStatus());  // only the send was never reported
    fetcher.AttemptFailed(task, std::move(failure), at_least);
  }

 private:
  void Take(Task* task) {
    reused_ = used_;
    used_ = true;
    task_ = task;
    task->connection = this;
    task->reached_before = task->reached;
    sent_ = moving_ = moved_ = finish_after_send_ = false;
    send_failed_ = absl::OkStatus();
  }

  void ExpectWithin(Duration limit, std::string what) {
    awaited_ = std::move(what);
    limit_ = limit;
    waiting_since_ = fetcher_.reactor_.Now();
    nudged_ = false;
    SetTimer();
  }

  // When to look next. A stream that moves a body keeps silent until much has arrived: at half of the limit it is
  // asked for what there is, and only if that is nothing for the other half the link is dead.
  [[nodiscard]] Time Due() const { return waiting_since_ + (moving_ ? limit_ / 2 : limit_); }
  void SetTimer() { timer_.Set(std::min(Due(), task_->give_up)); }

  void OnTimer() {
    if (task_ == nullptr) return Discard();  // idle for long enough
    const Time now = Clock::now();
    if (now >= task_->give_up) {
      return Close(task_->Unfinished(absl::StatusCode::kDeadlineExceeded, NotWithin(fetcher_.policy_.total_timeout),
                                     absl::StrCat("waiting for ", awaited_), {.fault = Fault::kTimeout, .cause = "timeout"}));
    }
    if (now < Due()) return SetTimer();
    if (moving_ && !nudged_) {
      nudged_ = true;
      waiting_since_ = now;
      stream_->Nudge();
      return SetTimer();
    }
    mute_ = !moving_;
    Close(MakeError(absl::StatusCode::kUnavailable,
                    absl::StrCat("waited ", std::chrono::duration<double>(limit_).count(), " s for ", awaited_),
                    {.fault = Fault::kTimeout, .cause = "timeout"}));
  }

  absl::Status Refusal() const {
    const RangeRead& read = *task_->read;
    return HttpStatusError(head_.status, {.object = read.object, .offset = read.offset, .length = read.length});
  }

  void HandleHead() {
    RangeRead& read = *task_->read;
    const uint64_t first = read.offset + task_->reached;
    const uint64_t wanted = read.length - task_->reached;
    if (head_.status / 100 == 3 && head_.status != 304) return FollowRedirect();
    if (const Fault fault = FaultOfHttpStatus(head_.status); MayPass(fault)) {
      int seconds = 0;
      std::from_chars(head_.retry_after.data(), head_.retry_after.data() + head_.retry_after.size(), seconds);
      return Close(MakeError(absl::StatusCode::kUnavailable, Text(Refusal()),
                             {.fault = fault, .http_status = head_.status, .cause = absl::StrCat("HTTP ", head_.status)}),
                   std::chrono::seconds(std::clamp(seconds, 0, 60)));
    }
    // A redirect's target that was signed for some minutes may refuse what the store still grants: ask there for a new one.
    const bool refused = head_.status == 400 || head_.status == 401 || head_.status == 403;
    if (refused && task_->redirected() && !std::exchange(task_->started_again, true)) {
      if (absl::Status status = fetcher_.StartAgain(task_); !status.ok()) return Close(std::move(status));
      return MoveOn();
    }
    if (head_.status == 412) return Close(Changed(read, "the store answered 412"));
    if (head_.status == 416)
      return Close(Changed(read, absl::StrCat("the store has no such range of it any more (416); it was listed with ",
                                              read.object_size, " bytes")));
    if (head_.status != 200 && head_.status != 206) return Close(Refusal());
    const auto refuse = [&](std::string_view what, std::string_view cause, Fault fault = Fault::kBadAnswer) {
      Close(MakeError(absl::StatusCode::kFailedPrecondition, what,
                      {.object = read.object,
                       .offset = read.offset,
                       .length = read.length,
                       .fault = fault,
                       .cause = cause,
                       .action = "the store must serve plain ranged GETs with a Content-Length"}));
    };
    if (!head_.content_encoding.empty() && head_.content_encoding != "identity") {
      return refuse(
          absl::StrCat("the store sent Content-Encoding ", head_.content_encoding, " although identity was asked for"),
          "encoded body", Fault::kEncoded);
    }
    if (head_.chunked || !head_.content_length.has_value())
      return refuse("the answer has no Content-Length", "no Content-Length");
    if (!CheckVersion()) return;
    bool rest_follows = false;  // a whole object where its start was wanted
    if (head_.status == 206) {
      if (!head_.content_range.has_value() || !head_.content_range->satisfied) {
        return refuse("206 without a Content-Range that says what it holds", "no Content-Range");
      }
      const ContentRange& range = *head_.content_range;
      if (range.total != read.object_size) return Close(Changed(read, OtherSize(range.total)));
      if (range.first != first || range.last != first + wanted - 1 || *head_.content_length != wanted) {
        return refuse(absl::StrCat("asked for bytes ", first, "-", first + wanted - 1, ", got ",
                                   task_->request.elsewhere ? "others"
                                                            : absl::StrCat(range.first, "-", range.last,
                                                                           " with Content-Length ", *head_.content_length)),
                      "wrong range");
      }
    } else {
      if (*head_.content_length != read.object_size) return Close(Changed(read, OtherSize(*head_.content_length)));
      if (first != 0)
        return refuse("the store ignored the Range of the request and sent the whole object", "ranges not supported");
      rest_follows = *head_.content_length > wanted;
    }
    stream_->Skip(head_.bytes);
    reusable_ = head_.keep_alive && !rest_follows;
    moving_ = true;
    ExpectWithin(fetcher_.policy_.stall_timeout, "the next byte of the body");
    scatter_ = Scatter(read.destinations, task_->reached);
    stream_->MoveTo(scatter_);
  }

  // What a store redirects to may be none of the trainer's business, its length included.
  [[nodiscard]] std::string OtherSize(uint64_t size) const {
    const std::string listed = absl::StrCat("it was listed with ", task_->read->object_size, " bytes and has ");
    return task_->request.elsewhere ? listed + "another size where it was redirected to" : absl::StrCat(listed, size);
  }

  // Whether this answer speaks of the version that was listed, and of the one that earlier answers of the stream spoke of.
  bool CheckVersion() {
    const RangeRead& read = *task_->read;
    std::string how;
    if (IsStrongETag(read.validator)) {
      if (!head_.etag.empty() && Opaque(head_.etag) != read.validator)
        how = absl::StrCat("its ETag was ", read.validator, " and is ", head_.etag);
    } else if (!read.validator.empty()) {
      if (!head_.last_modified.empty() && head_.last_modified != read.validator) {
        how = absl::StrCat("it was last modified ", read.validator, " and now ", head_.last_modified);
      }
    }
    if (const std::string version = VersionOf(head_); how.empty() && !version.empty()) {
      how = Difference(task_->pins().Pin(task_->pin(), version), version);
    } else if (how.empty() && !task_->pins().Pinned(task_->pin()).empty()) {
      how = "earlier answers told its version, and this one tells none";
    }
    if (how.empty()) return true;
    Close(Changed(read, how));
    return false;
  }

  void FollowRedirect() {
    Task* const task = task_;
    const RangeRead& read = *task->read;
    if (head_.location.empty()) return Close(Refusal());
    if (!task->request.elsewhere) task->bucket_reach = ReachOf(address_.get());
    if (++task->redirects > Redirects::kMost) {
      return Close(
          MakeError(absl::StatusCode::kFailedPrecondition,
                    absl::StrCat("more than ", Redirects::kMost, " redirects, the last to ", WithoutQuery(head_.location)),
                    {.object = read.object,
                     .fault = Fault::kRedirect,
                     .cause = "redirect loop",
                     .action = "check the store's configuration"}));
    }
    absl::StatusOr<PayloadRequest> next = read.store->Redirect(task->request, head_.location);
    if (!next.ok()) return Close(WithObject(next.status(), read.object));
    task->request = *std::move(next);
    MoveOn();
  }

  // The task goes on elsewhere when this connection is closed; no payload was asked of it.
  void MoveOn() {
    Task* const task = std::exchange(task_, nullptr);
    task->connection = nullptr;
    HttpFetcher& fetcher = fetcher_;
    Close(absl::OkStatus());
    fetcher.Enqueue(task);
  }

  void Settle() {
    if (!moved_ || closing_) return;
    Task* const task = std::exchange(task_, nullptr);
    task->connection = nullptr;
    HttpFetcher& fetcher = fetcher_;
    Origin& origin = origin_;
    if (reusable_ && stream_->held().empty() && send_failed_.ok() && fetcher.shut_down_ == nullptr && stream_->WorthKeeping() &&
        Contains(origin.addresses, address_) && !fetcher.OwesPlace(origin)) {
      origin.idle.push_back(this);
      timer_.Set(Clock::now() + kIdle);
    } else {
      Close(absl::OkStatus());
    }
    fetcher.Finish(task, absl::OkStatus());
    fetcher.Pump(origin);
  }

  HttpFetcher& fetcher_;
  Origin& origin_;
  Reactor::Timer timer_;
  std::unique_ptr<ByteStream> stream_;
  SocketAddress address_;
  Task* task_ = nullptr;
  std::string request_;
  ResponseHead head_;
  Scatter scatter_;
  absl::Status failure_;
  absl::Status send_failed_;
  Duration retry_after_{};
  std::string awaited_;
  Duration limit_{};
  Time waiting_since_{};  // the last progress, or the nudge
  Time asked_{};          // when the request was sent
  bool used_ = false;
  bool reused_ = false;
  bool sent_ = false;
  bool moving_ = false;  // the body has begun
  bool nudged_ = false;  // since the last progress
  bool moved_ = false;
  bool finish_after_send_ = false;
  bool reusable_ = false;
  bool stale_ = false;
  bool mute_ = false;  // the address did not take the connection, or did not answer by it
  bool closing_ = false;
};

HttpFetcher::HttpFetcher(Reactor& reactor, Resolver& resolver, StreamFactory factory, const ReadPolicy& policy,
                         size_t connections, size_t in_all, TransferCounters& counters, SayFailed say_failed)
    : reactor_(reactor),
      resolver_(resolver),
      factory_(std::move(factory)),
      policy_(policy),
      max_connections_(std::max<size_t>(1, connections)),
      max_in_all_(std::max<size_t>(1, in_all)),
      counters_(counters),
      say_failed_(std::move(say_failed)),
      held_too_long_(std::make_unique<Reactor::Timer>(&reactor, [this] { HeldTooLong(); })) {}

HttpFetcher::~HttpFetcher() { *alive_ = false; }

HttpFetcher::Origin& HttpFetcher::OriginOf(const PayloadRequest& request) {
  std::unique_ptr<Origin>& origin = origins_[{request.host, request.port}];
  if (origin == nullptr) {
    origin = std::make_unique<Origin>();
    origin->host = request.host;
    origin->port = request.port;
    origin->turn = resolver_.NextTurn();
    origin->limit = max_connections_;
    origin->late = std::make_unique<Reactor::Timer>(&reactor_, [this, raw = origin.get()] { AddressesAreLate(*raw); });
  }
  return *origin;
}

void HttpFetcher::Start(RangeRead* read, PayloadRequest request) {
  auto* const task = new Task;  // deleted in Finish
  task->read = read;
  task->request = std::move(request);
  task->began = Clock::now();
  if (read->pins == nullptr) task->own_pins.emplace(1);
  task->retry = std::make_unique<Reactor::Timer>(&reactor_, [this, task] {
    if (!task->refused.ok()) return Finish(task, task->refused);
    Enqueue(task);
  });
  read->transport_state = task;
  Enqueue(task);
}

void HttpFetcher::Cancel(RangeRead* read) {
  auto* const task = static_cast<Task*>(read->transport_state);
  if (task == nullptr || task->cancelled) return;
  task->cancelled = true;
  const absl::Status cancelled = absl::CancelledError("the read was cancelled");
  if (task->connection != nullptr) return task->connection->Close(cancelled);
  // Waiting for a connection, for a look-up or for its next try: nothing is under way, and nothing shall start it.
  task->retry->Clear();
  if (std::exchange(task->waiting, false)) std::erase(task->origin->waiting, task);
  reactor_.Post([this, alive = alive_, task, cancelled] {
    if (*alive) Finish(task, cancelled);
  });
}

void HttpFetcher::Enqueue(Task* task) {
  Origin& origin = OriginOf(task->request);
  task->origin = &origin;
  task->waiting = true;
  origin.waiting.push_back(task);
  Pump(origin);
}

void HttpFetcher::Hold(bool hold) {
  if (std::exchange(held_, hold) == hold) return;
  if (hold) return held_too_long_->Set(reactor_.Now() + policy_.total_timeout);
  held_too_long_->Clear();
  PumpAll();
}

void HttpFetcher::HeldTooLong() {
  for (const auto& [where, origin] : origins_) {
    for (Task* task : std::exchange(origin->waiting, {})) {
      if (task->cancelled) continue;  // by the Done() of one before it; its end is posted
      task->waiting = false;
      Finish(task, task->Unfinished(absl::StatusCode::kDeadlineExceeded, NotWithin(policy_.total_timeout),
                                    "no memory for the answer: what was received before is not given back",
                                    {.fault = Fault::kLandingPoolFull,
                                     .cause = "landing pool full",
                                     .action = "see inflight of the NICs in `devmem-loader status`"}));
    }
  }
  if (held_) held_too_long_->Set(reactor_.Now() + policy_.total_timeout);
}

void HttpFetcher::PumpAll() {
  for (const auto& [where, origin] : origins_) Pump(*origin);
}

bool HttpFetcher::HasPlace(const Origin& origin) {
  if (in_all_ < max_in_all_) return true;
  if (closing_ > 0) return false;  // a place is being made; Gone() looks again
  for (const auto& [where, other] : origins_) {
    if (other.get() == &origin || other->idle.empty()) continue;
    other->idle.front()->Discard();
    break;
  }
  return false;
}

bool HttpFetcher::OwesPlace(const Origin& origin) const {
  if (in_all_ < max_in_all_ || closing_ > 0) return false;
  for (const auto& [where, other] : origins_) {
    if (other.get() != &origin && !other->waiting.empty() && other->connections.size() < other->limit &&
        (other->connections.empty() || other->connections.size() + 1 < origin.connections.size())) {
      return true;
    }
  }
  return false;
}

HttpFetcher::Connection* HttpFetcher::TakeIdle(Origin& origin, const Task& task, bool where_it_failed) {
  for (size_t i = origin.idle.size(); i-- > 0;) {
    Connection* const connection = origin.idle[i];
    if (!connection->Quiet()) {  // what came would be taken for the next request's answer
      connection->Discard();
      continue;
    }
    if (!task.MayUse(connection->address())) continue;
    if (!where_it_failed && task.failed_at == connection->address()) continue;
    origin.idle.erase(origin.idle.begin() + static_cast<ptrdiff_t>(i));
    return connection;
  }
  return nullptr;
}

void HttpFetcher::Pump(Origin& origin) {
  while (!origin.waiting.empty() && !held_) {
    if (origin.idle.empty() && origin.connections.size() >= origin.limit) return;
    if (!HasAddresses(origin)) return;
    Task* const task = origin.waiting.front();
    std::vector<SocketAddress> usable;  // of a redirected task; for any other all are
    if (task->request.elsewhere) {
      std::copy_if(origin.addresses.begin(), origin.addresses.end(), std::back_inserter(usable),
                   [task](const SocketAddress& address) { return task->MayUse(address); });
      if (usable.empty()) {
        origin.waiting.pop_front();
        task->waiting = false;
        task->refused = RedirectRefused(task->url(), task->read->object);
        task->retry->Set(Clock::now());  // not from here: Done() may come inside no other read's Start()
        continue;
      }
    }
    Connection* idle = TakeIdle(origin, *task, origin.addresses.size() < 2);
    if (idle == nullptr && (origin.connections.size() >= origin.limit || !HasPlace(origin))) {
      idle = TakeIdle(origin, *task, true);
      if (idle == nullptr) {
        // It may use none of those that are idle. When one is gone there is room for another.
        if (!origin.idle.empty()) origin.idle.front()->Discard();
        return;
      }
    }
    origin.waiting.pop_front();
    task->waiting = false;
    if (task->give_up == Time{}) task->give_up = Clock::now() + policy_.total_timeout;
    if (idle != nullptr) {
      idle->Begin(task);
      continue;
    }
    ++in_all_;
    origin.connections.push_back(std::make_unique<Connection>(*this, origin));
    Connection& connection = *origin.connections.back();
    connection.self = std::prev(origin.connections.end());
    const std::vector<SocketAddress>& addresses = task->request.elsewhere ? usable : origin.addresses;
    const SocketAddress* const failed = task->failed_at.has_value() ? &*task->failed_at : nullptr;
    connection.Connect(task, addresses[resolver_.Choose(addresses, origin.turn++, failed)]);
  }
}

bool HttpFetcher::HasAddresses(Origin& origin) {
  const Time now = reactor_.Now();
  if (origin.addresses.empty() || now >= origin.good_until) {
    Ask(origin, Time{});
    if (!std::exchange(origin.tasks_wait, true)) {
      origin.asked = Clock::now();
      origin.late->Set(origin.asked + std::min(policy_.connect_timeout, policy_.total_timeout));
    }
    return false;
  }
  if (now >= origin.refresh_at || origin.changes != resolver_.changes()) Ask(origin, Time{});
  return true;
}

void HttpFetcher::Ask(Origin& origin, Time no_older_than) {
  if (std::exchange(origin.asking, true)) return;
  origin.changes = resolver_.changes();
  resolver_.Resolve(origin.host, origin.port, no_older_than, [this, alive = alive_, &origin](Resolver::Result result) {
    reactor_.Post([this, alive, &origin, result = std::move(result)] {
      if (*alive) TakeAddresses(origin, result);
    });
  });
}

void HttpFetcher::TakeAddresses(Origin& origin, Resolver::Result result) {
  origin.asking = false;
  if (!result.ok()) return WithoutNewAddresses(origin, result.status());
  origin.late->Clear();
  origin.tasks_wait = false;
  origin.addresses = std::move(result->addresses);
  origin.looked_up = result->at;
  const bool written_in_numbers = ParseAddress(origin.host, origin.port).has_value();
  origin.refresh_at = written_in_numbers ? Time::max() : result->at + kRefresh;
  origin.good_until = written_in_numbers ? Time::max() : result->at + kExpire;
  for (size_t i = origin.idle.size(); i-- > 0;) {
    if (!Contains(origin.addresses, origin.idle[i]->address())) origin.idle[i]->Discard();
  }
  Pump(origin);
}

void HttpFetcher::AddressesAreLate(Origin& origin) {
  const double waited = std::chrono::duration<double>(std::min(policy_.connect_timeout, policy_.total_timeout)).count();
  WithoutNewAddresses(
      origin, MakeError(absl::StatusCode::kUnavailable,
                        absl::StrCat("waited ", waited, " s for the address of host '", origin.host, "'"),
                        {.fault = Fault::kNoNameServer,
                         .cause = "timeout",
                         .action = "check the host in the URI, and the machine's resolver: the name server does not answer"}));
}

void HttpFetcher::WithoutNewAddresses(Origin& origin, const absl::Status& why) {
  origin.late->Clear();
  origin.tasks_wait = false;
  const Time now = Clock::now();
  if (!origin.addresses.empty() && now < origin.looked_up + kKeepAtMost) {
    origin.refresh_at = now + kAskAgain;
    origin.good_until = std::max(origin.good_until, now + 2 * kAskAgain);
    return Pump(origin);
  }
  origin.addresses.clear();
  for (Task* task : std::exchange(origin.waiting, {})) {
    if (task->cancelled) continue;  // by the Done() of one before it; its end is posted
    task->waiting = false;
    // A name that is not answered costs its tasks their own time, from when they began to wait for it.
    if (task->give_up == Time{}) task->give_up = std::max(task->began, origin.asked) + policy_.total_timeout;
    AttemptFailed(task, why, Duration::zero());
  }
}

absl::Status HttpFetcher::StartAgain(Task* task) {
  task->redirects = 0;
  DEVMEM_ASSIGN_OR_RETURN(task->request, task->read->store->PrepareGet(task->read->object));
  return absl::OkStatus();
}

void HttpFetcher::AttemptFailed(Task* task, absl::Status status, Duration at_least) {
  if (task->cancelled) return Finish(task, absl::CancelledError("the read was cancelled"));
  // A deadline is the task's own: what it ran into is in its words.
  if (absl::IsDeadlineExceeded(status) || !MayPass(FaultOf(status)))
    return Finish(task, WithObject(status, task->read->object));
  Origin& origin = *task->origin;
  if (FaultOf(status) == Fault::kOutOfDescriptors && !origin.connections.empty()) {
    // Make do with the connections there are.
    origin.limit = std::max<size_t>(1, origin.connections.size());
    return Enqueue(task);
  }
  const bool progressed = task->reached > task->reached_before;
  task->failures = progressed ? 0 : task->failures + 1;
  if (progressed) task->started_again = false;
  // The host may have moved, and what did not answer this task may be one of its addresses only.
  if (!progressed && GetErrorInfo(status).http_status == 0 && !origin.addresses.empty()) {
    Ask(origin, Clock::now() - kFreshEnough);
  }
  const auto give_up = [&](absl::StatusCode code, std::string_view why) {
    const ErrorInfo info = GetErrorInfo(status);
    // A body that always ends early is a fault of the object, not of the network.
    if (info.fault == Fault::kTruncated) code = absl::StatusCode::kDataLoss;
    Finish(task, task->Unfinished(code, why, std::string_view(status.message().data(), status.message().size()), info));
  };
  if (task->failures > policy_.max_retries) {
    return give_up(
        absl::StatusCode::kUnavailable,
        absl::StrCat("gave up after ", Counted(static_cast<uint64_t>(task->failures), "try", "tries"), " without a byte"));
  }
  Duration backoff = policy_.backoff_first;
  for (int i = 1; i < task->failures && backoff < policy_.backoff_max; ++i) backoff *= 2;
  backoff = std::min(backoff, policy_.backoff_max);
  // Half fixed, half random: spreads the herd and still bounds the whole from below.
  backoff = backoff / 2 + Duration(std::uniform_int_distribution<Duration::rep>(0, (backoff / 2).count())(jitter_));
  const Time when = Clock::now() + std::max(backoff, at_least);
  if (when >= task->give_up) {
    return give_up(absl::StatusCode::kDeadlineExceeded, NotWithin(policy_.total_timeout));
  }
  if (task->redirected()) {
    if (absl::Status prepared = StartAgain(task); !prepared.ok()) return Finish(task, WithObject(prepared, task->read->object));
  }
  ++task->read->retries;
  counters_.retries[Index(KindOfStore(task->read->store->uri()))][Index(RetryCodeOf(status))].Add(1);
  if (say_failed_) say_failed_(*task->read, status, when - Clock::now());
  task->retry->Set(when);
}

void HttpFetcher::Finish(Task* task, absl::Status status) {
  RangeRead* const read = task->read;
  read->transport_state = nullptr;
  read->status = std::move(status);
  delete task;
  read->Done();
}

void HttpFetcher::Gone(Connection* connection) {
  Origin& origin = connection->origin();
  std::erase(origin.idle, connection);
  origin.limit = max_connections_;  // a descriptor is free again
  // Its stream is on the call stack: delete it from a later round.
  std::shared_ptr<Connection> last(std::move(*connection->self));
  origin.connections.erase(connection->self);
  reactor_.Post([this, alive = alive_, last]() mutable {
    last.reset();
    if (!*alive) return;
    --in_all_;
    --closing_;
    PumpAll();
    if (origins_.size() > kMostOriginsKept) {  // stores may redirect to any number of hosts
      std::erase_if(origins_, [](const auto& entry) {
        return entry.second->connections.empty() && entry.second->waiting.empty() && !entry.second->asking;
      });
    }
    if (shut_down_ == nullptr) return;
    for (const auto& [where, other] : origins_) {
      if (!other->connections.empty()) return;
    }
    std::exchange(shut_down_, nullptr)();
  });
}

void HttpFetcher::Shutdown(std::function<void()> closed) {
  shut_down_ = std::move(closed);
  bool any = false;
  for (const auto& [where, origin] : origins_) {
    origin->idle.clear();
    for (const auto& connection : origin->connections) {
      any = true;
      connection->Discard();
    }
  }
  if (!any)
    reactor_.Post([this, alive = alive_] {
      if (*alive && shut_down_ != nullptr) std::exchange(shut_down_, nullptr)();
    });
}

}  // namespace devmem
