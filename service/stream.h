// SPDX-License-Identifier: Apache-2.0
// DataStream: one trainer's open stream. Walks the plan, assigns a slot to every batch before anything is requested,
// has the planned ranges read into the slots, and delivers batches in order; released slots serve later batches.
//
//   auto stream = std::make_shared<DataStream>(std::move(setup), transport, worker, sink);
//   stream->Start();
//   stream->Release({3, 1});   // credits come back in any order
//   stream->Close();           // the trainer is gone
//
// Threads: Start, Release, Close, Fail and Snapshot may be called from any thread; the work is done on the loop of the
// stream's home worker, and so are the sink's calls. The stream keeps itself alive while reads are under way.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "base/memory_account.h"
#include "devmem_loader/v1/loader.pb.h"
#include "gpu/device.h"
#include "net/transport.h"
#include "service/batch_layout.h"
#include "service/dataset.h"
#include "service/memory_budget.h"
#include "service/plan.h"
#include "service/read_planner.h"
#include "service/stream_counters.h"

namespace devmem {

// Rows times tensors that are planned at once, unless one batch has more: bounds what planning costs in memory.
inline constexpr uint64_t kWavePieces = 1 << 18;
// What each of them takes then, in the plan and in the reads made of it.
inline constexpr uint64_t kPieceBytes = 160;

struct StreamSetup {
  std::string id;
  std::shared_ptr<const ObjectStore> store;
  std::shared_ptr<const Dataset> dataset;
  Plan plan;
  BatchLayout layout;
  Position start;
  uint64_t skipped = 0;  // samples of the epoch it starts in that were left out before
  uint64_t spec_hash = 0;
  std::optional<uint64_t> may_skip;  // bad samples are left out, so many in an epoch; none: the first ends the stream
  bool require_zero_copy = false;
  bool with_sources = false;
  bool source_names = false;  // in a table of the batch's own
  bool signals_waiting = false;
  ReadOptions reads;
  std::shared_ptr<Device> device;
  std::shared_ptr<DeviceMemory> slab;     // slots * layout.slot_bytes; slab id 0
  std::shared_ptr<DeviceMemory> staging;  // slots * layout.staging_slot_bytes; null without casts
  uint32_t slots = 0;
  uint32_t wave_slots = 0;             // most that are planned at once: half of them, or all where the whole stream fits
  uint64_t wave_pieces = kWavePieces;  // rows times tensors that are planned at once
  Duration device_deadline = std::chrono::seconds(30);  // for one step of a batch
  MemoryBudget::Reservation of_node;                    // of its memory
  MemoryBudget::Reservation of_user;                    // of the trainer's user's quota
  HeldMemory working;  // for the plan, and for what is said of the batches that a trainer holds or has not read yet
  StreamCounters* counters = nullptr;  // of the home worker, outlives the stream; null: its own, which nobody reads
  SayFailed say_failed;                // of ranges that failed for good; may be empty
  Time asked{};                        // when the trainer asked, for first_batch_ms
  Duration allocating{};               // how long the slabs took: the first batch's wait for memory
};

// A slab that outlives its stream because batches of it are still in a trainer's hands.
struct KeptSlab {
  std::shared_ptr<DeviceMemory> slab;
  MemoryBudget::Reservation of_node, of_user;
};

// Where a stream's events go. Called on the stream's loop, never inside a call of the stream's.
class StreamSink {
 public:
  virtual ~StreamSink() = default;
  // Exactly one of batches, epoch_end, stream_end is set.
  virtual void OnEvent(devmem_loader::v1::OpenStreamResponse event) = 0;
  // The stream failed; nothing follows but OnClosed.
  virtual void OnFailed(absl::Status status) = 0;
  // All reads of the stream are planned: its stream_end will come, soon after the last batches before it.
  virtual void OnAllPlanned() {}
  // stream_end was delivered and every batch came back: the call may end.
  virtual void OnAllReleased() = 0;
  // Nothing of the stream's touches the slab any more. If the trainer holds no batch its memory is gone; otherwise
  // `kept` is the slab, which must be retired when the trainer is gone, not before: it may be reading.
  virtual void OnClosed(std::optional<KeptSlab> kept) = 0;
};

class DataStream : public std::enable_shared_from_this<DataStream> {
 public:
  // `janitor` runs what takes long (unmapping memory) somewhere else than on the loop.
  DataStream(StreamSetup setup, Transport& transport, size_t home, std::shared_ptr<StreamSink> sink,
             std::function<void(std::function<void()>)> janitor);
  ~DataStream();

  void Start();
  // `waiting`: the trainer has taken all it was sent.
  void Release(std::vector<uint64_t> sequences, bool waiting = false);
  void EndReleases();              // no release will come any more: what is held at the end counts as released
  void Close();                    // the trainer is gone, or gave up all it holds; OnClosed follows and nothing else
  void Fail(absl::Status status);  // OnFailed and OnClosed follow

  struct State {
    devmem_loader::v1::StreamStatistics statistics;
    devmem_loader::v1::Cursor cursor;
    uint64_t slots_held = 0;
  };
  // Calls `done` on the stream's loop.
  void Snapshot(std::function<void(State)> done);

  [[nodiscard]] devmem_loader::v1::Cursor CursorAt(Position position) const;

