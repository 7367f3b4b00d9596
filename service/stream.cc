// SPDX-License-Identifier: Apache-2.0
// The life of a batch:
//   1. planned: a free slot is taken; wants say which bytes go where in it. Planning happens in waves, a shuffle group
//      at a time where the window allows, so that the samples of a group, which lie together, are read together.
//   2. read: the wave's wants merge into ranges (ReadPlanner), each a RangeRead on some worker. `outstanding` counts
//      the slot's wants in unfinished ranges. What of a range is wanted twice, the device copies when it is there, before any
//      of its slots goes on: a trainer may write into what it was given.
//   3. filled: bad rows are cut out (on_error skip), casts run from staging into the slab; the device does both in its own
//      time, and the worker goes on meanwhile.
//   4. delivered, in the order of the plan. From here the slot is the trainer's.
//   5. released, in any order: the slot is free, back to 1.
// Invariant: a slot is in exactly one of free_, the queue (planned or filled) and delivered_.
#include "service/stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/trace.h"
#include "client/cpp/rpc_error.h"
#include "service/skip_allowance.h"

namespace devmem {
namespace {

namespace v1 = devmem_loader::v1;

// Staging addresses, told from slab addresses in the planner's one address space. Slots fit in 62 bits.
constexpr uint64_t kStaging = uint64_t{1} << 62;

// How long a trainer that does not say when it waits may release nothing before it is taken to wait.
constexpr Duration kPatience = std::chrono::milliseconds(100);

constexpr size_t kSpareReads = 64;  // kept for their buffers

uint64_t Microseconds(Duration duration) {
  return static_cast<uint64_t>(std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::microseconds>(duration).count()));
}

// The part of [from, to) that lies within [begin, end).
Duration Within(Time from, Time to, Time begin, Time end) {
  return std::max(Duration::zero(), std::min(to, end) - std::max(from, begin));
}

// Whether a failed range is the object's fault or the store's may take another object to tell. So many are tried: one may have
// been deleted meanwhile, all of them hardly.
constexpr uint32_t kMostProbes = 3;

}  // namespace

struct DataStream::BadRow {
  uint32_t row = 0;
  uint64_t sample = 0;
  std::shared_ptr<const absl::Status> status;
};

struct DataStream::Slot {
  BatchPlan batch;
  std::vector<uint64_t> samples;  // per row
  std::vector<BadRow> bad;
  uint32_t rows = 0;         // left after the bad ones are cut out
  uint32_t outstanding = 0;  // wants in ranges under way
  size_t working = 0;        // events of the device to come
  bool failed = false;       // one of them; the stream is about to end
  bool filled = false;
  bool landed = false;  // bytes of it came by the device
  bool copied = false;  // bytes of it were copied by the CPU
  Time planned{};
  Time first_byte{};  // of the last of its ranges to begin
  Time received{};    // the last range's end
  Time device_due{};  // while working
  uint64_t lost = 0;  // samples left out, padding not counted
  uint64_t said = 0;  // bytes held for what is said of its bad rows
  Time ready{};
};

class DataStream::Read final : public RangeRead {
 public:
  void Done() override {
    if (worker == stream->home_) return stream->ReadDone(this);
    stream->reactor_.Post([this] { stream->ReadDone(this); });
  }

  DataStream* stream = nullptr;
  size_t worker = 0;
  size_t position = 0;           // in reading_
  uint32_t object_index = 0;     // in the data set
  bool probe = false;            // fills no slot: it only tells whether the store still serves
  Time planned{};                // of a suspect: when it failed
  std::vector<uint64_t> places;  // slot << 32 | row * tensors + tensor
  std::vector<ReadCopy> copies;
};

// A read that is there, and whose copies the device makes.
struct DataStream::Copying {
  std::unique_ptr<Read> read;
  Time received{};
  Time due{};
  size_t working = 0;   // events of the device to come
  bool failed = false;  // one of them; the stream is about to end
};

DataStream::DataStream(StreamSetup setup, Transport& transport, size_t home, std::shared_ptr<StreamSink> sink,
                       std::function<void(std::function<void()>)> janitor)
    : setup_(std::move(setup)),
      transport_(transport),
      home_(home),
      reactor_(transport.reactor(home)),
      sink_(std::move(sink)),
      janitor_(std::move(janitor)),
      own_counters_(setup_.counters == nullptr ? std::make_unique<StreamCounters>() : nullptr),
      counters_(setup_.counters == nullptr ? *own_counters_ : *setup_.counters),
      store_kind_(KindOfStore(setup_.store->uri())),
      walk_(setup_.plan, setup_.start),
      epoch_(setup_.start.epoch),
      planner_(setup_.reads),
      pins_(setup_.dataset->objects.size()),
      slots_(setup_.slots),
      next_worker_(home),
      delivered_to_(setup_.start),
      left_out_(setup_.skipped),
      patience_(&reactor_,
                [this] {
                  trainer_waits_ = true;
                  Advance();
                }),
      device_late_(&reactor_, [this] { DeviceIsLate(); }) {}

DataStream::~DataStream() = default;

void DataStream::OnLoop(std::function<void()> task) {
  reactor_.Post([self = shared_from_this(), task = std::move(task)] { task(); });
}

