// SPDX-License-Identifier: Apache-2.0
// A call's life:
//   1. OpenStream: token and uid are checked; the first message, the spec, is held against the access rules and the user's
//      quota, and goes to the pool
//   2. the pool prepares the stream and passes the slab over the handle socket; when its trainer has it, `opened` is sent and
//   the
//      stream started
//   3. events come from the stream's loop and are written one message at a time; batches that wait for a write are put
//      into one message. Releases go the other way.
//   4. the call ends: all released after stream_end (OK), a failure, or the trainer left. It is over when gRPC said
//      OnDone and the stream said OnClosed; both hold a reference. The call holds one of the stream until OnDone: a
//      circle, which OnDone must break.
#include "service/loader_service.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <future>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "devmem_loader/v1/handle_socket.pb.h"
#include "service/data_path.h"
#include "service/log_event.h"
#include "service/open_stream.h"
#include "service/plan.h"
#include "service/version.h"
#include "spdlog/spdlog.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;

constexpr Duration kSlabDeadline = std::chrono::seconds(10);  // for a trainer to take its slabs from the handle socket
constexpr Duration kLastMessages = std::chrono::seconds(1);   // for a trainer to read what was sent before its stream was ended
constexpr Duration kProgressEvery = std::chrono::milliseconds(200);
constexpr uint64_t kUncounted = uint64_t{1} << 20;  // of what a stream takes besides its slabs: each has as much

absl::Status NoSpec() {
  return MakeError(absl::StatusCode::kInvalidArgument, "the first message must be the stream's specification",
                   {.cause = "no spec", .action = "send StreamSpec first"});
}

// What one message holds at most: large enough to spread the cost of a message, small enough to keep latency low.
constexpr int kBatchesPerMessage = 512;
constexpr size_t kRowsPerMessage = 1 << 13;

std::map<std::string, std::string> Libraries() {
  return {{"grpc", grpc::Version()}, {"protobuf", std::to_string(GOOGLE_PROTOBUF_VERSION)}};
}

// Who it is, as access is decided by.
std::string PeerText(const HandleSocket::Peer& peer) {
  return absl::StrCat(peer.credentials.uid, ":", peer.credentials.gid, ":", absl::StrJoin(peer.groups, ","));
}

AccessPeer AccessPeerOf(const HandleSocket::Peer& peer) {
  return {.uid = peer.credentials.uid, .gid = peer.credentials.gid, .groups = peer.groups};
}

absl::Status Draining() {
  return MakeError(absl::StatusCode::kUnavailable, "the daemon is going away",
                   {.fault = Fault::kDraining,
                    .cause = "draining",
                    .action = "reconnect and resume at the last cursor; the client library does so by itself"});
}

}  // namespace