 private:
  struct Slot;
  struct BadRow;
  class Read;
  struct Copying;
  struct Entry {  // what is delivered in order: a batch, the end of an epoch, the end of all
    enum class Kind : uint8_t { kBatch, kEpochEnd, kStreamEnd } kind;
    uint32_t slot = 0;
    uint64_t epoch = 0;
  };

  void OnLoop(std::function<void()> task);
  void Advance();  // delivers and plans what can be
  void PlanWaves();
  void PlanWave(size_t batches);
  [[nodiscard]] size_t BatchesToGroupEnd();
  [[nodiscard]] std::unique_ptr<Read> NewRead(uint32_t object, Time planned);
  void Issue(const PlannedRange& range, const ReadPlan& plan, Time planned);
  void Launch(std::unique_ptr<Read> read);
  void ReadDone(Read* read);
  void Judge(std::unique_ptr<Read> read);
  void Land(std::unique_ptr<Read> read);
  // Suspects: failed ranges of which it is not known whether the object or the store is at fault.
  void Probe(const absl::Status& last);
  void ProbeDone(std::unique_ptr<Read> probe);
  [[nodiscard]] std::optional<uint32_t> ObjectToProbe();
  // Has the device copy what repeats. False if that is not done yet, or failed; else the read's parts are all in place.
  [[nodiscard]] bool CopyRepeats(std::unique_ptr<Read>& read, Time received);
  void RepeatsCopied(Copying* copying, const absl::Status& status);
  void PartsDone(std::unique_ptr<Read> read, const std::shared_ptr<const absl::Status>& bad, Time received);
  void SlotFilled(uint32_t slot);
  // What the device has to do for a slot, one step after the other; each comes back at once where the device is done at once.
  void CutOut(uint32_t slot);
  void Cast(uint32_t slot);
  void SlotReady(uint32_t slot);
  // Goes on with `next` when all of a slot's `works_` are done, unless one failed, or asking for it did with `status`.
  void Await(uint32_t slot, void (DataStream::*next)(uint32_t), absl::Status status = absl::OkStatus());
  void WorkDone(uint32_t slot, void (DataStream::*next)(uint32_t), const absl::Status& status);
  void DeviceIsLate();
  void Deliver();
  void DescribeBatch(Slot& slot, uint32_t index, devmem_loader::v1::Batch* batch);
  void DescribeSources(const Slot& slot, devmem_loader::v1::Batch* batch);
  void Attribute(const Slot& slot, Time now, devmem_loader::v1::Stall* stall);
  void DescribeSkipped(const BadRow& bad, devmem_loader::v1::SkippedSample* skipped);
  void BeginClose();
  void MaybeAllReleased();
  void MaybeFinishClose();

  StreamSetup setup_;
  Transport& transport_;
  const size_t home_;
  Reactor& reactor_;
  std::shared_ptr<StreamSink> sink_;
  std::function<void(std::function<void()>)> janitor_;
  std::unique_ptr<StreamCounters> own_counters_;  // where none were given
  StreamCounters& counters_;
  const StoreKind store_kind_;

  // All below: loop thread only.
  Plan::Walk walk_;
  Plan::Hint order_hint_;
  Plan::Hint group_hint_;
  size_t shard_hint_ = 0;
  std::optional<BatchPlan> next_;  // planned next
  uint64_t epoch_ = 0;             // of the last entry
  bool all_planned_ = false;
  ReadPlanner planner_;
  ObjectPins pins_;  // of the data set's objects; all workers'
  std::vector<Want> wants_;
  std::vector<uint64_t> want_places_;  // slot, row and tensor of each want
  std::vector<Slot> slots_;
  std::deque<uint32_t> free_;
  std::deque<Entry> queue_;        // not yet delivered, in order
  std::deque<int64_t> delivered_;  // slot by sequence from first_held_ on; -1: released
  uint64_t first_held_ = 0;
  uint64_t next_sequence_ = 0;
  uint64_t held_ = 0;
  uint64_t reads_issued_ = 0;
  std::vector<std::unique_ptr<Read>> spare_;
  std::vector<Read*> reading_;
  std::list<Copying> copying_;
  std::vector<std::unique_ptr<Read>> suspects_;  // in the order of their failing
  std::deque<uint32_t> readable_;                // objects that were read lately, each once
  uint32_t probes_failed_ = 0;                   // in a row
  bool probing_ = false;
  std::map<uint64_t, uint64_t> skipped_;                // samples by epoch, of epochs not yet over
  std::unordered_map<uint32_t, uint32_t> name_places_;  // of objects in a batch's source_names; of the batch being described
  std::vector<Event> works_;                            // what was asked of the device in the step under way
  size_t working_ = 0;                                  // events of the device to come
  size_t next_worker_;
  Time last_delivery_{};
  Time slots_ran_out_{};
  Position delivered_to_;
  uint64_t left_out_;  // samples of delivered_to_'s epoch, up to there
  uint64_t epoch_batches_ = 0;
  uint64_t epoch_samples_ = 0;
  devmem_loader::v1::StreamStatistics statistics_;
  bool trainer_waits_ = false;  // and has got nothing since
  Reactor::Timer patience_;     // for a trainer that does not say when it waits
  Reactor::Timer device_late_;  // while working_
  bool started_ = false;
  bool ended_ = false;  // stream_end delivered
  bool closing_ = false;
  bool releases_ended_ = false;
  bool trainer_left_ = false;  // it reads nothing of the slab any more
  bool closed_ = false;
  std::shared_ptr<DataStream> self_;  // while anything is under way
};

}  // namespace devmem
