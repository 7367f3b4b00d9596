// SPDX-License-Identifier: Apache-2.0
// A stream across daemons, step by step:
//   1. OpenStream starts a call and waits for `opened`; the slabs' descriptors come over the handle socket before it
//   2. Next hands out what the call brings; the cursor after the last thing handed out is kept
//   3. the daemon goes away (UNAVAILABLE that is not the daemon's own error, or a dead handle connection): what was
//      received but not handed out is dropped, and a new call is opened with the kept cursor, at growing intervals
//      until reconnect_timeout has passed without anything being delivered
//   4. the new stream begins after that cursor, so nothing is lost, and what arrives is compared with it, so
//      nothing is repeated.
#include "client/cpp/client.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "client/cpp/session.h"
#include "client/cpp/stream_call.h"
#include "gpu/device.h"
#include "gpu/make_device.h"

namespace devmem::client {

namespace v1 = devmem_loader::v1;

std::byte* TensorView::address() const { return memory_->address() + tensor_->offset(); }

std::span<std::byte> TensorView::bytes() const {
  return memory_->HostSpan(tensor_->offset(), tensor_->bytes()).value_or(std::span<std::byte>());
}

bool TensorView::host_visible() const { return memory_->HostSpan(tensor_->offset(), tensor_->bytes()).has_value(); }

absl::Status TensorView::CopyTo(std::span<std::byte> to) const {
  DEVMEM_ASSIGN_OR_RETURN(
      const devmem::Event copied,
      device_->Peek(to, DeviceSpan{.memory = memory_, .offset = tensor_->offset(), .bytes = tensor_->bytes()}));
  return copied.Wait(Time::max());  // not before it is done with `to`
}

struct Batch::State {
  std::shared_ptr<StreamCall> call;    // and with it the mapped memory
  std::shared_ptr<Response> response;  // `batch` lies in it
  const v1::Batch* batch;
  std::weak_ptr<Parked> parked;  // of its Stream

  void Release() const { call->Release(batch->sequence()); }
};

// Batches that were given back and that a stream of the device's still reads. Each is released from the device's thread, as
// soon as its event is complete; but what it held (the call, the memory) goes on a thread of the trainer's, which may take its
// time.
class Batch::Parked {
 public:
  // Takes the state, unless it is too late for that.
  static void Park(const std::shared_ptr<Parked>& self, const devmem::Event& event, std::unique_ptr<State>& state) {
    {
      std::lock_guard lock(self->mutex_);
      if (self->closed_) return;
      ++self->waiting_;
    }
    // Also if the work failed: then nothing reads it either.
    event.WhenDone([self, parked = state.release()](const absl::Status&) {
      parked->Release();
      std::lock_guard lock(self->mutex_);
      self->released_.emplace_back(parked);
      --self->waiting_;
      self->changed_.notify_all();
    });
  }

  void Reap() {
    std::vector<std::unique_ptr<State>> released;
    std::lock_guard lock(mutex_);
    released.swap(released_);  // they go after the lock
  }