class LoaderService::StreamCall final : public grpc::ServerBidiReactor<v1::OpenStreamRequest, v1::OpenStreamResponse>,
                                        public StreamSink,
                                        public std::enable_shared_from_this<StreamCall> {
 public:
  StreamCall(LoaderService& service, grpc::CallbackServerContext& context, absl::StatusOr<HandleSocket::Peer> peer)
      : service_(service), context_(context), refused_(peer.status()) {
    if (peer.ok()) {
      peer_ = *std::move(peer);
    } else if (const auto caller = service_.parts_.listener->CredentialsOf(context.peer()); caller.ok()) {
      peer_.credentials = *caller;  // for the log
    }
    std::lock_guard lock(service_.mutex_);
    ++service_.alive_;
  }
  ~StreamCall() override {
    std::lock_guard lock(service_.mutex_);
    --service_.alive_;
    if (on_transport_) --service_.on_transport_;
    service_.changed_.notify_all();
  }

  // gRPC's reference, until OnDone.
  void Begin(std::shared_ptr<StreamCall> self, bool draining) {
    grpc_self_ = std::move(self);
    if (!refused_.ok()) return RequestFinish(refused_);
    if (draining) return RequestFinish(Draining());
    StartRead(&request_);
  }

  // Ends the call from the daemon's side.
  void End(const absl::Status& status) {
    if (const std::shared_ptr<DataStream> stream = Stop(); stream != nullptr) {
      stream->Fail(status);
    } else {
      RequestFinish(status);
    }
  }

  // Whether the trainer reads or not. Until OnDone.
  void BreakOff() { context_.TryCancel(); }

  [[nodiscard]] const std::string& token() const { return peer_.token; }
  [[nodiscard]] const PeerCredentials& peer() const { return peer_.credentials; }
  [[nodiscard]] const v1::StreamSpec& spec() const { return spec_; }  // once there is a stream
  [[nodiscard]] const AccessGrant& grant() const { return grant_; }   // the same

  // In the order they were opened in; 0 until then. And how many batches its slab holds.
  struct Place {
    uint64_t number = 0;
    uint64_t slots = 0;
    bool over = false;  // its end has been decided
  };
  [[nodiscard]] Place place() {
    std::lock_guard lock(mutex_);
    return {.number = number_, .slots = slots_, .over = finishing_};
  }

  void Describe(const PathInfo& path, v1::StreamStatus* status, std::shared_ptr<DataStream>* stream) {
    std::lock_guard lock(mutex_);
    status->set_stream_id(id_);
    status->set_bucket(spec_.bucket());
    *status->mutable_path() = DataPathOf(path, spec_.bucket());
    status->set_peer_pid(peer_.credentials.pid);
    status->set_peer_uid(peer_.credentials.uid);
    status->set_slab_bytes(slab_bytes_);
    status->set_slots(slots_);
    status->set_rank(spec_.rank());
    status->set_world_size(std::max<uint32_t>(1, spec_.world_size()));
    *stream = stream_;
  }

  // --- gRPC ---

  void OnReadDone(bool ok) override {
    if (!ok) {  // half-closed, or over: OnCancel tells the latter
      std::shared_ptr<DataStream> stream;
      {
        std::lock_guard lock(mutex_);
        half_closed_ = true;
        stream = stream_;
      }
      if (stream != nullptr) stream->EndReleases();
      if (!has_spec_) RequestFinish(NoSpec());
      return;
    }
    if (!has_spec_) {
      has_spec_ = true;
      if (!request_.has_spec()) {
        return RequestFinish(NoSpec());
      }
      {
        std::lock_guard lock(mutex_);
        spec_ = std::move(*request_.mutable_spec());
      }
      if (const absl::Status admitted = Admit(); !admitted.ok()) return RequestFinish(admitted);
      const absl::Status waits =
          service_.opens_.Submit(peer_.token, peer_.credentials.uid, [self = shared_from_this()] { self->Open(); });
      if (!waits.ok()) return RequestFinish(waits);
    } else if (request_.has_release()) {
      std::shared_ptr<DataStream> stream;
      {
        std::lock_guard lock(mutex_);
        stream = stream_;
      }
      if (stream != nullptr) {
        const auto& sequences = request_.release().sequences();
        stream->Release({sequences.begin(), sequences.end()}, request_.release().waiting());
      }
    } else {
      return End(MakeError(absl::StatusCode::kInvalidArgument, "a stream has one specification", {.cause = "second spec"}));
    }
    request_.Clear();
    StartRead(&request_);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok) pending_.clear();
    }
    WriteNext();
  }

  void OnCancel() override { Leave(absl::CancelledError("the trainer left")); }

  void OnDone() override {
    Leave(absl::CancelledError("the call ended"));
    std::shared_ptr<DataStream> stream;
    {
      std::lock_guard lock(mutex_);
      stream = std::move(stream_);  // which holds us
    }
    service_.Remove(this);
    const std::shared_ptr<StreamCall> last = std::move(grpc_self_);
  }

  // --- the stream's loop ---

  void OnEvent(v1::OpenStreamResponse event) override {
    if (event.has_stream_end()) {
      v1::StreamEnd* const end = event.mutable_stream_end();
      *end->mutable_path() = DataPathTaken(service_.parts_.transport->last_path(), spec_.bucket(), end->statistics());
    }
    {
      std::lock_guard lock(mutex_);
      if (finishing_) return;
      Enqueue(std::move(event));
    }
    WriteNext();
  }

  void OnFailed(absl::Status status) override {
    const std::string bucket = BucketForLog(spec_.bucket());
    LogEvent(spdlog::level::warn, "stream_failed", {{"stream", id_}, {"bucket", bucket}, {"reason", EndReason(status)}},
             absl::StrCat("stream ", id_, " of ", bucket, " failed: ", Text(status)));
    RequestFinish(status);
  }

  void OnAllPlanned() override { service_.RefreshPath(); }

  void OnAllReleased() override { RequestFinish(absl::OkStatus()); }

  void OnClosed(std::optional<KeptSlab> kept) override {
    service_.Closed(*this, id_, std::move(kept));
    LogEvent(spdlog::level::info, "stream_closed", {{"stream", id_}}, absl::StrCat("stream ", id_, " closed"));
  }

 private:
  // Before any store is asked, and before a thread is taken.
  absl::Status Admit() {
    DEVMEM_RETURN_IF_ERROR(service_.MayOpen(peer_.token));
    DEVMEM_ASSIGN_OR_RETURN(const AccessGrant grant,
                            service_.access().ForStream(AccessPeerOf(peer_), spec_.bucket(), spec_.endpoint_url()));
    {
      std::lock_guard lock(mutex_);
      grant_ = grant;
    }
    DEVMEM_ASSIGN_OR_RETURN(AccessLedger::Lent lent, service_.parts_.ledger->BeginStream(peer_.credentials.uid, grant));
    std::lock_guard lock(mutex_);
    lent_ = std::move(lent);
    return absl::OkStatus();
  }

  // Of a call that ends without a stream; `raw` may hold what must not be in a log.
  void LogRefused(const std::string& id, const v1::StreamSpec& raw, size_t rule, const absl::Status& status) const {
    const std::string bucket = BucketForLog(raw.bucket());
    // An error about a URI repeats it, query and all.
    const bool plain = (raw.bucket() + raw.endpoint_url()).find_first_of("?#@") == std::string::npos;
    const bool of_itself = absl::IsCancelled(status) || FaultOf(status) == Fault::kDraining;
    LogEvent(of_itself ? spdlog::level::info : spdlog::level::warn, "stream_refused",
             {{"stream", id},
              {"bucket", bucket},
              {"outcome", "refused"},
              {"reason", EndReason(status)},
              {"pid", static_cast<uint64_t>(peer_.credentials.pid)},
              {"uid", uint64_t{peer_.credentials.uid}},
              {"gid", uint64_t{peer_.credentials.gid}},
              {"rule", uint64_t{rule}}},
             absl::StrCat("cannot open a stream of ", bucket.empty() ? "no bucket yet" : bucket, " for pid ",
                          peer_.credentials.pid, " uid ", peer_.credentials.uid, " gid ", peer_.credentials.gid, ": ",
                          plain ? Text(status) : LabelOf(status)));
  }

  // The trainer is not there any more: whatever is under way stops.
  void Leave(const absl::Status& status) {
    if (const std::shared_ptr<DataStream> stream = Stop(); stream != nullptr) stream->Close();
    RequestFinish(status);
  }

  // Its opening goes no further: it is not waited for, whatever it is at. The stream, if that is open already.
  std::shared_ptr<DataStream> Stop() {
    std::string id;
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      if (stream_ != nullptr) return stream_;
      id = id_;
    }
    if (!id.empty()) service_.parts_.handles->CancelSlabs(peer_.token, id);
    return nullptr;
  }

  struct Opening {
    OpenedStream opened;
    std::string id;
    uint64_t number = 0;
    size_t home = 0;
    v1::DataPath path;
    std::shared_ptr<void> hold;  // on the trainer's next opens
  };

  void Open() {
    {
      std::lock_guard lock(mutex_);
      if (stopped_) return;
    }
    // A file is read with the daemon's rights: only for who has them anyway.
    const uid_t uid = peer_.credentials.uid;
    if (absl::StartsWithIgnoreCase(spec_.bucket(), "file:") && uid != 0 && uid != geteuid()) {
      return RequestFinish(
          MakeError(absl::StatusCode::kPermissionDenied,
                    absl::StrCat("files of this host are served to the daemon's own user only, and uid ", uid, " asked"),
                    {.object = spec_.bucket(),
                     .cause = "not the daemon's user",
                     .action = "serve the folder over HTTP, or run devmem-loader without --service"}));
    }
    const v1::DataPath path = DataPathOf(service_.parts_.transport->path(), spec_.bucket());
    if (spec_.require_zero_copy() && path.name() == "copy") {
      return RequestFinish(MakeError(absl::StatusCode::kFailedPrecondition,
                                     absl::StrCat("zero copy is required and this node can only copy: ", path.reason()),
                                     {.object = spec_.bucket(),
                                      .fault = Fault::kNoZeroCopy,
                                      .cause = "no zero copy",
                                      .action = "run without --require-zero-copy, or on a node with a devmem NIC"}));
    }
    const Time now = Clock::now();
    Time next_progress = now;
    const auto quota = [&](uint64_t bytes) { return service_.parts_.ledger->ReserveMemory(uid, bytes, grant_); };
    const auto take = [budget = service_.parts_.budget, ledger = service_.parts_.ledger, uid,
                       grant = grant_](uint64_t bytes) -> absl::Status {
      DEVMEM_RETURN_IF_ERROR(ledger->TakeMemory(uid, bytes, grant));
      absl::Status taken = budget->Take(bytes);
      if (!taken.ok()) ledger->GiveMemory(uid, bytes);
      return taken;
    };
    const auto give = [budget = service_.parts_.budget, ledger = service_.parts_.ledger, uid](uint64_t bytes) {
      budget->Give(bytes);
      ledger->GiveMemory(uid, bytes);
    };
    OpenContext context{.device = service_.parts_.device,
                        .budget = service_.parts_.budget,
                        .memory = std::make_shared<MemoryAccount>(kUncounted, take, give),
                        .quota = quota,
                        .redirects = RedirectsOf(service_.access(), AccessPeerOf(peer_)),
                        .default_prefetch = service_.default_prefetch_,
                        .reads = {.max_gap = service_.parts_.options->max_gap, .max_range = service_.parts_.options->max_range},
                        .deadline = now + service_.parts_.options->open_timeout,
                        .progress = [&](std::string_view phase, uint64_t done, uint64_t total) {
                          if (Clock::now() >= next_progress) {
                            next_progress = Clock::now() + kProgressEvery;
                            v1::OpenStreamResponse event;
                            event.mutable_progress()->set_phase(std::string(phase));
                            event.mutable_progress()->set_done(done);
                            event.mutable_progress()->set_total(total);
                            OnEvent(std::move(event));
                          }
                          std::lock_guard lock(mutex_);
                          return !stopped_;
                        }};
    context.listings = service_.listings_;
    context.peer = PeerText(peer_);
    absl::StatusOr<OpenedStream> opened = PrepareStream(spec_, context);
    if (!opened.ok()) return RequestFinish(opened.status());
    auto opening = std::make_shared<Opening>(Opening{.opened = *std::move(opened), .path = path});
    {
      std::lock_guard lock(service_.mutex_);
      if (service_.ended_) return RequestFinish(Draining());
      on_transport_ = true;
      ++service_.on_transport_;
      opening->id = absl::StrCat("s", getpid(), "-", service_.next_id_++);
      opening->number = service_.next_id_;
      opening->home = service_.next_home_++ % service_.parts_.transport->workers();
    }
    {
      std::lock_guard lock(mutex_);
      id_ = opening->id;
    }
    if (const absl::Status passing = PassSlab(opening); !passing.ok()) RequestFinish(passing);
  }

  // Waits for no trainer: where it has no room for its slab, the rest is done when it has.
  absl::Status PassSlab(std::shared_ptr<Opening> opening) {
    DEVMEM_ASSIGN_OR_RETURN(ExportedHandle handle, opening->opened.setup.slab->ExportHandle());
    v1::SlabHandle packet;
    packet.set_stream_id(opening->id);
    packet.set_slab(0);
    packet.set_kind(handle.kind == ExportedHandle::Kind::kMemfd ? "memfd" : "cuda-vmm");
    packet.set_version(ExportedHandle::kVersion);
    packet.set_bytes(handle.bytes);
    packet.set_device_uuid(handle.device_uuid);
    v1::Slab* const slab = opening->opened.opened.mutable_slabs(0);
    slab->set_kind(packet.kind());
    slab->set_version(packet.version());
    slab->set_device_uuid(packet.device_uuid());
    const std::string id = opening->id;
    opening->hold = service_.opens_.Hold(peer_.token);
    service_.parts_.handles->PassSlab(peer_.token, packet, std::move(handle.fd), Clock::now() + kSlabDeadline,
                                      [self = shared_from_this(), opening = std::move(opening),
                                       here = std::this_thread::get_id()](absl::Status passed) mutable {
                                        opening->hold.reset();
                                        auto next = [self, opening = std::move(opening), passed = std::move(passed)] {
                                          passed.ok() ? self->Begin(*opening) : self->RequestFinish(passed);
                                        };
                                        if (std::this_thread::get_id() == here) return next();
                                        self->service_.parts_.upkeep->Submit(std::move(next));  // it may have a slab to unmap
                                      });
    bool stopped = false;
    {
      std::lock_guard lock(mutex_);
      stopped = stopped_;
    }
    if (stopped) service_.parts_.handles->CancelSlabs(peer_.token, id);  // Stop() may have come before there was one
    return absl::OkStatus();
  }

  // The trainer has its slab.
  void Begin(Opening& opening) {
    StreamSetup& setup = opening.opened.setup;
    const std::string& id = opening.id;
    const std::shared_ptr<DeviceMemory> slab = setup.slab;
    const auto slots = setup.slots;
    const Position start = setup.start;
    setup.id = id;
    setup.counters = &service_.counters_.OfWorker(opening.home);
    // The next to open the bucket shall not be told of objects that are not there any more, be they skipped or not.
    setup.say_failed = [say = service_.parts_.say_failed, forget = std::move(opening.opened.forget_listing)](
                           const RangeRead& read, const absl::Status& status, std::optional<Duration> wait) {
      if (FaultOf(status) == Fault::kObjectChanged || FaultOf(status) == Fault::kObjectGone) forget();
      if (say) say(read, status, wait);
    };
    auto stream = std::make_shared<DataStream>(
        std::move(setup), *service_.parts_.transport, opening.home, shared_from_this(),
        [pool = service_.parts_.upkeep](std::function<void()> task) { pool->Submit(std::move(task)); });
    service_.Opened(*this, id);
    v1::OpenStreamResponse event;
    *event.mutable_opened() = std::move(opening.opened.opened);
    event.mutable_opened()->set_stream_id(id);
    *event.mutable_opened()->mutable_path() = std::move(opening.path);
    *event.mutable_opened()->mutable_cursor() = stream->CursorAt(start);
    bool stopped = false;
    bool half_closed = false;
    {
      std::lock_guard lock(mutex_);
      stopped = stopped_;
      half_closed = half_closed_;
      if (!stopped) {
        stream_ = stream;
        number_ = opening.number;
      }
      slab_bytes_ = slab->bytes();
      slots_ = slots;
    }
    if (stopped) {  // Leave() or End() came before there was a stream
      stream.reset();
      return service_.Closed(*this, id, KeptSlab{.slab = slab});
    }
    const uint64_t world_size = std::max<uint32_t>(1, spec_.world_size());
    const std::string bucket = BucketForLog(spec_.bucket());
    LogEvent(spdlog::level::info, "stream_opened",
             {{"stream", id},
              {"bucket", bucket},
              {"outcome", "opened"},
              {"rank", uint64_t{spec_.rank()}},
              {"world_size", world_size},
              {"slots", uint64_t{slots}},
              {"bytes", slab->bytes()},
              {"pid", static_cast<uint64_t>(peer_.credentials.pid)},
              {"uid", uint64_t{peer_.credentials.uid}},
              {"gid", uint64_t{peer_.credentials.gid}},
              {"rule", uint64_t{grant_.rule}}},
             absl::StrCat("stream ", id, " of ", bucket, ": rank ", spec_.rank(), " of ", world_size, ", ", slots, " slots in ",
                          slab->bytes(), " bytes, for pid ", peer_.credentials.pid, " uid ", peer_.credentials.uid, " gid ",
                          peer_.credentials.gid));
    service_.CountOpened();
    OnEvent(std::move(event));
    if (half_closed) stream->EndReleases();
    stream->Start();
  }

  // mutex_ held.
  void Enqueue(v1::OpenStreamResponse event) {
    using Kind = v1::OpenStreamResponse;
    if (event.event_case() == Kind::kBatches && !pending_.empty() && pending_.back().event_case() == Kind::kBatches &&
        pending_.back().batches().batches_size() < kBatchesPerMessage && pending_rows_ < kRowsPerMessage) {
      auto* const into = pending_.back().mutable_batches()->mutable_batches();
      for (v1::Batch& batch : *event.mutable_batches()->mutable_batches()) {
        pending_rows_ += static_cast<size_t>(batch.sample_ids_size());
        into->Add(std::move(batch));
      }
      return;
    }
    pending_rows_ = 0;
    for (const v1::Batch& batch : event.batches().batches()) pending_rows_ += static_cast<size_t>(batch.sample_ids_size());
    pending_.push_back(std::move(event));
  }

  // Finishes with `status` when what is pending is written. The first status wins.
  void RequestFinish(const absl::Status& status) {
    bool opened = false;
    std::string id;
    size_t rule = 0;
    v1::StreamSpec named;     // of the spec, what the log is about
    AccessLedger::Lent lent;  // goes back before the trainer is told: it may open the next at once
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(finishing_, true)) return;
      final_ = ToGrpcStatus(status);
      if (absl::IsCancelled(status)) pending_.clear();  // nobody reads any more
      opened = number_ != 0;
      lent = std::move(lent_);
      if (!opened) {
        id = id_;
        rule = grant_.rule;
        named.set_bucket(spec_.bucket());
        named.set_endpoint_url(spec_.endpoint_url());
      }
    }
    if (!opened) LogRefused(id, named, rule, status);
    service_.CountEnd(status, opened);
    lent.reset();
    WriteNext();
  }

  void WriteNext() {
    bool finish = false;
    {
      std::lock_guard lock(mutex_);
      if (writing_ || finished_) return;
      if (!pending_.empty()) {
        writing_ = true;
        outgoing_ = std::move(pending_.front());
        pending_.pop_front();
      } else if (finishing_) {
        finish = finished_ = true;
      } else {
        return;
      }
    }
    if (finish) {
      Finish(final_);
    } else {
      StartWrite(&outgoing_);
    }
  }

  LoaderService& service_;
  grpc::CallbackServerContext& context_;
  bool on_transport_ = false;   // counted as such; guarded by service_.mutex_
  const absl::Status refused_;  // why the caller may not open a stream, or OK
  HandleSocket::Peer peer_;     // set at construction
  std::shared_ptr<StreamCall> grpc_self_;
  v1::OpenStreamRequest request_;    // reads' thread
  bool has_spec_ = false;            // reads' thread
  v1::OpenStreamResponse outgoing_;  // while writing_

  std::mutex mutex_;
  v1::StreamSpec spec_;      // written once, before Open
  AccessGrant grant_;        // the same
  AccessLedger::Lent lent_;  // one of its user's streams, until its end is decided
  std::string id_;
  uint64_t number_ = 0;  // of the stream, from 1 on; 0: there is none yet
  uint64_t slab_bytes_ = 0;
  uint64_t slots_ = 0;
  std::shared_ptr<DataStream> stream_;
  std::deque<v1::OpenStreamResponse> pending_;
  size_t pending_rows_ = 0;  // in pending_.back()
  grpc::Status final_;
  bool writing_ = false;
  bool finishing_ = false;  // no more events
  bool finished_ = false;   // Finish() was called
  bool half_closed_ = false;
  bool stopped_ = false;  // do not start the stream
};

