// SPDX-License-Identifier: Apache-2.0
// Credits, step by step:
//   1. Release notes a sequence. It is sent at once when the trainer waits in Take or has nothing left to take — then the
//      daemon may be waiting for just this slot — or when a quarter of the slots has gathered.
//   2. Take, before it waits, sends whatever has gathered. So a release is late only while the trainer still has
//      batches to take, and none is ever kept from a daemon that all slots wait for.
//   3. A Take that has waited for kHungry says so, once: the daemon then refills whatever slots are free rather than
//      waiting for as many as it reads best at once.
//   4. Only one write is under way at a time. What gathers meanwhile goes with the next.
#include "client/cpp/stream_call.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "client/cpp/rpc_error.h"
#include "gpu/dtype.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;

// How long the end of a finished stream may take before it is cut short.
constexpr Duration kHungry = std::chrono::milliseconds(2);

constexpr Duration kGoodbye = std::chrono::seconds(1);

google::protobuf::ArenaOptions ResponseArena() {
  google::protobuf::ArenaOptions options;
  options.start_block_size = 1024;
  options.max_block_size = 64 << 10;
  return options;
}

}  // namespace

Response::Response()
    : arena(ResponseArena()), message(google::protobuf::Arena::CreateMessage<v1::OpenStreamResponse>(&arena)) {}

StreamCall::StreamCall(std::shared_ptr<Session> session, const v1::StreamSpec& spec, std::shared_ptr<Device> device)
    : session_(std::move(session)), device_(std::move(device)) {
  session_->Authorize(context_);
  context_.set_initial_metadata_corked(true);  // sent with the spec
  stream_ = session_->stub().PrepareAsyncOpenStream(&context_, &completions_);
  stream_->StartCall(nullptr);  // corked: completes without a tag
  v1::OpenStreamRequest request;
  *request.mutable_spec() = spec;
  request.mutable_spec()->set_signals_waiting(true);
  std::lock_guard lock(mutex_);
  write_in_flight_ = true;
  stream_->Write(request, AsPointer(kWrite));
  StartRead();
}

StreamCall::~StreamCall() {
  void* tag = nullptr;
  bool ok = false;
  if (ended_.load(std::memory_order_relaxed)) {
    // The daemon has sent all, and keeps the memory only for our batches: the last releases, then "no more from here".
    const gpr_timespec goodbye = ToGrpcDeadline(Clock::now() + kGoodbye);
    bool said = false;
    do {
      std::lock_guard lock(mutex_);
      if (tag != nullptr) Process(tag, ok);
      MaybeWriteReleases(true);
      if (!write_in_flight_ && !read_ended_ && !std::exchange(said, true)) {
        write_in_flight_ = true;
        stream_->WritesDone(AsPointer(kWrite));
      }
    } while (!finished_ && completions_.AsyncNext(&tag, &ok, goodbye) == grpc::CompletionQueue::GOT_EVENT);
  }
  // Cancelled, every operation completes: the read fails, Finish is asked for and answered.
  context_.TryCancel();
  while (!finished_ && completions_.Next(&tag, &ok)) {
    std::lock_guard lock(mutex_);
    queue_.clear();
    Process(tag, ok);
  }
  completions_.Shutdown();
  while (completions_.Next(&tag, &ok)) continue;
  // It may have failed, also where that was not heard here: then the daemon keeps the slab, in which we might be reading.
  if (stream_id_.empty() || final_.ok() || lost_.load(std::memory_order_relaxed)) return;
  slabs_.clear();
  session_->ReleaseStream(stream_id_, Clock::now() + kGoodbye);
}

void StreamCall::StartRead() {
  reading_ = std::make_shared<Response>();
  stream_->Read(reading_->message, AsPointer(kRead));
}

void StreamCall::MaybeWriteReleases(bool all) {
  const auto gathered = static_cast<uint64_t>(pending_.release().sequences_size());
  if ((gathered == 0 && !pending_.release().waiting()) || write_in_flight_ || read_ended_) return;
  if (!all && gathered < release_threshold_ && !waiting_ && undelivered_.load(std::memory_order_relaxed) > 0) return;
  write_in_flight_ = true;
  stream_->Write(pending_, AsPointer(kWrite));  // serialized before it returns
  pending_.clear_release();
}

void StreamCall::Process(void* tag, bool ok) {
  switch (static_cast<Tag>(reinterpret_cast<intptr_t>(tag))) {
    case kRead:
      if (ok) {
        undelivered_.fetch_add(reading_->message->batches().batches_size(), std::memory_order_relaxed);
        queue_.push_back(std::move(reading_));
        StartRead();
      } else {
        read_ended_ = true;
        if (!write_in_flight_) stream_->Finish(&final_, AsPointer(kFinish));
      }
      return;
    case kWrite:
      write_in_flight_ = false;
      if (read_ended_) {
        stream_->Finish(&final_, AsPointer(kFinish));
      } else {
        MaybeWriteReleases(false);
      }
      return;
    case kFinish:
      finished_ = true;
      return;
    case kWake:
      return;
  }
}