void DataStream::Start() {
  OnLoop([this] {
    if (closing_) return;
    self_ = shared_from_this();
    started_ = true;
    skipped_[setup_.start.epoch] = setup_.skipped;
    for (uint32_t i = 0; i < setup_.slots; ++i) free_.push_back(i);
    last_delivery_ = Clock::now();
    next_ = walk_.Next();
    Advance();
    MaybeAllReleased();  // nothing to deliver at all
  });
}

void DataStream::Release(std::vector<uint64_t> sequences, bool waiting) {
  OnLoop([this, sequences = std::move(sequences), waiting] {
    // A trainer may say that it waits before the stream has started; nothing can be released by then.
    if (closing_ || !started_) return;
    trainer_waits_ = trainer_waits_ || waiting;  // until it gets a batch
    for (const uint64_t sequence : sequences) {
      // Twice or never delivered: a fault of the trainer's that harms only itself if we let it.
      if (sequence < first_held_ || sequence - first_held_ >= delivered_.size() || delivered_[sequence - first_held_] < 0) {
        return Fail(MakeError(absl::StatusCode::kInvalidArgument,
                              absl::StrCat("batch ", sequence, " was released but is not held"),
                              {.object = setup_.id, .cause = "bad release", .action = "release every batch once"}));
      }
      free_.push_back(static_cast<uint32_t>(std::exchange(delivered_[sequence - first_held_], -1)));
      setup_.working.Subtract(std::exchange(slots_[free_.back()].said, 0));
      --held_;
      counters_.credits_back.Add(1);
    }
    while (!delivered_.empty() && delivered_.front() < 0) {
      delivered_.pop_front();
      ++first_held_;
    }
    Advance();
    MaybeAllReleased();
  });
}

void DataStream::EndReleases() {
  OnLoop([this] {
    releases_ended_ = true;
    MaybeAllReleased();
  });
}

void DataStream::MaybeAllReleased() {
  if (ended_ && (held_ == 0 || releases_ended_) && !closing_) sink_->OnAllReleased();
}

void DataStream::Close() {
  OnLoop([this] {
    // After a failure this is only its call that is over: the trainer still reads what it was sent. Who kept the slab retires
    // it when the trainer is gone.
    trainer_left_ = trainer_left_ || !closing_;
    BeginClose();
  });
}

void DataStream::BeginClose() {
  if (std::exchange(closing_, true)) return;
  patience_.Clear();
  if (self_ == nullptr) self_ = shared_from_this();  // closed before it started
  for (Read* read : reading_) {
    if (read->worker == home_) {
      // Not from here: a cancelled read may end inside the call and change reading_, which only shrinks from now on.
      reactor_.Post([this, self = self_, read] {
        if (std::find(reading_.begin(), reading_.end(), read) != reading_.end()) transport_.Cancel(read->worker, read);
      });
    } else {
      // Should the read end first: ReadDone deletes it by a task of that loop, which comes after this one.
      transport_.reactor(read->worker).Post([this, self = self_, read] { transport_.Cancel(read->worker, read); });
    }
  }
  MaybeFinishClose();
}

void DataStream::Fail(absl::Status status) {
  OnLoop([this, status = std::move(status)] {
    if (closing_) return;
    BeginClose();
    sink_->OnFailed(WithStatistics(status, statistics_));
  });
}

void DataStream::Snapshot(std::function<void(State)> done) {
  OnLoop([this, done = std::move(done)] {
    done({.statistics = statistics_, .cursor = CursorAt(delivered_to_), .slots_held = held_});
  });
}

v1::Cursor DataStream::CursorAt(Position position) const {
  v1::Cursor cursor;
  cursor.set_plan_version(kPlanVersion);
  cursor.set_spec_hash(setup_.spec_hash);
  cursor.set_listing_fingerprint(setup_.dataset->fingerprint);
  cursor.set_epoch(position.epoch);
  cursor.set_position(position.position);
  if (left_out_ > 0) {
    cursor.set_skipped(left_out_);
    cursor.set_rank(setup_.plan.spec().rank);
    cursor.set_world_size(setup_.plan.spec().world_size);
  }
  return cursor;
}

void DataStream::Advance() {
  Deliver();
  PlanWaves();
  Deliver();  // what planning put in the queue may need no read: the end of an epoch
}

// --- planning ---------------------------------------------------------------------------------------------------

size_t DataStream::BatchesToGroupEnd() {
  const BatchPlan& batch = *next_;
  const PlanSpec& spec = setup_.plan.spec();
  const uint64_t pieces = uint64_t{batch.count} * setup_.layout.tensors.size();
  const size_t most =
      std::min<size_t>(setup_.wave_slots, std::max<uint64_t>(1, setup_.wave_pieces / std::max<uint64_t>(1, pieces)));
  if (batch.first_position >= spec.samples) return 1;  // padding only
  const uint64_t end = setup_.plan.GroupEnd(batch.epoch, batch.first_position, group_hint_);
  const uint64_t step = uint64_t{spec.batch_size} * spec.world_size;
  const uint64_t batches = (end - batch.first_position + step - 1) / step;
  return static_cast<size_t>(std::min<uint64_t>(batches, most));
}