LoaderService::LoaderService(Parts parts)
    : parts_(std::move(parts)),
      default_prefetch_(parts_.options->default_prefetch),
      opens_(parts_.openers, {}),
      access_(parts_.options->access) {
  parts_.budget->OnShort([listings = listings_] { listings->Clear(); });
}

LoaderService::~LoaderService() { parts_.budget->OnShort(nullptr); }

void LoaderService::SetAccess(const AccessRules& access) {
  {
    std::lock_guard lock(mutex_);
    access_ = access;
  }
  listings_->Clear();  // what the old rules let a redirect lead to
}

AccessRules LoaderService::access() const {
  std::lock_guard lock(mutex_);
  return access_;
}

absl::StatusOr<HandleSocket::Peer> LoaderService::Authenticate(const grpc::CallbackServerContext& context) const {
  const auto refuse = [](std::string_view why) {
    return MakeError(absl::StatusCode::kUnauthenticated, why,
                     {.fault = Fault::kToken,
                      .cause = "not authenticated",
                      .action = "connect to the handle socket first and send its token as metadata devmem-token"});
  };
  const auto& metadata = context.client_metadata();
  const auto token = metadata.find("devmem-token");
  if (token == metadata.end()) return refuse("the call carries no token");
  absl::StatusOr<HandleSocket::Peer> peer =
      parts_.handles->FindPeer(std::string_view(token->second.data(), token->second.size()));
  if (!peer.ok()) return refuse("the token is not that of a connected trainer");
  DEVMEM_ASSIGN_OR_RETURN(const PeerCredentials caller, parts_.listener->CredentialsOf(context.peer()));
  if (caller.uid != peer->credentials.uid) {
    spdlog::error("uid {} (pid {}) used a token of uid {}: refused", caller.uid, caller.pid, peer->credentials.uid);
    return MakeError(absl::StatusCode::kPermissionDenied, "the token belongs to another user",
                     {.cause = "stolen token", .action = "connect to the handle socket as yourself"});
  }
  return peer;
}

