// SPDX-License-Identifier: Apache-2.0
#include "service/testing/fake_daemon.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "client/cpp/rpc_error.h"
#include "devmem_loader/v1/handle_socket.pb.h"
#include "devmem_loader/v1/loader.grpc.pb.h"
#include "devmem_loader/v1/rpc_status.pb.h"
#include "service/grpc_listener.h"
#include "service/handle_socket.h"

namespace devmem::testing {
namespace {

namespace v1 = devmem_loader::v1;
constexpr uint64_t kSlotBytes = 512;
static_assert(kSlotBytes == kWords * sizeof(uint64_t));
constexpr Duration kLong = std::chrono::seconds(30);

// What a daemon sends that is older than ErrorDetail's fault, scope and http_status.
grpc::Status WithoutFault(const grpc::Status& status) {
  v1::RpcStatus rpc;
  if (!rpc.ParseFromString(status.error_details()) || rpc.details_size() == 0) return status;
  v1::ErrorDetail detail;
  if (!rpc.details(0).UnpackTo(&detail)) return status;
  detail.clear_fault();
  detail.clear_scope();
  detail.clear_http_status();
  rpc.mutable_details(0)->PackFrom(detail);
  return {status.error_code(), status.error_message(), rpc.SerializeAsString()};
}

// A slab as the real daemon makes them, emptied when the stream ends.
class Slab {
 public:
  Slab(uint64_t bytes, bool seal) : bytes_(bytes), fd_(::memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) std::abort();
    if (seal && ::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) std::abort();
    data_ = static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
  }
  // What a failed stream delivered stays readable: its trainer cannot release it any more.
  void Keep() { punch_ = false; }
  ~Slab() {
    if (punch_) (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes_));
    (void)::munmap(data_, bytes_);
  }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
  int fd() const { return fd_.get(); }
  uint64_t bytes() const { return bytes_; }
  std::byte* data() const { return data_; }

 private:
  uint64_t bytes_;
  UniqueFd fd_;
  std::byte* data_;
  bool punch_ = true;
};

// One call, with writes that block. The reactor deletes itself when gRPC is done with it.
class Channel final : public grpc::ServerBidiReactor<v1::OpenStreamRequest, v1::OpenStreamResponse> {
 public:
  using OnRequest = std::function<void(const v1::OpenStreamRequest*)>;  // null: the client has closed or gone

  explicit Channel(grpc::CallbackServerContext* call_context) : context(call_context) {}
  void Start(OnRequest on_request) {
    on_request_ = std::move(on_request);
    StartRead(&request_);
  }
  bool Write(const v1::OpenStreamResponse& message) {
    {
      std::lock_guard lock(mutex_);
      written_.reset();
    }
    StartWrite(&message);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return written_.has_value(); });
    return *written_;
  }
  void End(const grpc::Status& status) {
    thread.detach();
    Finish(status);
  }

  grpc::CallbackServerContext* const context;
  std::thread thread;

 private:
  void OnReadDone(bool ok) override {
    on_request_(ok ? &request_ : nullptr);
    if (ok) StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    written_ = ok;
    changed_.notify_all();
  }
  void OnDone() override { delete this; }

  OnRequest on_request_;
  v1::OpenStreamRequest request_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<bool> written_;
};

class FakeDaemonImpl final : public FakeDaemon, public v1::Loader::CallbackService {
 public:
  explicit FakeDaemonImpl(FakeDaemonOptions options) : options_(std::move(options)) {
    auto admit = [this](const PeerCredentials&) { return options_.admit ? options_.admit() : absl::OkStatus(); };
    auto handles = HandleSocket::Create(options_.path, {.admit = admit, .gone = [this](const HandleSocket::Peer&) {
                                                          std::lock_guard lock(mutex_);
                                                          changed_.notify_all();
                                                        }});
    auto listener = GrpcListener::Create(options_.path, {});
    if (!handles.ok() || !listener.ok()) {
      std::fprintf(stderr, "%s %s\n", handles.status().ToString().c_str(), listener.status().ToString().c_str());
      std::abort();
    }
    handles_ = std::move(*handles);
    listener_ = std::move(*listener);
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    listener_->Serve(server_.get());
  }