void DataStream::PlanWaves() {
  while (!closing_ && !all_planned_) {
    if (!next_.has_value()) {
      // Epochs without a batch (an empty bucket, fewer samples than a step) end all the same.
      for (; epoch_ < setup_.plan.spec().epochs; ++epoch_) queue_.push_back({.kind = Entry::Kind::kEpochEnd, .epoch = epoch_});
      queue_.push_back({.kind = Entry::Kind::kStreamEnd});
      all_planned_ = true;
      sink_->OnAllPlanned();
      return;
    }
    const size_t wanted = BatchesToGroupEnd();
    if (free_.empty()) return;
    if (free_.size() < wanted) {
      // A part of a group is read only for a trainer that waits and holds the other slots. A slow one has batches left
      // to take, and will release more: reading its group in parts would cost requests and bytes for nothing.
      const bool idle = reading_.empty() && std::none_of(queue_.begin(), queue_.end(),
                                                         [](const Entry& e) { return e.kind == Entry::Kind::kBatch; });
      if (!idle) return;
      if (!trainer_waits_) {
        if (!setup_.signals_waiting) patience_.Set(Clock::now() + kPatience);
        return;
      }
    }
    PlanWave(std::min(wanted, free_.size()));
  }
}

void DataStream::PlanWave(size_t batches) {
  const TraceRange traced("plan reads");
  wants_.clear();
  want_places_.clear();
  const Time now = Clock::now();
  const Dataset& dataset = *setup_.dataset;
  const size_t tensors = setup_.layout.tensors.size();
  const size_t first = queue_.size();
  for (size_t i = 0; i < batches && next_.has_value(); ++i) {
    const BatchPlan batch = *next_;
    for (; epoch_ < batch.epoch; ++epoch_) queue_.push_back({.kind = Entry::Kind::kEpochEnd, .epoch = epoch_});
    const uint32_t index = free_.front();
    free_.pop_front();
    Slot& slot = slots_[index];
    slot.batch = batch;
    slot.rows = batch.count;
    slot.samples.clear();
    slot.bad.clear();
    slot.lost = 0;
    slot.failed = slot.filled = slot.landed = slot.copied = false;
    slot.planned = now;
    slot.first_byte = slot.received = {};
    for (uint32_t row = 0; row < batch.count; ++row) {
      const uint64_t sample = setup_.plan.SampleOf(batch, row, order_hint_);
      slot.samples.push_back(sample);
      const size_t shard = dataset.ShardOf(sample, shard_hint_);
      for (size_t t = 0; t < tensors; ++t) {
        const OutputTensor& tensor = setup_.layout.tensors[t];
        const Dataset::Extent extent = dataset.Locate(t, shard, sample);
        const uint64_t destination =
            tensor.cast
                ? kStaging + index * setup_.layout.staging_slot_bytes + tensor.staging_offset + row * tensor.stored_bytes
                : index * setup_.layout.slot_bytes + tensor.slot_offset + row * tensor.stored_bytes;
        wants_.push_back({.object = extent.object,
                          .ordinal = static_cast<uint32_t>(i),
                          .offset = extent.offset,
                          .bytes = extent.bytes,
                          .destination = destination});
        want_places_.push_back(uint64_t{index} << 32 | (row * tensors + t));
      }
    }
    slot.outstanding = 1;  // until all of the wave is counted
    queue_.push_back({.kind = Entry::Kind::kBatch, .slot = index, .epoch = batch.epoch});
    next_ = walk_.Next();
  }
  const ReadPlan& plan = planner_.Plan(wants_);
  for (const PlannedRange& range : plan.ranges) {
    for (const uint32_t want : plan.WantsOf(range)) ++slots_[want_places_[want] >> 32].outstanding;
  }
  for (const PlannedRange& range : plan.ranges) Issue(range, plan, now);
  for (size_t i = first; i < queue_.size(); ++i) {
    const Entry& entry = queue_[i];
    if (entry.kind != Entry::Kind::kBatch) continue;
    if (--slots_[entry.slot].outstanding == 0) SlotFilled(entry.slot);
  }
}

std::unique_ptr<DataStream::Read> DataStream::NewRead(uint32_t index, Time planned) {
  std::unique_ptr<Read> read;
  if (spare_.empty()) {
    read = std::make_unique<Read>();
  } else {
    read = std::move(spare_.back());
    spare_.pop_back();
  }
  const ObjectTable::Object object = setup_.dataset->objects[index];
  read->stream = this;
  read->store = setup_.store.get();
  read->object = object.name;
  read->object_index = index;
  read->validator = object.validator;
  read->object_size = object.size;
  read->pins = &pins_;
  read->pin = index;
  read->destinations.clear();
  read->places.clear();
  read->copies.clear();
  read->probe = false;
  read->status = absl::OkStatus();
  read->received = read->copied = 0;
  read->require_zero_copy = setup_.require_zero_copy;
  read->requests = read->retries = 0;
  read->first_byte = {};
  read->stream_id = setup_.id;
  read->number = reads_issued_++;
  read->planned = planned;
  return read;
}