  void Close() {
    std::vector<std::unique_ptr<State>> released;
    std::unique_lock lock(mutex_);
    closed_ = true;
    changed_.wait(lock, [this] { return waiting_ == 0; });
    released.swap(released_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t waiting_ = 0;
  bool closed_ = false;
  std::vector<std::unique_ptr<State>> released_;
};

Batch::Batch() = default;
Batch::Batch(std::unique_ptr<State> state) : state_(std::move(state)) {}
Batch::Batch(Batch&&) noexcept = default;
Batch& Batch::operator=(Batch&& other) noexcept {
  if (this != &other) {
    Release();
    state_ = std::move(other.state_);
  }
  return *this;
}
Batch::~Batch() { Release(); }

void Batch::Release() {
  if (state_ == nullptr) return;
  const std::unique_ptr<State> state = std::move(state_);
  state->Release();
}

absl::Status Batch::ReleaseAfter(void* cuda_stream) {
  if (state_ == nullptr) return absl::OkStatus();
  DEVMEM_ASSIGN_OR_RETURN(const devmem::Event event, state_->call->device().After(cuda_stream));
  if (!event.Done()) {
    if (const std::shared_ptr<Parked> parked = state_->parked.lock(); parked != nullptr) Parked::Park(parked, event, state_);
    if (state_ != nullptr) (void)event.Wait(Time::max());
  }
  Release();
  return absl::OkStatus();
}

const v1::Batch& Batch::info() const { return state_ == nullptr ? v1::Batch::default_instance() : *state_->batch; }

TensorView Batch::tensor(size_t index) const {
  const v1::Tensor& tensor = info().tensors(static_cast<int>(index));
  return {&tensor, &state_->call->device(), &state_->call->MemoryOf(tensor)};
}

namespace {

constexpr Duration kSlabTimeout = std::chrono::seconds(10);  // slabs are sent before `opened`
constexpr Duration kFirstRetry = std::chrono::milliseconds(10);
constexpr Duration kLongestRetry = std::chrono::milliseconds(500);
constexpr Duration kGlance = std::chrono::milliseconds(100);  // longest wait for a hello that does not look for a Cancel

// What all streams of a client share, and what outlives the client where a stream does.
class Connector {
 public:
  Connector(std::string path, Duration timeout, std::shared_ptr<Device> device)
      : path_(std::move(path)), timeout_(timeout), device_(std::move(device)) {}

  [[nodiscard]] const std::shared_ptr<Device>& device() const { return device_; }

  // The present daemon's session, a new one if that is over. nullptr if `deadline` comes first: a connection under way stays
  // so, and the next call goes on with it, so that one who asks in small steps gets there too.
  absl::StatusOr<std::shared_ptr<Session>> Get(Time deadline) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [&] { return !connecting_; })) return nullptr;
    if (session_ != nullptr && session_->handles().alive()) return session_;
    session_.reset();
    connecting_ = true;
    lock.unlock();
    auto made = Make(deadline);
    lock.lock();
    connecting_ = false;
    changed_.notify_all();
    DEVMEM_ASSIGN_OR_RETURN(session_, std::move(made));
    return session_;
  }

  // A call of `session` was lost: whatever its daemon still does, what comes next is made anew.
  void Drop(const Session& session) {
    std::lock_guard lock(mutex_);
    if (session_.get() == &session) session_.reset();
  }

 private:
  absl::StatusOr<std::shared_ptr<Session>> Make(Time deadline) {
    if (pending_ == nullptr) {
      pending_until_ = Clock::now() + timeout_;
      DEVMEM_ASSIGN_OR_RETURN(pending_, HandleConnection::Begin(path_, std::min(deadline, pending_until_)));
    }
    auto said_hello = pending_->AwaitHello(std::min(deadline, pending_until_));
    if (said_hello.ok() && *said_hello) return Session::Over(std::move(pending_), path_);
    if (said_hello.ok() && Clock::now() < pending_until_) return nullptr;
    pending_.reset();
    if (!said_hello.ok()) return said_hello.status();
    return MakeError(absl::StatusCode::kUnavailable, "the daemon at " + path_ + " does not answer",
                     {.cause = "no hello on the handle socket", .action = "look at the daemon's log"});
  }

  const std::string path_;
  const Duration timeout_;
  const std::shared_ptr<Device> device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool connecting_ = false;
  std::shared_ptr<Session> session_;
  // Of the thread that has set connecting_.
  std::unique_ptr<HandleConnection> pending_;
  Time pending_until_;
};

std::pair<uint64_t, uint64_t> PlaceOf(const Cursor& cursor) { return {cursor.epoch(), cursor.position()}; }

absl::Status Cancelled() { return absl::CancelledError("the stream was cancelled"); }

// Says which device is meant, where this process knows it.
StreamSpec OnDevice(StreamSpec spec, const Device& device) {
  if (spec.device().empty() && device.name() != "cpu") spec.set_device(std::string(device.name()));
  if (spec.device() == device.name() && spec.device_uuid().empty()) spec.set_device_uuid(std::string(device.uuid()));
  return spec;
}

}  // namespace