  ~FakeDaemonImpl() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    listener_->Stop();
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
    // The streams' threads end after gRPC is done with their calls: their last act is to say so here.
    if (!WaitForStreamsToEnd()) {
      std::fprintf(stderr, "a stream of the fake daemon on %s does not end\n", options_.path.c_str());
      std::abort();
    }
    handles_.reset();
  }

  uint64_t releases() const override { return releases_; }
  uint64_t release_messages() const override { return release_messages_; }
  uint64_t opens() const override { return opens_; }
  bool WaitForReleases(uint64_t count) override {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLong, [&] { return releases_ >= count; });
  }
  bool WaitForStreamsToEnd() override {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLong, [&] { return streams_ == 0; });
  }

  grpc::ServerUnaryReactor* GetNodeStatus(grpc::CallbackServerContext* context, const v1::GetNodeStatusRequest*,
                                          v1::GetNodeStatusResponse* response) override {
    response->set_pid(::getpid());
    response->set_version("fake");
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  std::vector<std::string> released_streams() const override {
    std::lock_guard lock(mutex_);
    return released_streams_;
  }

  grpc::ServerUnaryReactor* ReleaseStream(grpc::CallbackServerContext* context, const v1::ReleaseStreamRequest* request,
                                          v1::ReleaseStreamResponse*) override {
    {
      std::lock_guard lock(mutex_);
      released_streams_.push_back(request->stream_id());
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(options_.releases_streams ? grpc::Status::OK : grpc::Status(grpc::StatusCode::UNIMPLEMENTED, ""));
    return reactor;
  }

  grpc::ServerBidiReactor<v1::OpenStreamRequest, v1::OpenStreamResponse>* OpenStream(
      grpc::CallbackServerContext* context) override {
    auto* channel = new Channel(context);
    auto credits = std::make_shared<Credits>();
    {
      std::lock_guard lock(mutex_);
      ++streams_;
      credits->stream_id = "stream-" + std::to_string(++opens_);
    }
    channel->thread = std::thread([this, channel, credits] {
      const absl::Status status = Serve(channel, *credits);
      channel->End(options_.knows_faults ? ToGrpcStatus(status) : WithoutFault(ToGrpcStatus(status)));
      std::lock_guard lock(mutex_);
      --streams_;
      changed_.notify_all();
    });
    channel->Start([this, credits](const v1::OpenStreamRequest* request) { Read(request, *credits); });
    return channel;
  }

 private:
  struct Credits {
    std::string stream_id;
    std::optional<v1::StreamSpec> spec;
    std::vector<uint64_t> free;
    std::vector<std::pair<uint64_t, uint64_t>> held;  // sequence, slot
    bool closed = false;
  };

  absl::Status Send(Channel* channel, v1::OpenStreamResponse message) {
    if (options_.edit) options_.edit(message);
    return channel->Write(message) ? absl::OkStatus() : absl::CancelledError("client gone");
  }

  absl::Status Serve(Channel* channel, Credits& credits) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return credits.spec.has_value() || credits.closed || stopping_; });
      if (!credits.spec.has_value()) return absl::InvalidArgumentError("no spec");
      if (!options_.answer) {
        changed_.wait(lock, [&] { return credits.closed || stopping_; });
        return absl::CancelledError("client gone");
      }
    }
    const v1::StreamSpec& spec = *credits.spec;
    grpc::CallbackServerContext* context = channel->context;
    const auto token = context->client_metadata().find("devmem-token");
    if (token == context->client_metadata().end()) return absl::UnauthenticatedError("no token");
    const std::string secret(token->second.data(), token->second.size());
    DEVMEM_ASSIGN_OR_RETURN(const HandleSocket::Peer peer, handles_->FindPeer(secret));
    DEVMEM_ASSIGN_OR_RETURN(const PeerCredentials caller, listener_->CredentialsOf(context->peer()));
    if (caller.uid != peer.credentials.uid) return absl::UnauthenticatedError("another user's token");
    v1::OpenStreamResponse message;
    message.mutable_progress()->set_phase("listing");
    DEVMEM_RETURN_IF_ERROR(Send(channel, message));
    auto& opened = *message.mutable_opened();
    opened.set_stream_id(credits.stream_id);
    opened.mutable_path()->set_name("copy");
    opened.set_samples(options_.batches);
    opened.set_slots(options_.slots * options_.slabs);
    *opened.mutable_cursor() = spec.resume();
    std::vector<std::unique_ptr<Slab>> slabs;
    for (uint32_t i = 0; i < options_.slabs; ++i) {
      slabs.push_back(std::make_unique<Slab>(options_.slots * kSlotBytes, options_.seal));
      v1::SlabHandle handle;
      handle.set_stream_id(opened.stream_id());
      handle.set_slab(i);
      handle.set_kind("memfd");
      handle.set_version(1);
      handle.set_bytes(slabs.back()->bytes());
      handle.set_device_uuid("cpu");
      v1::Slab& announced = *opened.add_slabs();
      announced.set_id(i);
      announced.set_bytes(handle.bytes());
      announced.set_kind("memfd");
      announced.set_version(1);
      announced.set_device_uuid("cpu");
      if (options_.edit_handle) options_.edit_handle(handle);
      if (options_.send_slabs)
        DEVMEM_RETURN_IF_ERROR(handles_->SendSlab(secret, handle, slabs.back()->fd(), Clock::now() + kLong));
    }
    DEVMEM_RETURN_IF_ERROR(Send(channel, message));

    {
      std::lock_guard lock(mutex_);
      for (uint64_t i = 0; i < options_.slots * options_.slabs; ++i) credits.free.push_back(i);
    }
    if (absl::Status status = Produce(channel, spec, slabs, credits); !status.ok()) {
      for (auto& slab : slabs) slab->Keep();
      return status;
    }
    std::unique_lock lock(mutex_);  // the trainer may still look at its last batches
    changed_.wait(lock, [&] { return credits.held.empty() || credits.closed || stopping_; });
    return absl::OkStatus();
  }

  void Read(const v1::OpenStreamRequest* request, Credits& credits) {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
    if (request == nullptr) {
      credits.closed = true;
    } else if (request->has_spec()) {
      credits.spec = request->spec();
    } else {
      ++release_messages_;
      for (const uint64_t sequence : request->release().sequences()) {
        auto found = std::find_if(credits.held.begin(), credits.held.end(), [&](auto& one) { return one.first == sequence; });
        if (found == credits.held.end()) std::abort();  // released twice, or never sent
        credits.free.push_back(found->second);
        credits.held.erase(found);
        ++releases_;
      }
    }
  }

  absl::Status Produce(Channel* channel, const v1::StreamSpec& spec, std::vector<std::unique_ptr<Slab>>& slabs,
                       Credits& credits) {
    uint64_t sequence = 0;
    uint64_t first = spec.resume().position();
    v1::OpenStreamResponse message;
    for (uint64_t epoch = spec.resume().epoch(); epoch < options_.epochs; ++epoch, first = 0) {
      for (uint64_t k = first; k < options_.batches; ++k) {
        uint64_t slot = 0;
        {
          std::unique_lock lock(mutex_);
          if (credits.free.empty() && message.batches().batches_size() > 0) {
            lock.unlock();
            DEVMEM_RETURN_IF_ERROR(Flush(channel, message));
            lock.lock();
          }
          changed_.wait(lock, [&] { return !credits.free.empty() || credits.closed || stopping_; });
          if (stopping_)
            return MakeError(absl::StatusCode::kUnavailable, "shutting down", {.fault = Fault::kDraining, .cause = "draining"});
          if (credits.free.empty()) return absl::CancelledError("client gone");
          slot = credits.free.back();
          credits.free.pop_back();
          credits.held.emplace_back(sequence, slot);
        }
        Slab& slab = *slabs[slot / options_.slots];
        const uint64_t offset = slot % options_.slots * kSlotBytes;
        auto* words = reinterpret_cast<uint64_t*>(slab.data() + offset);
        for (uint64_t i = 0; i < kWords; ++i) words[i] = Word(epoch, k, i);
        v1::Batch& batch = *message.mutable_batches()->add_batches();
        batch.set_sequence(sequence++);
        batch.set_epoch(epoch);
        batch.add_sample_ids(k);
        batch.mutable_cursor()->set_epoch(epoch);
        batch.mutable_cursor()->set_position(k + 1);
        v1::Tensor& tensor = *batch.add_tensors();
        tensor.set_name("x");
        tensor.set_dtype(v1::DTYPE_UINT64);
        tensor.add_shape(1);
        tensor.add_shape(kWords);
        tensor.set_slab(static_cast<uint32_t>(slot / options_.slots));
        tensor.set_offset(offset);
        tensor.set_bytes(kSlotBytes);
        const auto gathered = static_cast<uint64_t>(message.batches().batches_size());
        const bool last = sequence == options_.fail_after || sequence == options_.kill_after;
        if (gathered == options_.per_message || last) DEVMEM_RETURN_IF_ERROR(Flush(channel, message));
        if (sequence == options_.kill_after) ::raise(SIGKILL);
        if (sequence == options_.fail_after) return options_.failure;
      }
      DEVMEM_RETURN_IF_ERROR(Flush(channel, message));
      message.mutable_epoch_end()->set_epoch(epoch);
      message.mutable_epoch_end()->mutable_cursor()->set_epoch(epoch + 1);
      DEVMEM_RETURN_IF_ERROR(Send(channel, message));
      message.Clear();
    }
    message.mutable_stream_end()->mutable_statistics()->set_batches(sequence);
    return Send(channel, message);
  }

  absl::Status Flush(Channel* channel, v1::OpenStreamResponse& message) {
    if (message.batches().batches_size() == 0) return absl::OkStatus();
    DEVMEM_RETURN_IF_ERROR(Send(channel, message));
    message.Clear();
    return absl::OkStatus();
  }

  const FakeDaemonOptions options_;
  std::unique_ptr<HandleSocket> handles_;
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<grpc::Server> server_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> released_streams_;
  bool stopping_ = false;
  int streams_ = 0;
  std::atomic<uint64_t> releases_ = 0;
  std::atomic<uint64_t> release_messages_ = 0;
  std::atomic<uint64_t> opens_ = 0;
};

}  // namespace

std::unique_ptr<FakeDaemon> FakeDaemon::Start(FakeDaemonOptions options) {
  return std::make_unique<FakeDaemonImpl>(std::move(options));
}

}  // namespace devmem::testing