void DataStream::Issue(const PlannedRange& range, const ReadPlan& plan, Time planned) {
  std::unique_ptr<Read> read = NewRead(range.object, planned);
  read->offset = range.offset;
  read->length = range.length;
  for (const ReadPiece& piece : plan.PiecesOf(range)) {
    DeviceSpan span{.bytes = piece.bytes};
    if (piece.destination != ReadPiece::kDiscard) {
      const bool staged = (piece.destination & kStaging) != 0;
      span.memory = staged ? setup_.staging.get() : setup_.slab.get();
      span.offset = piece.destination & ~kStaging;
    }
    read->destinations.push_back(span);
  }
  const auto copies = plan.CopiesOf(range);
  read->copies.assign(copies.begin(), copies.end());
  for (const uint32_t want : plan.WantsOf(range)) read->places.push_back(want_places_[want]);
  Launch(std::move(read));
}

void DataStream::Launch(std::unique_ptr<Read> owned) {
  Read* const read = owned.release();  // until ReadDone
  read->worker = next_worker_;
  next_worker_ = (next_worker_ + 1) % transport_.workers();
  read->position = reading_.size();
  reading_.push_back(read);
  if (read->worker == home_) {
    transport_.Start(home_, read);
  } else {
    transport_.reactor(read->worker).Post([this, read] { transport_.Start(read->worker, read); });
  }
}

void DataStream::ReadDone(Read* read) {
  const std::shared_ptr<DataStream> self = self_;
  reading_[read->position] = reading_.back();
  reading_[read->position]->position = read->position;
  reading_.pop_back();
  statistics_.set_requests(statistics_.requests() + read->requests);
  statistics_.set_retries(statistics_.retries() + read->retries);
  statistics_.set_bytes_received(statistics_.bytes_received() + read->received);
  statistics_.set_bytes_copied(statistics_.bytes_copied() + read->copied);
  counters_.requests[Index(store_kind_)].Add(read->requests);
  counters_.received_bytes[Index(BytePath::kCopy)][Index(store_kind_)].Add(read->copied);
  counters_.received_bytes[Index(BytePath::kDevmem)][Index(store_kind_)].Add(read->received - read->copied);
  std::unique_ptr<Read> owned(read);
  if (closing_) {
    if (read->worker != home_) transport_.reactor(read->worker).Post([last = std::shared_ptr<Read>(std::move(owned))] {});
    return MaybeFinishClose();
  }

  if (read->status.ok()) {
    if (readable_.empty() || readable_.front() != read->object_index) {
      std::erase(readable_, read->object_index);
      readable_.push_front(read->object_index);
      if (readable_.size() > kMostProbes + 1) readable_.pop_back();
    }
  } else {
    if (setup_.say_failed) setup_.say_failed(*read, read->status, std::nullopt);
    const auto code = static_cast<size_t>(read->status.code());
    counters_.errors[Index(store_kind_)][std::min(code, kStatusCodes - 1)].Add(1);
  }
  if (read->probe) return ProbeDone(std::move(owned));
  Judge(std::move(owned));
}

// What becomes of a range that is done: it lands, it ends the stream, or it waits until the store has spoken.
void DataStream::Judge(std::unique_ptr<Read> read) {
  const absl::Status& status = read->status;
  if (status.ok()) return Land(std::move(read));
  // Only what is the object's fault is left out. A store that is down, turns this daemon away or cannot do ranges is no reason
  // to skip all that it holds, and a rule of the user's none either.
  if (setup_.may_skip.has_value() && ScopeOf(status) == Scope::kObject) return Land(std::move(read));
  if (!setup_.may_skip.has_value() || ScopeOf(status) != Scope::kStore || !MayBeTheObjects(FaultOf(status)))
    return Fail(status);
  read->planned = Clock::now();
  suspects_.push_back(std::move(read));
  if (!probing_) Probe(absl::OkStatus());
}

std::optional<uint32_t> DataStream::ObjectToProbe() {
  const auto usable = [this](uint32_t index) {
    return setup_.dataset->objects[index].size > 0 &&
           std::none_of(suspects_.begin(), suspects_.end(), [&](const auto& read) { return read->object_index == index; });
  };
  uint32_t rank = 0;  // among the candidates: those that failed before are passed over
  for (const uint32_t index : readable_) {
    if (usable(index) && rank++ == probes_failed_) return index;
  }
  const auto objects = static_cast<uint32_t>(setup_.dataset->objects.size());
  for (uint32_t i = 1; i < objects; ++i) {
    const uint32_t index = (suspects_.front()->object_index + i) % objects;
    if (usable(index) && std::find(readable_.begin(), readable_.end(), index) == readable_.end() && rank++ == probes_failed_) {
      return index;
    }
  }
  return std::nullopt;
}