class StreamImpl final : public Stream {
 public:
  StreamImpl(std::shared_ptr<Connector> connector, const StreamSpec& spec, StreamOptions options)
      : connector_(std::move(connector)),
        options_(std::move(options)),
        spec_(OnDevice(spec, *connector_->device())),
        cursor_(spec.resume()) {
    has_cursor_ = spec.has_resume();
  }
  ~StreamImpl() override {
    EndOpen();
    parked_->Close();
  }

  absl::Status Open() {
    const Time deadline = Clock::now() + options_.open_timeout;
    DEVMEM_ASSIGN_OR_RETURN(const bool started, StartCall(deadline));
    if (!started) return NotOpenInTime();
    while (opening_ || call_ == nullptr) {
      absl::StatusOr<bool> moved = Advance(open_deadline_);
      if (!moved.ok()) return moved.status();
    }
    return absl::OkStatus();
  }

  const v1::StreamOpened& opened() const override { return opened_; }

  Cursor cursor() const override {
    std::lock_guard lock(mutex_);
    return cursor_;
  }

  void Cancel() override {
    std::shared_ptr<StreamCall> call;
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      call = call_;
      changed_.notify_all();
    }
    if (call != nullptr) call->Interrupt();
  }

  absl::StatusOr<Event> Next(Time deadline) override {
    parked_->Reap();
    while (true) {
      if (!final_.ok()) return final_;
      if (cancelled_.load(std::memory_order_relaxed)) return Fail(Cancelled());
      if (received_.empty() || opening_) {
        absl::StatusOr<bool> moved = Advance(deadline);
        if (moved.ok()) continue;
        // Both a caller's deadline and the opening's end in kDeadlineExceeded; only Fail makes it final.
        return moved.status();
      }
      absl::StatusOr<std::optional<Event>> event = TakeEvent();
      if (!event.ok()) return Fail(event.status());
      if (event->has_value()) return *std::move(*event);
    }
  }

 private:
  // One step towards an event: answers true when the state has changed. kDeadlineExceeded loses nothing.
  absl::StatusOr<bool> Advance(Time deadline) {
    if (call_ == nullptr) {
      DEVMEM_RETURN_IF_ERROR(Reconnect(deadline));
      return true;
    }
    switch (call_->Take(received_, opening_ ? std::min(deadline, open_deadline_) : deadline)) {
      case StreamCall::Taken::kResponses:
        if (opening_) DEVMEM_RETURN_IF_ERROR(HandleOpening());
        return true;
      case StreamCall::Taken::kFinished: {
        const absl::Status status = call_->status();
        if (status.ok()) return Fail(absl::InternalError("the daemon ended the stream without saying so"));
        return Lost(status);
      }
      case StreamCall::Taken::kInterrupted:
        return Fail(Cancelled());
      case StreamCall::Taken::kTimeout:
        break;
    }
    if (opening_ && Clock::now() >= open_deadline_) {
      return Fail(NotOpenInTime());
    }
    return NoBatchInTime();
  }

  absl::Status NotOpenInTime() const {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "the stream did not open in time",
                     {.object = spec_.bucket(),
                      .cause = "open timeout",
                      .action = "write an index (devmem-loader index) if the listing is long, or raise open_timeout"});
  }
  static absl::Status NoBatchInTime() {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "no batch before the deadline", {});
  }

  // The call is over with `status`: either that is final, or there will be another call.
  absl::StatusOr<bool> Lost(const absl::Status& status) {
    const bool alive = call_->session().handles().alive();
    const ErrorInfo info = GetErrorInfo(status);
    const bool from_daemon = !info.cause.empty() || !info.object.empty() || !info.action.empty();
    bool gone = false;
    if (cancelled_.load(std::memory_order_relaxed)) return Fail(Cancelled());
    switch (status.code()) {
      case absl::StatusCode::kUnavailable:
        gone = !from_daemon || !alive || info.fault == Fault::kDraining;
        break;
      case absl::StatusCode::kCancelled:
        // Nobody here has cancelled it: that is how gRPC ends the calls of a server that shuts down, and the daemon's handle
        // socket may well live a moment longer.
        gone = !from_daemon;
        break;
      case absl::StatusCode::kUnauthenticated:
        // Between two daemons the token may be of the one and the call go to the other.
        gone = !alive || (opening_ && (give_up_.has_value() || info.fault == Fault::kToken));
        break;
      case absl::StatusCode::kInternal:
      case absl::StatusCode::kUnknown:
        gone = !from_daemon && !alive;
        break;
      default:
        break;
    }
    if (!gone) return Fail(status);
    if (!options_.reconnect) {
      return Fail(status.code() == absl::StatusCode::kUnavailable
                      ? status
                      : MakeError(absl::StatusCode::kUnavailable, "the daemon went away: " + Text(status), {}));
    }
    received_.clear();
    EndOpen();
    connector_->Drop(call_->session());
    call_->MarkLost();
    SetCall(nullptr);
    lost_ = status;
    const Time now = Clock::now();
    if (!give_up_.has_value()) {
      give_up_ = now + options_.reconnect_timeout;
      retry_ = kFirstRetry;
      next_attempt_ = now;
    } else {
      Backoff();
    }
    return true;
  }

  void Backoff() {
    std::uniform_real_distribution<double> jitter(0.75, 1.25);
    next_attempt_ = Clock::now() + std::chrono::duration_cast<Duration>(retry_ * jitter(random_));
    retry_ = std::min(retry_ * 2, kLongestRetry);
  }

  // Waits for the next attempt's time and makes it.
  absl::Status Reconnect(Time deadline) {
    if (std::max(next_attempt_, attempting_ ? Clock::now() : next_attempt_) >= *give_up_) {
      return Fail(MakeError(absl::StatusCode::kUnavailable, "the daemon went away and did not come back: " + Text(lost_),
                            {.cause = "daemon gone", .action = "look at the daemon's log; open again with the saved cursor"}));
    }
    {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, std::min(next_attempt_, deadline), [&] { return cancelled_.load(); });
      if (cancelled_) return Fail(Cancelled());
    }
    if (Clock::now() < next_attempt_) return NoBatchInTime();
    if (!attempting_ && options_.on_reconnect) options_.on_reconnect(lost_);
    attempting_ = true;
    const auto started = StartCall(std::min(deadline, Clock::now() + kGlance));
    if (started.ok() && !*started) return Clock::now() < deadline ? absl::OkStatus() : NoBatchInTime();
    attempting_ = false;
    if (!started.ok()) {
      lost_ = started.status();
      Backoff();
    }
    return absl::OkStatus();
  }

  // False if there was no daemon to call by the deadline.
  absl::StatusOr<bool> StartCall(Time deadline) {
    DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<Session> session, connector_->Get(deadline));
    if (session == nullptr) return false;
    if (has_cursor_) *spec_.mutable_resume() = cursor();
    session->handles().BeginOpen();
    opening_session_ = session;
    opening_ = true;
    resumed_ = give_up_.has_value() && has_cursor_;
    open_deadline_ = Clock::now() + options_.open_timeout;
    SetCall(std::make_shared<StreamCall>(std::move(session), spec_, connector_->device()));
    return true;
  }

  // `received_` holds what the daemon says before the first batch.
  absl::Status HandleOpening() {
    while (opening_ && !received_.empty()) {
      const std::shared_ptr<Response> response = std::move(received_.front());
      received_.pop_front();
      const v1::OpenStreamResponse& message = *response->message;
      if (message.has_progress()) {
        if (options_.progress) options_.progress(message.progress());
        continue;
      }
      if (!message.has_opened()) return Fail(absl::InternalError("the daemon sent batches before it opened the stream"));
      absl::Status adopted = call_->AdoptSlabs(message.opened(), Clock::now() + kSlabTimeout);
      EndOpen();
      if (adopted.code() == absl::StatusCode::kUnavailable) return Lost(adopted).status();
      if (!adopted.ok()) return Fail(adopted);
      if (absl::Status expected = CheckListing(message.opened()); !expected.ok()) return Fail(expected);
      opened_ = message.opened();
      if (!has_cursor_) SetCursor(opened_.cursor());
    }
    return absl::OkStatus();
  }

  // A daemon of before expect_fingerprint opens whatever it finds.
  absl::Status CheckListing(const v1::StreamOpened& opened) const {
    const uint64_t found = opened.cursor().listing_fingerprint();
    if (!spec_.has_expect_fingerprint() || spec_.expect_fingerprint() == found) return absl::OkStatus();
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     absl::StrCat("the bucket's listing has fingerprint ", absl::Hex(found, absl::kZeroPad16), ", and ",
                                  absl::Hex(spec_.expect_fingerprint(), absl::kZeroPad16), " is expected"),
                     {.object = spec_.bucket(),
                      .fault = Fault::kListingChanged,
                      .cause = "listing changed",
                      .action = "start all ranks anew when nobody writes to the bucket, each with rank 0's fingerprint"});
  }

  absl::StatusOr<std::optional<Event>> TakeEvent() {
    std::shared_ptr<Response>& front = received_.front();
    const v1::OpenStreamResponse& message = *front->message;
    std::optional<Event> event;
    switch (message.event_case()) {
      case v1::OpenStreamResponse::kBatches: {
        if (next_in_list_ < message.batches().batches_size()) {
          const v1::Batch& batch = message.batches().batches(next_in_list_);
          DEVMEM_RETURN_IF_ERROR(CheckBatch(batch));
          ++next_in_list_;
          call_->Delivered(1);
          Progress(batch.cursor());
          auto state = std::make_unique<Batch::State>(Batch::State{call_, front, &batch, parked_});
          event.emplace().kind = Event::kBatch;
          event->batch = Batch(std::move(state));
        }
        if (next_in_list_ < message.batches().batches_size()) return event;
        next_in_list_ = 0;
        break;
      }
      case v1::OpenStreamResponse::kEpochEnd:
        if (resumed_ && PlaceOf(message.epoch_end().cursor()) <= PlaceOf(cursor())) break;  // handed out before
        event.emplace().kind = Event::kEpochEnd;
        event->epoch_end = message.epoch_end();
        Progress(message.epoch_end().cursor());
        break;
      case v1::OpenStreamResponse::kStreamEnd: {
        event.emplace().kind = Event::kStreamEnd;
        event->stream_end = message.stream_end();
        // The batches in hand keep the call, and the last of them ends it.
        call_->MarkEnded();
        received_.clear();
        SetCall(nullptr);
        final_ = absl::OutOfRangeError("the stream has ended");
        return event;
      }
      default:
        break;  // of a later version: not for us
    }
    received_.pop_front();
    return event;
  }

  absl::Status CheckBatch(const v1::Batch& batch) {
    if (resumed_ && PlaceOf(batch.cursor()) <= PlaceOf(cursor())) {
      return MakeError(absl::StatusCode::kDataLoss, "the resumed stream repeats batches that were delivered",
                       {.object = spec_.bucket(), .cause = "resume mismatch", .action = "report this"});
    }
    for (const v1::Tensor& tensor : batch.tensors()) DEVMEM_RETURN_IF_ERROR(call_->Validate(tensor));
    return absl::OkStatus();
  }

  // Something was handed out: the stream stands at `cursor`, and a daemon lost from now on is a new trouble.
  void Progress(const Cursor& cursor) {
    SetCursor(cursor);
    resumed_ = false;
    give_up_.reset();
  }

  void SetCursor(const Cursor& cursor) {
    std::lock_guard lock(mutex_);
    cursor_ = cursor;
    has_cursor_ = true;
  }

  void SetCall(std::shared_ptr<StreamCall> call) {
    {
      std::lock_guard lock(mutex_);
      call_.swap(call);
      if (cancelled_ && call_ != nullptr) call_->Interrupt();
    }
    next_in_list_ = 0;
  }

  void EndOpen() {
    opening_ = false;
    if (opening_session_ == nullptr) return;
    opening_session_->handles().EndOpen();
    opening_session_.reset();
  }

  absl::Status Fail(const absl::Status& status) {
    final_ = status;
    received_.clear();
    EndOpen();
    SetCall(nullptr);
    return final_;
  }

  const std::shared_ptr<Connector> connector_;
  const StreamOptions options_;
  const std::shared_ptr<Batch::Parked> parked_ = std::make_shared<Batch::Parked>();
  std::minstd_rand random_{std::random_device{}()};

  // Of the thread in Next (or Open).
  StreamSpec spec_;
  v1::StreamOpened opened_;
  std::deque<std::shared_ptr<Response>> received_;
  int next_in_list_ = 0;  // in received_.front()'s batch list
  absl::Status final_;
  bool has_cursor_ = false;
  bool opening_ = false;  // a call is under way and has not answered `opened`
  bool resumed_ = false;  // this call has brought nothing yet that shows where it stands
  std::shared_ptr<Session> opening_session_;
  Time open_deadline_;
  absl::Status lost_;
  std::optional<Time> give_up_;  // while the daemon is away
  Time next_attempt_;
  bool attempting_ = false;  // connecting, begun at an earlier step
  Duration retry_ = kFirstRetry;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> cancelled_ = false;  // written under mutex_
  std::shared_ptr<StreamCall> call_;     // written under mutex_, by the thread in Next only
  Cursor cursor_;
};

