// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/completer.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "gpu/cuda/error.h"

namespace devmem::cuda {
namespace {

constexpr Duration kPatience = std::chrono::seconds(10);

class Work final : public Event::Impl {
 public:
  Work(cudaEvent_t event, std::function<void(const absl::Status&)> finish) : event_(event), finish_(std::move(finish)) {}

  bool Done() override {
    std::lock_guard lock(mutex_);
    return done_;
  }

  absl::Status Wait(Time deadline) override {
    std::unique_lock lock(mutex_);
    if (changed_.wait_until(lock, deadline, [this] { return done_; })) return status_;
    return MakeError(absl::StatusCode::kDeadlineExceeded, "the GPU has not done its work in time",
                     {.cause = "device deadline", .action = "see nvidia-smi and dmesg for a GPU that hangs (NVRM: Xid)"});
  }

  void WhenDone(std::function<void(absl::Status)> call) override {
    {
      std::lock_guard lock(mutex_);
      if (!done_) return calls_.push_back(std::move(call));
    }
    call(status_);
  }

  [[nodiscard]] cudaEvent_t event() const { return event_; }

  void Finish(absl::Status status) {
    if (finish_ != nullptr) finish_(status);
    finish_ = nullptr;
    std::vector<std::function<void(absl::Status)>> calls;
    {
      std::lock_guard lock(mutex_);
      status_ = std::move(status);
      done_ = true;
      calls.swap(calls_);
    }
    changed_.notify_all();
    for (const auto& call : calls) call(status_);
  }

 private:
  const cudaEvent_t event_;
  std::function<void(const absl::Status&)> finish_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  absl::Status status_;
  std::vector<std::function<void(absl::Status)>> calls_;
};

}  // namespace

class Completer::State {
 public:
  explicit State(int ordinal) : ordinal_(ordinal) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    for (const cudaEvent_t event : spare_) (void)cudaEventDestroy(event);
  }

  absl::StatusOr<cudaEvent_t> TakeEvent() {
    {
      std::lock_guard lock(mutex_);
      if (!spare_.empty()) {
        const cudaEvent_t event = spare_.back();
        spare_.pop_back();
        return event;
      }
    }
    cudaEvent_t event = nullptr;
    DEVMEM_CUDA_RETURN(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync), "making a CUDA event");
    return event;
  }

  void GiveBack(cudaEvent_t event) {
    std::lock_guard lock(mutex_);
    spare_.push_back(event);
  }

  void Push(std::shared_ptr<Work> work) {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    wake_.notify_one();
  }

  void Run() {
    (void)cudaSetDevice(ordinal_);
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) break;
      const std::shared_ptr<Work> work = queue_.front();
      lock.unlock();
      const absl::Status status = ToStatus(cudaEventSynchronize(work->event()), "work on the GPU");
      work->Finish(status);
      lock.lock();
      queue_.pop_front();
      spare_.push_back(work->event());
    }
    ended_ = true;
    ended_changed_.notify_all();
  }

  // Whether the thread has ended.
  bool Stop() {
    std::unique_lock lock(mutex_);
    stop_ = true;
    wake_.notify_one();
    return ended_changed_.wait_for(lock, kPatience, [this] { return ended_; });
  }

  std::thread thread;

 private:
  const int ordinal_;
  std::mutex mutex_;
  std::condition_variable wake_, ended_changed_;
  std::deque<std::shared_ptr<Work>> queue_;
  std::vector<cudaEvent_t> spare_;
  bool stop_ = false, ended_ = false;
};

Completer::Completer(int ordinal) : state_(std::make_shared<State>(ordinal)) {
  state_->thread = std::thread([state = state_] { state->Run(); });
}

Completer::~Completer() {
  if (state_->Stop()) {
    state_->thread.join();
  } else {
    state_->thread.detach();
  }
}

absl::StatusOr<Event> Completer::Watch(cudaStream_t stream, std::function<void(const absl::Status&)> finish) {
  DEVMEM_ASSIGN_OR_RETURN(const cudaEvent_t event, state_->TakeEvent());
  if (absl::Status recorded = ToStatus(cudaEventRecord(event, stream), "recording a CUDA event"); !recorded.ok()) {
    state_->GiveBack(event);
    return recorded;
  }
  auto work = std::make_shared<Work>(event, std::move(finish));
  state_->Push(work);
  return Event(work);
}

}  // namespace devmem::cuda