// Reads a byte of another object: if it comes, the suspects' objects are at fault; if none of a few does, the store is.
void DataStream::Probe(const absl::Status& last) {
  const std::optional<uint32_t> index = probes_failed_ < kMostProbes ? ObjectToProbe() : std::nullopt;
  if (!index.has_value()) {
    const absl::Status& status = suspects_.front()->status;
    const std::string since = last.ok() ? "there is no other object to tell by whether the store serves at all"
                                        : absl::StrCat("nor could another object be read since: ", Text(last));
    return Fail(MakeErrorVerbatim(status.code(), absl::StrCat(Text(status), "; ", since), GetErrorInfo(status)));
  }
  probing_ = true;
  std::unique_ptr<Read> probe = NewRead(*index, Clock::now());
  probe->probe = true;
  probe->require_zero_copy = false;  // its byte goes nowhere
  probe->offset = 0;
  probe->length = 1;
  probe->destinations.push_back({.bytes = 1});
  Launch(std::move(probe));
}

void DataStream::ProbeDone(std::unique_ptr<Read> probe) {
  probing_ = false;
  if (!probe->status.ok()) {
    ++probes_failed_;
    return Probe(probe->status);
  }
  probes_failed_ = 0;
  // It speaks of what had failed before it was sent.
  const auto later = std::find_if(suspects_.begin(), suspects_.end(),
                                  [&](const std::unique_ptr<Read>& read) { return read->planned > probe->planned; });
  std::vector<std::unique_ptr<Read>> told(std::make_move_iterator(suspects_.begin()), std::make_move_iterator(later));
  suspects_.erase(suspects_.begin(), later);
  if (spare_.size() < kSpareReads) spare_.push_back(std::move(probe));
  for (std::unique_ptr<Read>& read : told) {
    read->status = WithScope(read->status, Scope::kObject);
    Land(std::move(read));
    if (closing_) return;
  }
  if (!suspects_.empty() && !probing_) Probe(absl::OkStatus());
}

// Counts a range in the slots it fills, or marks what it lacks.
void DataStream::Land(std::unique_ptr<Read> owned) {
  Read* const read = owned.get();
  std::shared_ptr<const absl::Status> bad;
  if (!read->status.ok()) bad = std::make_shared<const absl::Status>(read->status);
  const Time now = Clock::now();
  if (bad == nullptr) counters_.range[Index(store_kind_)].Observe(now - read->planned);
  if (bad == nullptr && !read->copies.empty() && !CopyRepeats(owned, now)) return;
  PartsDone(std::move(owned), bad, now);
}

bool DataStream::CopyRepeats(std::unique_ptr<Read>& read, Time received) {
  const TraceRange traced("copy repeats");
  absl::Status status;
  std::vector<Event> works;
  std::vector<Fragment> fragments;
  for (const uint64_t from : {uint64_t{0}, kStaging}) {
    for (const uint64_t to : {uint64_t{0}, kStaging}) {
      fragments.clear();
      for (const ReadCopy& copy : read->copies) {
        if ((copy.source & kStaging) != from || (copy.destination & kStaging) != to) continue;
        fragments.push_back(
            {.source = copy.source & ~kStaging, .destination = copy.destination & ~kStaging, .bytes = copy.bytes});
      }
      if (fragments.empty() || !status.ok()) continue;
      absl::StatusOr<Event> copied = setup_.device->Gather(to == 0 ? *setup_.slab : *setup_.staging,
                                                           from == 0 ? *setup_.slab : *setup_.staging, fragments);
      if (!copied.ok()) {
        status = copied.status();
      } else if (!copied->Done()) {
        works.push_back(*std::move(copied));
      } else {
        status.Update(copied->Wait(Time::min()));
      }
    }
  }
  if (works.empty() && status.ok()) return true;
  if (!works.empty()) {
    Copying& copying = copying_.emplace_back();
    copying.read = std::move(read);
    copying.received = received;
    copying.due = Clock::now() + setup_.device_deadline;
    copying.working = works.size();
    copying.failed = !status.ok();
    if (working_ == 0) device_late_.Set(copying.due);
    working_ += works.size();
    for (const Event& work : works) {
      // This is there until all of them have come: closing waits.
      work.WhenDone([this, reactor = &reactor_, copying = &copying](absl::Status result) {
        reactor->Post([this, copying, result = std::move(result)] { RepeatsCopied(copying, result); });
      });
    }
  }
  if (!status.ok()) Fail(std::move(status));
  return false;
}

void DataStream::RepeatsCopied(Copying* copying, const absl::Status& status) {
  const std::shared_ptr<DataStream> self = self_;
  --copying->working;
  if (--working_ == 0) device_late_.Clear();
  if (closing_) return MaybeFinishClose();
  if (!status.ok() && !std::exchange(copying->failed, true)) Fail(status);
  if (copying->failed || copying->working > 0) return;
  const auto place = std::find_if(copying_.begin(), copying_.end(), [&](const Copying& each) { return &each == copying; });
  Copying done = std::move(*place);
  copying_.erase(place);
  PartsDone(std::move(done.read), nullptr, done.received);
}

void DataStream::PartsDone(std::unique_ptr<Read> read, const std::shared_ptr<const absl::Status>& bad, Time received) {
  const bool landed = read->received > read->copied, copied = read->copied > 0;
  const size_t tensors = setup_.layout.tensors.size();
  for (const uint64_t place : read->places) {
    const auto index = static_cast<uint32_t>(place >> 32);
    Slot& slot = slots_[index];
    if (bad != nullptr) {
      const auto row = static_cast<uint32_t>((place & 0xffffffff) / tensors);
      slot.bad.push_back({.row = row, .sample = slot.samples[row], .status = bad});
    }
    slot.landed |= landed;
    slot.copied |= copied;
    slot.first_byte = std::max(slot.first_byte, read->first_byte);
    if (--slot.outstanding == 0) {
      slot.received = received;
      SlotFilled(index);
      if (closing_) return;
    }
  }
  if (spare_.size() < kSpareReads) spare_.push_back(std::move(read));
  Advance();
  MaybeAllReleased();
}

