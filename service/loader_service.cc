// SPDX-License-Identifier: Apache-2.0
// A call's life:
//   1. OpenStream: token and uid are checked; the first message, the spec, is held against the access rules and the user's
//      quota, and goes to the pool
//   2. the pool prepares the stream, sends the slab over the handle socket, then `opened`, and starts the stream
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
    std::shared_ptr<DataStream> stream;
    {
      std::lock_guard lock(mutex_);
      stream = stream_;
      stopped_ = true;
    }
    if (stream != nullptr) {
      stream->Fail(status);
    } else {
      RequestFinish(status);
    }
  }

  // Whether the trainer reads or not. Until OnDone.
  void BreakOff() { context_.TryCancel(); }

  [[nodiscard]] const std::string& token() const { return peer_.token; }

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
      service_.parts_.openers->Submit([self = shared_from_this()] { self->Open(); });
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
      *end->mutable_path() = DataPathTaken(service_.parts_.transport->path(), spec_.bucket(), end->statistics());
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
    // The next to open the bucket shall not be told of objects that are not there any more.
    if (FaultOf(status) == Fault::kObjectChanged || FaultOf(status) == Fault::kObjectGone) forget_listing_();
    RequestFinish(status);
  }

  void OnAllReleased() override { RequestFinish(absl::OkStatus()); }

  void OnClosed(std::optional<KeptSlab> kept) override {
    if (kept.has_value()) service_.Keep(peer_.token, *std::move(kept));
    LogEvent(spdlog::level::info, "stream_closed", {{"stream", id_}}, absl::StrCat("stream ", id_, " closed"));
  }

 private:
  // Before any store is asked, and before a thread is taken.
  absl::Status Admit() {
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
    std::shared_ptr<DataStream> stream;
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      stream = stream_;
    }
    if (stream != nullptr) stream->Close();
    RequestFinish(status);
  }

  void Open() {
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
    OpenContext context{.device = service_.parts_.device,
                        .budget = service_.parts_.budget,
                        .quota = quota,
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
    size_t home = 0;
    uint64_t number = 0;
    std::string id;
    {
      std::lock_guard lock(service_.mutex_);
      if (service_.ended_) return RequestFinish(Draining());
      on_transport_ = true;
      ++service_.on_transport_;
      id = absl::StrCat("s", getpid(), "-", service_.next_id_++);
      number = service_.next_id_;
      home = service_.next_home_++ % service_.parts_.transport->workers();
    }
    {
      std::lock_guard lock(mutex_);
      id_ = id;
    }
    if (const absl::Status sent = SendSlab(id, *opened); !sent.ok()) return RequestFinish(sent);

    const std::shared_ptr<DeviceMemory> slab = opened->setup.slab;
    const auto slots = opened->setup.slots;
    const Position start = opened->setup.start;
    opened->setup.id = id;
    opened->setup.counters = &service_.counters_.OfWorker(home);
    opened->setup.say_failed = service_.parts_.say_failed;
    forget_listing_ = std::move(opened->forget_listing);
    auto stream = std::make_shared<DataStream>(
        std::move(opened->setup), *service_.parts_.transport, home, shared_from_this(),
        [pool = service_.parts_.upkeep](std::function<void()> task) { pool->Submit(std::move(task)); });
    v1::OpenStreamResponse event;
    *event.mutable_opened() = std::move(opened->opened);
    event.mutable_opened()->set_stream_id(id);
    *event.mutable_opened()->mutable_path() = path;
    *event.mutable_opened()->mutable_cursor() = stream->CursorAt(start);
    bool stopped = false;
    bool half_closed = false;
    {
      std::lock_guard lock(mutex_);
      stopped = stopped_;
      half_closed = half_closed_;
      if (!stopped) {
        stream_ = stream;
        number_ = number;
      }
      slab_bytes_ = slab->bytes();
      slots_ = slots;
    }
    if (stopped) return slab->Retire();  // Leave() or End() came before there was a stream
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

  absl::Status SendSlab(const std::string& id, OpenedStream& opened) {
    DEVMEM_ASSIGN_OR_RETURN(const ExportedHandle handle, opened.setup.slab->ExportHandle());
    v1::SlabHandle packet;
    packet.set_stream_id(id);
    packet.set_slab(0);
    packet.set_kind(handle.kind == ExportedHandle::Kind::kMemfd ? "memfd" : "cuda-vmm");
    packet.set_version(ExportedHandle::kVersion);
    packet.set_bytes(handle.bytes);
    packet.set_device_uuid(handle.device_uuid);
    v1::Slab* const slab = opened.opened.mutable_slabs(0);
    slab->set_kind(packet.kind());
    slab->set_version(packet.version());
    slab->set_device_uuid(packet.device_uuid());
    return service_.parts_.handles->SendSlab(peer_.token, packet, handle.fd.get(), Clock::now() + kSlabDeadline);
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
  std::function<void()> forget_listing_;  // set before the stream starts
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
    : parts_(std::move(parts)), default_prefetch_(parts_.options->default_prefetch), access_(parts_.options->access) {
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
  const PathInfo path = parts_.transport->path();
  *response->add_paths() = DataPathMessage(path);
  for (const auto& [library, version] : Libraries()) (*response->mutable_library_versions())[library] = version;
  {
    std::lock_guard lock(mutex_);
    response->set_draining(draining_);
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
    for (const auto& [raw, weak] : calls_) {
      if (std::shared_ptr<StreamCall> call = weak.lock(); call != nullptr && call->token() == token)
        calls.push_back(std::move(call));
    }
    const auto [first, last] = kept_.equal_range(token);
    for (auto entry = first; entry != last; ++entry) kept.push_back(std::move(entry->second));
    kept_.erase(first, last);
  }
  for (const auto& call : calls) call->OnCancel();
  if (kept.empty()) return;
  parts_.upkeep->Submit([kept] {
    for (const KeptSlab& slab : kept) slab.slab->Retire();
  });
}

void LoaderService::Keep(const std::string& token, KeptSlab kept) {
  {
    std::lock_guard lock(mutex_);
    // Streams cut off come back, here if there is no successor after all: what their trainers hold must not stand in their way.
    if (ended_) kept.reservation.reset();
    // FindPeer stops finding a trainer before PeerGone runs, and PeerGone takes this lock: one of the two retires it.
    if (parts_.handles->FindPeer(token).ok()) {
      kept_.emplace(token, std::move(kept));
      return;
    }
  }
  kept.slab->Retire();
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
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline, [this] { return alive_ == 0; });
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