grpc::ServerBidiReactor<v1::OpenStreamRequest, v1::OpenStreamResponse>* LoaderService::OpenStream(
    grpc::CallbackServerContext* context) {
  auto call = std::make_shared<StreamCall>(*this, *context, Authenticate(*context));
  StreamCall* const raw = call.get();
  bool draining = false;
  {
    std::lock_guard lock(mutex_);
    draining = draining_;
    calls_[raw] = call;
  }
  raw->Begin(std::move(call), draining);
  return raw;
}

grpc::ServerUnaryReactor* LoaderService::GetNodeStatus(grpc::CallbackServerContext* context,
                                                       const v1::GetNodeStatusRequest* /*request*/,
                                                       v1::GetNodeStatusResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<HandleSocket::Peer> peer = Authenticate(*context);
  const AccessRules rules = access();
  const absl::Status admitted = peer.ok() ? rules.ForPeer(AccessPeerOf(*peer), geteuid()) : peer.status();
  if (!admitted.ok()) {
    reactor->Finish(ToGrpcStatus(admitted));
    return reactor;
  }
  const uid_t uid = peer->credentials.uid;
  const auto only_of = rules.MaySeeAll(uid, geteuid()) ? std::nullopt : std::optional(uid);
  parts_.status->Submit([this, only_of, reactor, response] {
    FillStatus(only_of, response);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

void LoaderService::FillStatus(std::optional<uid_t> only_of, v1::GetNodeStatusResponse* response) {
  response->set_version(kVersion);
  response->set_api_version(1);
  response->set_pid(getpid());
  response->set_uptime_seconds(std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - started_).count());
  response->set_workers(static_cast<uint32_t>(parts_.transport->workers()));
  response->add_devices(std::string(parts_.device->name()));
  v1::PoolStatus* const pool = response->add_pools();
  pool->set_name("slabs");
  pool->set_bytes_used(parts_.budget->used());
  pool->set_bytes_limit(parts_.budget->limit());
  v1::PoolStatus* const rest = response->add_pools();
  rest->set_name("listings");
  rest->set_bytes_used(parts_.budget->taken());
  rest->set_bytes_limit(parts_.budget->limit());
  v1::PoolStatus* const for_others = response->add_pools();
  for_others->set_name("kept listings");
  for_others->set_bytes_used(parts_.budget->kept());
  for_others->set_bytes_limit(parts_.budget->most_kept());
  response->set_memory_limit_source(parts_.budget->source());
  const PathInfo path = parts_.transport->path();
  *response->add_paths() = DataPathMessage(path);
  for (const auto& [library, version] : Libraries()) (*response->mutable_library_versions())[library] = version;
  {
    std::lock_guard lock(mutex_);
    response->set_draining(draining_);
    for (const auto& [token, kept] : kept_) {
      if (only_of.has_value() && kept.peer.uid != *only_of) continue;
      v1::KeptSlab* const slab = response->add_kept_slabs();
      slab->set_stream_id(kept.stream_id);
      slab->set_bucket(kept.bucket);
      slab->set_peer_pid(kept.peer.pid);
      slab->set_peer_uid(kept.peer.uid);
      slab->set_bytes(kept.slab.slab->bytes());
      slab->set_kept_seconds(std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - kept.since).count());
    }
  }
  for (v1::StreamStatus& stream : DescribeStreams(path, SIZE_MAX).streams) {
    if (!only_of.has_value() || stream.peer_uid() == *only_of) *response->add_streams() = std::move(stream);
  }
}

LoaderService::Open LoaderService::DescribeStreams(const PathInfo& path, size_t most) {
  std::vector<std::pair<uint64_t, std::shared_ptr<StreamCall>>> calls;  // by number
  std::vector<std::shared_ptr<StreamCall>> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [raw, weak] : calls_) {
      if (std::shared_ptr<StreamCall> call = weak.lock(); call != nullptr) all.push_back(std::move(call));
    }
  }
  Open open;
  for (std::shared_ptr<StreamCall>& call : all) {
    const StreamCall::Place place = call->place();
    if (place.number == 0) {
      if (!place.over) ++open.opening;
      continue;
    }
    ++open.count;
    open.slots += place.slots;
    calls.emplace_back(place.number, std::move(call));
  }
  std::sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  if (calls.size() > most) calls.resize(most);
  // Ask all loops at once, then wait for the answers.
  std::vector<std::pair<size_t, std::future<DataStream::State>>> answers;
  for (const auto& [number, call] : calls) {
    v1::StreamStatus status;
    std::shared_ptr<DataStream> stream;
    call->Describe(path, &status, &stream);
    if (stream == nullptr) continue;  // over meanwhile
    open.streams.push_back(std::move(status));
    open.answered.push_back(false);
    auto promise = std::make_shared<std::promise<DataStream::State>>();
    answers.emplace_back(open.streams.size() - 1, promise->get_future());
    stream->Snapshot([promise](DataStream::State state) { promise->set_value(std::move(state)); });
  }
  const Time deadline = Clock::now() + std::chrono::seconds(1);
  for (auto& [place, answer] : answers) {
    if (answer.wait_until(deadline) != std::future_status::ready) continue;  // a busy loop; the rest is still true
    DataStream::State state = answer.get();
    v1::StreamStatus& into = open.streams[place];
    *into.mutable_statistics() = std::move(state.statistics);
    *into.mutable_cursor() = std::move(state.cursor);
    into.set_slots_held(state.slots_held);
    open.answered[place] = true;
  }
  return open;
}