void DataStream::SlotFilled(uint32_t index) {
  Slot& slot = slots_[index];
  if (slot.received == Time{}) slot.received = Clock::now();
  CutOut(index);
}

void DataStream::CutOut(uint32_t index) {
  const TraceRange traced("finish batch");
  Slot& slot = slots_[index];
  const std::vector<OutputTensor>& tensors = setup_.layout.tensors;
  if (!slot.bad.empty()) {
    // A row may be bad in several tensors; its first error speaks for it.
    std::stable_sort(slot.bad.begin(), slot.bad.end(), [](const BadRow& a, const BadRow& b) { return a.row < b.row; });
    slot.bad.erase(
        std::unique(slot.bad.begin(), slot.bad.end(), [](const BadRow& a, const BadRow& b) { return a.row == b.row; }),
        slot.bad.end());
    // A row of padding is another's repeat: nothing is lost with it.
    slot.lost = static_cast<uint64_t>(
        std::count_if(slot.bad.begin(), slot.bad.end(), [&](const BadRow& bad) { return bad.row < slot.batch.padding_from; }));
    uint64_t& skipped = skipped_[slot.batch.epoch];
    skipped += slot.lost;
    if (skipped > *setup_.may_skip) return Fail(TooManySkipped(skipped, *setup_.may_skip, *slot.bad.back().status));
    std::vector<uint32_t> good;
    for (uint32_t row = 0, next = 0; row < slot.rows; ++row) {
      if (next < slot.bad.size() && slot.bad[next].row == row) {
        ++next;
      } else {
        good.push_back(row);
      }
    }
    std::vector<Fragment> moves;
    for (const OutputTensor& tensor : tensors) {
      DeviceMemory& memory = tensor.cast ? *setup_.staging : *setup_.slab;
      const uint64_t base = tensor.cast ? index * setup_.layout.staging_slot_bytes + tensor.staging_offset
                                        : index * setup_.layout.slot_bytes + tensor.slot_offset;
      moves.clear();
      for (uint32_t row = 0; row < good.size(); ++row) {
        if (good[row] != row)
          moves.push_back({.source = base + good[row] * tensor.stored_bytes,
                           .destination = base + row * tensor.stored_bytes,
                           .bytes = tensor.stored_bytes});
      }
      if (moves.empty()) continue;
      absl::StatusOr<Event> moved = setup_.device->Gather(memory, memory, moves);
      if (!moved.ok()) return Await(index, &DataStream::Cast, moved.status());
      works_.push_back(*std::move(moved));
    }
    for (uint32_t row = 0; row < good.size(); ++row) slot.samples[row] = slot.samples[good[row]];
    // Padding lies at the end, so what is left of it still does.
    slot.batch.padding_from =
        static_cast<uint32_t>(std::lower_bound(good.begin(), good.end(), slot.batch.padding_from) - good.begin());
    slot.rows = static_cast<uint32_t>(good.size());
    slot.samples.resize(slot.rows);
  }
  Await(index, &DataStream::Cast);
}

void DataStream::Cast(uint32_t index) {
  const TraceRange traced("cast");
  const Slot& slot = slots_[index];
  for (const OutputTensor& tensor : setup_.layout.tensors) {
    if (!tensor.cast || slot.rows == 0) continue;
    const DeviceSpan source{setup_.staging.get(), index * setup_.layout.staging_slot_bytes + tensor.staging_offset,
                            slot.rows * tensor.stored_bytes};
    const DeviceSpan destination{setup_.slab.get(), index * setup_.layout.slot_bytes + tensor.slot_offset,
                                 slot.rows * tensor.delivered_bytes};
    absl::StatusOr<Event> done = setup_.device->Cast(
        destination, source,
        {.from = tensor.stored, .to = tensor.delivered, .scale = tensor.scale, .count = slot.rows * tensor.elements});
    if (!done.ok()) return Await(index, &DataStream::SlotReady, done.status());
    works_.push_back(*std::move(done));
  }
  Await(index, &DataStream::SlotReady);
}

void DataStream::SlotReady(uint32_t index) {
  Slot& slot = slots_[index];
  slot.ready = Clock::now();
  slot.filled = true;
  counters_.batch.Observe(slot.ready - slot.planned);
}