namespace {

class ClientImpl final : public Client {
 public:
  explicit ClientImpl(std::shared_ptr<Connector> connector) : connector_(std::move(connector)) {}

  absl::StatusOr<std::unique_ptr<Stream>> OpenStream(const StreamSpec& spec, const StreamOptions& options) override {
    auto stream = std::make_unique<StreamImpl>(connector_, spec, options);
    DEVMEM_RETURN_IF_ERROR(stream->Open());
    return stream;
  }

  absl::StatusOr<v1::GetNodeStatusResponse> GetNodeStatus(Time deadline) override {
    DEVMEM_ASSIGN_OR_RETURN(auto session, connector_->Get(deadline));
    if (session == nullptr) {
      return MakeError(absl::StatusCode::kDeadlineExceeded, "no daemon to ask before the deadline",
                       {.cause = "no hello on the handle socket", .action = "look at the daemon's log"});
    }
    grpc::ClientContext context;
    session->Authorize(context);
    context.set_deadline(std::chrono::system_clock::now() + (deadline - Clock::now()));
    v1::GetNodeStatusResponse response;
    const grpc::Status status = session->stub().GetNodeStatus(&context, {}, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

 private:
  const std::shared_ptr<Connector> connector_;
};

}  // namespace

absl::StatusOr<std::string> ServicePath(std::string_view service) {
  constexpr std::string_view kScheme = "unix:";
  std::string path(service);
  if (service.substr(0, kScheme.size()) == kScheme) path = service.substr(kScheme.size());
  if (path.substr(0, 2) == "//") path = path.substr(2);  // unix:///absolute
  if (path.empty() || service.find("://") == 0 || (path[0] != '/' && path.find(':') != std::string::npos)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "not a service address: '" + std::string(service) + "'",
                     {.action = "give unix:/path or /path"});
  }
  return path;
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(std::string_view service, const ConnectOptions& options) {
  DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<Device> device, MakeDevice(options.device));
  return Connect(service, options, std::move(device));
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(std::string_view service, const ConnectOptions& options,
                                                        std::shared_ptr<Device> device) {
  DEVMEM_ASSIGN_OR_RETURN(const std::string path, ServicePath(service));
  auto connector = std::make_shared<Connector>(path, options.timeout, std::move(device));
  DEVMEM_RETURN_IF_ERROR(connector->Get(Clock::now() + 2 * options.timeout).status());  // its own timeout comes first
  return std::make_unique<ClientImpl>(std::move(connector));
}

}  // namespace devmem::client