NodeSnapshot LoaderService::Observe(size_t most_streams) {
  NodeSnapshot node{.version = kVersion,
                    .libraries = Libraries(),
                    .workers = parts_.transport->workers(),
                    .path = parts_.transport->path(),
                    .transfers = parts_.transport->transfers(),
                    .totals = counters_.Sum(),
                    .slab_bytes = parts_.budget->used(),
                    .listing_bytes = parts_.budget->taken(),
                    .kept_listing_bytes = parts_.budget->kept(),
                    .slab_limit = parts_.budget->limit()};
  Open open = DescribeStreams(node.path, most_streams);
  for (size_t i = 0; i < open.streams.size(); ++i) {
    if (open.answered[i]) node.streams.push_back(std::move(open.streams[i]));  // a counter that is 0 now and then looks reset
  }
  node.streams_without_series = open.count - std::min<uint64_t>(open.count, node.streams.size());
  node.opening = open.opening;
  node.open = open.count;
  node.credits = open.slots;
  {
    std::lock_guard lock(mutex_);
    node.serving = !draining_;
    node.kept_slabs = kept_.size();
    for (const auto& [token, kept] : kept_) node.kept_slab_bytes += kept.slab.slab->bytes();
  }
  std::lock_guard lock(ends_mutex_);
  node.opened = opened_;
  node.refused = refused_;
  node.ended = ended_by_;
  return node;
}