void DataStream::Await(uint32_t index, void (DataStream::*next)(uint32_t), absl::Status status) {
  Slot& slot = slots_[index];
  std::erase_if(works_, [&status](const Event& work) {
    if (!work.Done()) return false;
    if (absl::Status result = work.Wait(Time::min()); !result.ok()) status = std::move(result);
    return true;
  });
  if (works_.empty() && status.ok()) return (this->*next)(index);
  if (!works_.empty()) {
    slot.device_due = Clock::now() + setup_.device_deadline;
    if (working_ == 0) device_late_.Set(slot.device_due);
    slot.working = works_.size();
    working_ += works_.size();
    for (const Event& work : works_) {
      // This is there until all of them have come: closing waits.
      work.WhenDone([this, reactor = &reactor_, index, next](absl::Status result) {
        reactor->Post([this, index, next, result = std::move(result)] { WorkDone(index, next, result); });
      });
    }
    works_.clear();
  }
  if (status.ok()) return;
  slot.failed = true;
  Fail(std::move(status));
}

void DataStream::WorkDone(uint32_t index, void (DataStream::*next)(uint32_t), const absl::Status& status) {
  const std::shared_ptr<DataStream> self = self_;
  Slot& slot = slots_[index];
  --slot.working;
  if (--working_ == 0) device_late_.Clear();
  if (closing_) return MaybeFinishClose();
  if (!status.ok()) {
    slot.failed = true;
    Fail(status);
  }
  if (slot.failed || slot.working > 0) return;
  (this->*next)(index);
  if (!slot.filled) return;
  Advance();
  MaybeAllReleased();
}

void DataStream::DeviceIsLate() {
  const Time now = Clock::now();
  Time next = Time::max();
  const auto is_late = [&](size_t working, Time due) {
    if (working == 0) return false;
    if (due > now) next = std::min(next, due);
    return due <= now;
  };
  bool late = false;
  for (const Slot& slot : slots_) late = late || is_late(slot.working, slot.device_due);
  for (const Copying& copying : copying_) late = late || is_late(copying.working, copying.due);
  if (late) {
    return Fail(MakeError(absl::StatusCode::kDeadlineExceeded,
                          absl::StrCat("the device ", std::string(setup_.device->name()), " has not finished a batch within ",
                                       std::chrono::duration<double>(setup_.device_deadline).count(), " s"),
                          {.object = setup_.id,
                           .cause = "device deadline",
                           .action = "see the kernel's log for the device's errors, and what else keeps it busy"}));
  }
  if (next != Time::max()) device_late_.Set(next);
}

// --- delivery ---------------------------------------------------------------------------------------------------

void DataStream::Deliver() {
  const TraceRange traced("deliver");
  if (closing_) return;
  v1::OpenStreamResponse batches;
  const auto flush = [&] {
    if (batches.event_case() == v1::OpenStreamResponse::kBatches) sink_->OnEvent(std::move(batches));
    batches.Clear();
  };
  while (!queue_.empty()) {
    const Entry entry = queue_.front();
    if (entry.kind == Entry::Kind::kBatch) {
      Slot& slot = slots_[entry.slot];
      if (!slot.filled) break;
      queue_.pop_front();
      DescribeBatch(slot, entry.slot, batches.mutable_batches()->add_batches());
      continue;
    }
    queue_.pop_front();
    flush();
    v1::OpenStreamResponse event;
    if (entry.kind == Entry::Kind::kEpochEnd) {
      v1::EpochEnd* const end = event.mutable_epoch_end();
      delivered_to_ = {.epoch = entry.epoch + 1, .position = 0};
      left_out_ = 0;
      skipped_.erase(entry.epoch);
      end->set_epoch(entry.epoch);
      end->set_batches(std::exchange(epoch_batches_, 0));
      end->set_samples(std::exchange(epoch_samples_, 0));
      *end->mutable_cursor() = CursorAt(delivered_to_);
    } else {
      ended_ = true;
      *event.mutable_stream_end()->mutable_statistics() = statistics_;
    }
    sink_->OnEvent(std::move(event));
  }
  flush();
}

void DataStream::DescribeBatch(Slot& slot, uint32_t index, v1::Batch* batch) {
  const Time now = Clock::now();
  const uint64_t sequence = next_sequence_++;
  trainer_waits_ = false;
  delivered_.push_back(index);
  ++held_;
  delivered_to_ = slot.batch.after;
  left_out_ += slot.lost;
  batch->set_sequence(sequence);
  batch->set_epoch(slot.batch.epoch);
  uint64_t bytes = 0;
  for (const OutputTensor& tensor : setup_.layout.tensors) {
    v1::Tensor* const described = batch->add_tensors();
    described->set_name(tensor.name);
    described->set_dtype(static_cast<v1::DType>(tensor.delivered));
    described->mutable_shape()->Reserve(static_cast<int>(tensor.shape.size()) + 1);
    described->add_shape(slot.rows);
    for (const int64_t dimension : tensor.shape) described->add_shape(dimension);
    described->set_slab(0);
    described->set_offset(index * setup_.layout.slot_bytes + tensor.slot_offset);
    described->set_bytes(slot.rows * tensor.delivered_bytes);
    bytes += described->bytes();
  }
  batch->mutable_sample_ids()->Add(slot.samples.begin(), slot.samples.end());
  if (slot.batch.padding_from < slot.rows) {
    for (uint32_t row = 0; row < slot.rows; ++row) batch->add_padding(row >= slot.batch.padding_from);
  }
  *batch->mutable_cursor() = CursorAt(slot.batch.after);
  if (setup_.with_sources) DescribeSources(slot, batch);
  for (const BadRow& bad : slot.bad) DescribeSkipped(bad, batch->add_skipped());
  if (!slot.bad.empty()) {
    // How many there will be nobody knows when the stream is opened. The trainer has read of them when it gives the batch back.
    uint64_t said = 0;
    for (const v1::SkippedSample& skipped : batch->skipped()) said += skipped.SpaceUsedLong();
    if (const absl::Status room = setup_.working.Add(said); room.ok()) {
      slot.said = said;
    } else {
      Fail(WithObject(room, setup_.id));
    }
  }
  Attribute(slot, now, batch->mutable_stall());

  if (statistics_.batches() == 0) {
    statistics_.set_first_batch_ms(std::chrono::duration<double, std::milli>(now - setup_.asked).count());
  }
  statistics_.set_batches(statistics_.batches() + 1);
  statistics_.set_samples(statistics_.samples() + slot.rows);
  statistics_.set_bytes(statistics_.bytes() + bytes);
  statistics_.set_skipped_samples(statistics_.skipped_samples() + slot.bad.size());
  const BytePath path = slot.landed && !slot.copied ? BytePath::kDevmem : BytePath::kCopy;
  StreamCounters::Delivered& delivered = counters_.delivered[Index(path)][Index(setup_.dataset->format)];
  delivered.batches.Add(1);
  delivered.samples.Add(slot.rows);
  delivered.bytes.Add(bytes);
  counters_.skipped_samples.Add(slot.bad.size());
  counters_.credits_taken.Add(1);
  ++epoch_batches_;
  epoch_samples_ += slot.rows;
}