StreamCall::Taken StreamCall::Take(std::deque<std::shared_ptr<Response>>& out, Time deadline) {
  const gpr_timespec until = ToGrpcDeadline(deadline);
  const gpr_timespec hungry = ToGrpcDeadline(std::min(deadline, Clock::now() + kHungry));
  bool said = false;
  std::unique_lock lock(mutex_);
  while (true) {
    if (interrupted_) return Taken::kInterrupted;
    if (!queue_.empty()) {
      for (auto& response : queue_) out.push_back(std::move(response));
      queue_.clear();
      return Taken::kResponses;
    }
    if (finished_) return Taken::kFinished;
    MaybeWriteReleases(true);
    waiting_ = true;
    lock.unlock();
    void* tag = nullptr;
    bool ok = false;
    const auto next = completions_.AsyncNext(&tag, &ok, said ? until : hungry);
    lock.lock();
    waiting_ = false;
    if (next != grpc::CompletionQueue::GOT_EVENT && !said) {
      said = true;
      pending_.mutable_release()->set_waiting(true);
      MaybeWriteReleases(true);
      continue;
    }
    if (next != grpc::CompletionQueue::GOT_EVENT) {
      // Another thread's Release may have taken an event for us just now.
      if (!queue_.empty() || finished_ || interrupted_) continue;
      return Taken::kTimeout;
    }
    Process(tag, ok);
  }
}

void StreamCall::Release(uint64_t sequence) {
  std::lock_guard lock(mutex_);
  if (read_ended_) return;
  pending_.mutable_release()->add_sequences(sequence);
  // The last write may be done without anyone having looked.
  void* tag = nullptr;
  bool ok = false;
  const bool urgent = undelivered_.load(std::memory_order_relaxed) <= 0 ||
                      static_cast<uint64_t>(pending_.release().sequences_size()) >= release_threshold_;
  while (urgent && write_in_flight_ && !waiting_ &&
         completions_.AsyncNext(&tag, &ok, gpr_time_0(GPR_CLOCK_MONOTONIC)) == grpc::CompletionQueue::GOT_EVENT) {
    Process(tag, ok);
  }
  MaybeWriteReleases(false);
}

void StreamCall::Interrupt() {
  std::lock_guard lock(mutex_);
  interrupted_ = true;
  if (std::exchange(wake_set_, true)) return;
  wake_.Set(&completions_, gpr_now(GPR_CLOCK_MONOTONIC), AsPointer(kWake));
}

absl::Status StreamCall::status() const {
  std::lock_guard lock(mutex_);
  return FromGrpcStatus(final_);
}

absl::Status StreamCall::AdoptSlabs(const v1::StreamOpened& opened, Time deadline) {
  stream_id_ = opened.stream_id();
  for (const v1::Slab& slab : opened.slabs()) {
    DEVMEM_ASSIGN_OR_RETURN(auto received, session_->handles().TakeSlab(opened.stream_id(), slab.id(), deadline));
    DEVMEM_ASSIGN_OR_RETURN(MappedSlab mapped, MappedSlab::Create(slab, received.handle, std::move(received.fd), *device_));
    if (FindSlab(slab.id()) != nullptr) {
      return MakeError(absl::StatusCode::kInternal, "slab " + std::to_string(slab.id()) + " was announced twice", {});
    }
    slabs_.push_back(std::make_unique<MappedSlab>(std::move(mapped)));
  }
  std::lock_guard lock(mutex_);
  release_threshold_ = std::max<uint64_t>(1, opened.slots() / 4);
  return absl::OkStatus();
}

const MappedSlab* StreamCall::FindSlab(uint32_t id) const {
  if (id < slabs_.size() && slabs_[id]->id() == id) return slabs_[id].get();  // they are numbered from 0
  for (const auto& slab : slabs_) {
    if (slab->id() == id) return slab.get();
  }
  return nullptr;
}

absl::Status StreamCall::Validate(const v1::Tensor& tensor) const {
  const MappedSlab* const slab = FindSlab(tensor.slab());
  const auto wrong = [&](const std::string& what) {
    return MakeError(absl::StatusCode::kInternal, "the daemon sent a tensor that cannot be: " + what,
                     {.object = tensor.name(), .offset = tensor.offset(), .length = tensor.bytes(), .action = "report this"});
  };
  if (slab == nullptr) return wrong("it lies in slab " + std::to_string(tensor.slab()) + ", which was not announced");
  if (tensor.offset() > slab->bytes() || tensor.bytes() > slab->bytes() - tensor.offset()) {
    return wrong("slab " + std::to_string(tensor.slab()) + " has " + std::to_string(slab->bytes()) + " bytes");
  }
  if (tensor.dtype() <= v1::DTYPE_UNSPECIFIED || tensor.dtype() > v1::DTYPE_FLOAT64) {
    return wrong("unknown dtype " + std::to_string(tensor.dtype()));
  }
  uint64_t bytes = ItemSize(static_cast<DType>(tensor.dtype()));
  for (const int64_t dimension : tensor.shape()) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes))
      return wrong("impossible shape");
  }
  if (bytes != tensor.bytes()) return wrong("its shape means " + std::to_string(bytes) + " bytes");
  return absl::OkStatus();
}

}  // namespace devmem