void LoaderService::CountOpened() {
  std::lock_guard lock(ends_mutex_);
  ++opened_;
}

void LoaderService::CountEnd(const absl::Status& status, bool opened) {
  std::lock_guard lock(ends_mutex_);
  ++(opened ? ended_by_ : refused_)[EndReason(status)];
}

void LoaderService::PeerGone(const std::string& token) {
  std::vector<std::shared_ptr<StreamCall>> calls;
  std::vector<KeptSlab> kept;
  {
    std::lock_guard lock(mutex_);
    if (const auto streams = streams_of_.find(token); streams != streams_of_.end() && streams->second.open == 0)
      streams_of_.erase(streams);
    for (const auto& [raw, weak] : calls_) {
      if (std::shared_ptr<StreamCall> call = weak.lock(); call != nullptr && call->token() == token)
        calls.push_back(std::move(call));
    }
    const auto [first, last] = kept_.equal_range(token);
    for (auto entry = first; entry != last; ++entry) kept.push_back(std::move(entry->second.slab));
    kept_.erase(first, last);
  }
  for (const auto& call : calls) call->OnCancel();
  if (kept.empty()) return;
  parts_.upkeep->Submit([kept] {
    for (const KeptSlab& slab : kept) slab.slab->Retire();
  });
}

absl::Status LoaderService::MayOpen(const std::string& token) const {
  std::lock_guard lock(mutex_);
  size_t kept = 0;
  uint64_t bytes = 0;
  const auto [first, last] = kept_.equal_range(token);
  for (auto entry = first; entry != last; ++entry) {
    if (entry->second.slab.of_node == nullptr) continue;  // left by streams that the daemon itself cut off
    ++kept;
    bytes += entry->second.slab.slab->bytes();
  }
  const auto streams = streams_of_.find(token);
  // Who opens a failed stream again may hold the batches of the one before meanwhile, and so may each of several at once.
  const size_t most = streams == streams_of_.end() ? 1 : std::max<size_t>(1, streams->second.most_open);
  // A client library of an earlier version cannot say that it is done: little is no harm.
  if (kept <= most || bytes <= parts_.budget->limit() / 8) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("the daemon keeps ", bytes, " bytes of slabs for this trainer, of ", kept,
                   " streams that failed while it held batches; it never had more than ", most, " open at once"),
      {.fault = Fault::kQuota,
       .cause = "kept slabs",
       .action = "destroy the batches and streams that failed; a client library of an earlier version does not say so "
                 "to the daemon: update it, or connect anew"});
}