void DataStream::DescribeSources(const Slot& slot, v1::Batch* batch) {
  const Dataset& dataset = *setup_.dataset;
  name_places_.clear();
  for (const uint64_t sample : slot.samples) {
    const size_t shard = dataset.ShardOf(sample, shard_hint_);
    for (size_t t = 0; t < setup_.layout.tensors.size(); ++t) {
      const Dataset::Extent extent = dataset.Locate(t, shard, sample);
      v1::SampleSource* const source = batch->add_sources();
      source->set_tensor(static_cast<uint32_t>(t));
      source->set_offset(extent.offset);
      source->set_bytes(extent.bytes);
      if (!setup_.source_names) {
        source->set_object(ToUtf8(dataset.objects[extent.object].name));
        continue;
      }
      const auto [place, added] = name_places_.try_emplace(extent.object, static_cast<uint32_t>(batch->source_names_size()));
      if (added) batch->add_source_names(ToUtf8(dataset.objects[extent.object].name));
      source->set_name_index(place->second);
    }
  }
}

// The time since the delivery before, told apart by what this batch was waiting for.
void DataStream::Attribute(const Slot& slot, Time now, v1::Stall* stall) {
  const Time from = std::exchange(last_delivery_, now);
  const Time first_byte = slot.first_byte == Time{} ? slot.received : slot.first_byte;
  stall->set_trainer(Microseconds(Within(from, slot.planned, from, now)));
  stall->set_first_byte(Microseconds(Within(slot.planned, first_byte, from, now)));
  stall->set_network(Microseconds(Within(std::max(slot.planned, first_byte), slot.received, from, now)));
  stall->set_device(Microseconds(Within(slot.received, slot.ready, from, now)));
  if (statistics_.batches() == 0) stall->set_memory(Microseconds(setup_.allocating));
  const auto count = [this](StallCause cause, uint64_t microseconds) {
    counters_.stall_microseconds[Index(cause)].Add(microseconds);
  };
  count(StallCause::kTrainer, stall->trainer());
  count(StallCause::kNetwork, stall->network());
  count(StallCause::kFirstByte, stall->first_byte());
  count(StallCause::kDevice, stall->device());
  count(StallCause::kMemory, stall->memory());
  v1::Stall* const sum = statistics_.mutable_stall();
  sum->set_trainer(sum->trainer() + stall->trainer());
  sum->set_network(sum->network() + stall->network());
  sum->set_first_byte(sum->first_byte() + stall->first_byte());
  sum->set_device(sum->device() + stall->device());
  sum->set_memory(sum->memory() + stall->memory());
}

void DataStream::DescribeSkipped(const BadRow& bad, v1::SkippedSample* skipped) {
  skipped->set_sample_id(bad.sample);
  *skipped->mutable_error() = DetailOf(*bad.status);
}

void DataStream::MaybeFinishClose() {
  if (!closing_ || closed_ || !reading_.empty() || working_ > 0) return;
  closed_ = true;
  counters_.credits_back.Add(held_);
  const bool keep = held_ > 0 && !trainer_left_;
  // Last use of this: the memory goes away on the janitor's thread, and the sink hears of it when it is gone.
  janitor_([self = std::move(self_), keep] {
    StreamSetup& setup = self->setup_;
    setup.staging.reset();
    if (keep) {
      self->sink_->OnClosed(KeptSlab{std::move(setup.slab), std::move(setup.of_node), std::move(setup.of_user)});
      return;
    }
    setup.slab->Retire();
    setup.slab.reset();
    setup.of_node.reset();
    setup.of_user.reset();
    self->sink_->OnClosed(std::nullopt);
  });
}

}  // namespace devmem