void LoaderService::Opened(StreamCall& call, const std::string& id) {
  std::lock_guard lock(mutex_);
  living_[{call.token(), id}].call = call.weak_from_this();
  Streams& streams = streams_of_[call.token()];
  streams.most_open = std::max(streams.most_open, ++streams.open);
}

LoaderService::Living LoaderService::Forget(const std::string& token, const std::string& id) {
  const auto found = living_.find({token, id});
  Living living = std::move(found->second);
  living_.erase(found);
  const auto streams = streams_of_.find(token);
  if (--streams->second.open == 0 && !parts_.handles->FindPeer(token).ok()) streams_of_.erase(streams);
  return living;
}

void LoaderService::Closed(StreamCall& call, const std::string& id, std::optional<KeptSlab> kept) {
  Living living;
  {
    std::lock_guard lock(mutex_);
    living = Forget(call.token(), id);
    if (kept.has_value() && kept->of_node != nullptr && !living.released) {
      Kept entry{.stream_id = id,
                 .bucket = BucketForLog(call.spec().bucket()),
                 .peer = call.peer(),
                 .since = Clock::now(),
                 .slab = *std::move(kept)};
      if (ended_) {
        // Streams cut off come back, here if there is no successor after all: what their trainers hold must not stand in their
        // way.
        entry.slab.of_node.reset();
        entry.slab.of_user.reset();
      } else {
        // The same for one that is opened again at once; older ones count to its user's quota, as they did.
        const auto [first, last] = kept_.equal_range(call.token());
        const bool another = std::any_of(first, last, [](const auto& each) { return each.second.beyond_quota; });
        absl::StatusOr<AccessLedger::Lent> beside =
            another ? absl::ResourceExhaustedError("")
                    : parts_.ledger->ReserveKept(call.peer().uid, entry.slab.slab->bytes(), call.grant());
        if (beside.ok()) {
          entry.slab.of_user = *std::move(beside);
          entry.beyond_quota = true;
        }
      }
      // FindPeer stops finding a trainer before PeerGone runs, and PeerGone takes this lock: one of the two retires it.
      kept.reset();
      if (parts_.handles->FindPeer(call.token()).ok()) {
        kept_.emplace(call.token(), std::move(entry));
      } else {
        kept = std::move(entry.slab);
      }
    }
  }
  if (kept.has_value()) kept->slab->Retire();
  kept.reset();  // before the trainer is told: it may open the next at once
  for (grpc::ServerUnaryReactor* const release : living.releases) release->Finish(grpc::Status::OK);
}

grpc::ServerUnaryReactor* LoaderService::ReleaseStream(grpc::CallbackServerContext* context,
                                                       const v1::ReleaseStreamRequest* request,
                                                       v1::ReleaseStreamResponse* /*response*/) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<HandleSocket::Peer> peer = Authenticate(*context);
  if (!peer.ok()) {
    reactor->Finish(ToGrpcStatus(peer.status()));
    return reactor;
  }
  std::shared_ptr<StreamCall> call;
  std::optional<KeptSlab> kept;
  {
    std::lock_guard lock(mutex_);
    if (const auto living = living_.find({peer->token, request->stream_id()}); living != living_.end()) {
      living->second.released = true;
      call = living->second.call.lock();
      if (!ended_) {
        living->second.releases.push_back(reactor);
      } else {
        reactor->Finish(grpc::Status::OK);  // nobody is waited for any more
      }
    } else {
      const auto [first, last] = kept_.equal_range(peer->token);
      const auto found =
          std::find_if(first, last, [&](const auto& each) { return each.second.stream_id == request->stream_id(); });
      if (found != last) {
        kept = std::move(found->second.slab);
        kept_.erase(found);
      } else {
        reactor->Finish(grpc::Status::OK);
      }
    }
  }
  if (call != nullptr) call->OnCancel();  // if it has not failed: given up
  if (kept.has_value()) {
    parts_.upkeep->Submit([kept = *std::move(kept), reactor]() mutable {
      kept.slab->Retire();
      kept = {};
      reactor->Finish(grpc::Status::OK);
    });
  }
  return reactor;
}

void LoaderService::AnswerReleases() {
  std::vector<grpc::ServerUnaryReactor*> releases;
  {
    std::lock_guard lock(mutex_);
    for (auto& [key, living] : living_) {
      releases.insert(releases.end(), living.releases.begin(), living.releases.end());
      living.releases.clear();
    }
  }
  for (grpc::ServerUnaryReactor* const release : releases) release->Finish(grpc::Status::OK);
}

void LoaderService::RefreshPath() {
  if (path_asked_.exchange(true)) return;
  parts_.status->Submit([this] {
    path_asked_ = false;
    (void)parts_.transport->path();
  });
}

void LoaderService::Remove(StreamCall* call) {
  std::lock_guard lock(mutex_);
  calls_.erase(call);
  changed_.notify_all();
}

size_t LoaderService::Drain(Time deadline) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  changed_.wait_until(lock, deadline, [this] { return calls_.empty(); });
  return calls_.size();
}

size_t LoaderService::EndCalls() {
  std::vector<std::shared_ptr<StreamCall>> calls;
  {
    std::lock_guard lock(mutex_);
    draining_ = ended_ = true;
    for (const auto& [raw, weak] : calls_) {
      if (std::shared_ptr<StreamCall> call = weak.lock(); call != nullptr) calls.push_back(std::move(call));
    }
  }
  for (const auto& call : calls) call->End(Draining());
  return calls.size();
}

void LoaderService::EndAll(Time deadline) {
  EndCalls();
  {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [this] { return alive_ == 0; });
  }
  AnswerReleases();  // also of streams that do not end: gRPC waits for every call
}

absl::StatusOr<size_t> LoaderService::Pause(Time deadline) {
  const size_t calls = EndCalls();
  const auto none = [this] { return on_transport_ == 0; };
  std::unique_lock lock(mutex_);
  if (changed_.wait_until(lock, std::min(deadline, Clock::now() + kLastMessages), none)) return calls;
  for (const auto& [raw, weak] : calls_) raw->BreakOff();  // none can be done before Remove(), which waits for us
  if (changed_.wait_until(lock, deadline, none)) return calls;
  return MakeError(absl::StatusCode::kDeadlineExceeded, absl::StrCat(on_transport_, " streams have not ended in time"),
                   {.cause = "streams do not end", .action = "try again, or end this daemon (SIGTERM)"});
}

void LoaderService::Resume() {
  std::lock_guard lock(mutex_);
  draining_ = ended_ = false;
}

}  // namespace devmem
