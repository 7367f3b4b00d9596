// SPDX-License-Identifier: Apache-2.0
// Set-up, each step in the journal before it is made:
//
//   1. the link is up, the queues are there and nobody's; nothing was changed yet
//   2. ntuple on, where rules are refused without it (nic_settings.h)
//   3. header split on, threshold 0; rx-gro-hw before it, where it is refused without
//   4. RSS off the queues, before the bind: hashed traffic in device memory is lost to its readers
//   5. the dma-buf is bound, with the largest rx-page-size that kernel, driver and memory take
//   6. rules, as connections come
//
// Undo is put_back.cc, from the journal, also for a set-up that failed on its way.
//
// A NIC that is gone and comes back by its name (a driver reloaded) has another index and none of this: it is set up anew, in
// the same order, with a journal of its own.
#include "net/rx/rx_binding.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/text.h"
#include "net/rx/irq_cpus.h"
#include "net/rx/nic_settings.h"
#include "net/rx/put_back.h"
#include "net/rx/queue_use.h"
#include "net/rx/rx_binding_on.h"
#include "net/rx/rx_journal.h"

namespace devmem {
namespace {

using std::chrono::seconds;

constexpr Duration kUndoPatience = seconds(10);
constexpr Duration kSuccessorPatience = seconds(1);  // connections wait for their rules meanwhile; a queue restarts in 13 ms
constexpr Duration kFolderPatience = seconds(20);    // a start that waits for a dead process's binding holds it for 10 s
constexpr Duration kListRulesEvery = seconds(1);

// Our own names for rules whose location another rule of ours had before (Rebind may have to move them).
constexpr uint32_t kMovedHandles = 0x8000'0000;
constexpr uint32_t kNowhere = UINT32_MAX;

struct Counters {
  uint64_t alloc_fail = 0, packets = 0, bytes = 0;
};

// What a NIC's counters came to since the first look. A reset may have them begin at 0 again: then they count from there.
struct Counted {
  Counters last, sum;
  void Add(const Counters& now) {
    for (uint64_t Counters::*const each : {&Counters::alloc_fail, &Counters::packets, &Counters::bytes}) {
      sum.*each += now.*each >= last.*each ? now.*each - last.*each : now.*each;
    }
    last = now;
  }
};

absl::Status Check(const RxBindingOptions& options, bool to_bind) {
  const char* wrong = nullptr;
  if (options.queues.empty() || options.queues.front() == 0 ||
      std::adjacent_find(options.queues.begin(), options.queues.end(), std::greater_equal<>()) != options.queues.end()) {
    wrong = "the queues must be ascending, and none 0";
  } else if (to_bind && options.dmabuf_fd < 0) {
    wrong = "there is no dma-buf";
  } else if ((options.page_size & (options.page_size - 1)) != 0) {
    wrong = "rx-page-size is no power of two";
  }
  if (wrong == nullptr) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, wrong, {.object = options.interface, .cause = "bad binding options"});
}

std::string Joined(const std::vector<uint32_t>& queues) { return absl::StrJoin(queues, ","); }

class Binding final : public RxBinding {
 public:
  Binding(std::unique_ptr<RxKernel> kernel, RxBindingOptions options)
      : kernel_(std::move(kernel)), options_(std::move(options)) {}

  ~Binding() override {
    if (!undone_) (void)Undo(Clock::now() + kUndoPatience);
  }

  absl::Status SetUp() {
    DEVMEM_RETURN_IF_ERROR(Check(options_, true));
    DEVMEM_ASSIGN_OR_RETURN(link_, kernel_->FindLink(options_.interface));
    DEVMEM_RETURN_IF_ERROR(LinkIsUp(link_));
    DEVMEM_ASSIGN_OR_RETURN(driver_, kernel_->ethtool().Driver(link_.interface));
    DEVMEM_ASSIGN_OR_RETURN(journal_, RxJournal::Here(link_.interface, link_.ifindex));
    DEVMEM_ASSIGN_OR_RETURN(journal_.nic, kernel_->ethtool().Identity(link_.interface));
    journal_.queues = options_.queues;
    absl::Status status;
    {
      DEVMEM_ASSIGN_OR_RETURN(const RxFolder folder, HoldFolder(kFolderPatience));
      DEVMEM_RETURN_IF_ERROR(QueuesAreFree(link_));
      DEVMEM_ASSIGN_OR_RETURN(file_, RxJournalFile::Make(options_.journal_folder, journal_));
      status = ChangeNic(options_.dmabuf_fd);
      if (status.ok()) status = LearnQueues();
      if (status.ok()) return status;
    }
    const absl::Status undone = Undo(Clock::now() + kUndoPatience);
    if (undone.ok()) return WithObject(status, link_.interface);
    return MakeErrorVerbatim(status.code(), absl::StrCat(Text(status), "; and on the way back: ", Text(undone)),
                             GetErrorInfo(WithObject(status, link_.interface)));
  }

  [[nodiscard]] const std::string& interface() const override { return options_.interface; }
  [[nodiscard]] const std::string& driver() const override { return driver_; }
  [[nodiscard]] const std::vector<BoundQueue>& queues() const override { return queues_; }
  [[nodiscard]] uint32_t dmabuf_id() const override { return dmabuf_; }
  [[nodiscard]] uint32_t page_size() const override {
    const uint32_t asked = asked_page_;
    return asked != 0 ? asked : static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  }
  [[nodiscard]] uint64_t posted() const override { return posted_; }
  [[nodiscard]] uint64_t rule_capacity() const override { return capacity_; }
  [[nodiscard]] bool by_handle() const override { return by_handle_; }

  absl::StatusOr<uint32_t> AddRule(const FlowMatch& match, size_t index) override {
    const std::scoped_lock lock(rules_mutex_);
    if (file_ == nullptr) return Undone();
    if (index >= options_.queues.size()) {
      return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("there is no bound queue number ", index),
                       {.object = interface()});
    }
    if (bound_ == nullptr) return NotBound();
    const uint32_t queue = options_.queues[index];
    DEVMEM_RETURN_IF_ERROR(JournalRule(match, queue));
    const absl::StatusOr<uint32_t> location = bound_->rules().Insert(link_.interface, match, queue);
    if (!location.ok()) {
      (void)ForgetRule(journal_, *file_, match, queue);  // one too many there does no harm: it is looked for, and not found
      return location.status();
    }
    const uint32_t handle = rules_.contains(*location) ? next_handle_++ : *location;
    rules_[handle] = {*location, match, queue};
    return handle;
  }

  absl::Status RemoveRule(uint32_t handle) override {
    const std::scoped_lock lock(rules_mutex_);
    const auto found = rules_.find(handle);
    if (file_ == nullptr || found == rules_.end()) return absl::OkStatus();
    const Rule rule = found->second;
    FlowRules& rules = bound_ != nullptr ? bound_->rules() : kernel_->rules();
    absl::Status status = rules.Delete(link_.interface, rule.location, rule.match, rule.queue);
    if (status.code() == absl::StatusCode::kNotFound) status = absl::OkStatus();
    // Any other failure: it stays, and Undo() tries again.
    if (!status.ok() && status.code() != absl::StatusCode::kAborted) return status;
    rules_.erase(found);
    const absl::Status forgot = ForgetRule(journal_, *file_, rule.match, rule.queue);
    return status.ok() ? forgot : status;
  }

  [[nodiscard]] size_t rules() const override {
    const std::scoped_lock lock(rules_mutex_);
    return rules_.size();
  }

  absl::StatusOr<RxState> Look() override {
    const std::scoped_lock lock(kernel_mutex_);
    DEVMEM_ASSIGN_OR_RETURN(const Link link, kernel_->FindLink(link_.ifindex));
    RxState state;
    DEVMEM_RETURN_IF_ERROR(LookAtQueues(link, state));
    DEVMEM_RETURN_IF_ERROR(LookAtSettings(link, state));
    DEVMEM_RETURN_IF_ERROR(LookAtRules(link, state));
    LookAtPools(link, state);
    counters_.Add(Count(link));
    state.alloc_fail = counters_.sum.alloc_fail;
    state.packets = counters_.sum.packets;
    state.bytes = counters_.sum.bytes;
    state.intact = state.why.empty();
    return state;
  }

  absl::Status Rebind(int dmabuf_fd) override {
    const std::scoped_lock lock(kernel_mutex_, rules_mutex_);
    if (file_ == nullptr) return Undone();
    absl::StatusOr<Link> link = kernel_->FindLink(link_.ifindex);
    if (link.status().code() == absl::StatusCode::kNotFound) return BindItsSuccessor(dmabuf_fd);
    DEVMEM_RETURN_IF_ERROR(link.status());
    link_ = *std::move(link);
    DEVMEM_RETURN_IF_ERROR(LinkIsUp(link_));
    RxState state;
    DEVMEM_RETURN_IF_ERROR(LookAtQueues(link_, state));
    const bool bound = state.why.empty();
    if (!bound) DEVMEM_RETURN_IF_ERROR(MakeWay());
    DEVMEM_ASSIGN_OR_RETURN(const Rings rings, kernel_->ethtool().GetRings(link_.interface));
    if (!SplitIsOn(rings)) DEVMEM_RETURN_IF_ERROR(SplitHeaders(Nic()));
    DEVMEM_RETURN_IF_ERROR(MoveRss(Nic(), options_.queues));
    if (!bound) DEVMEM_RETURN_IF_ERROR(Bind(dmabuf_fd, asked_page_, asked_page_));
    DEVMEM_RETURN_IF_ERROR(LetRulesIn());
    return InsertLostRules();
  }

  void LetGo() override {
    const std::scoped_lock lock(kernel_mutex_, rules_mutex_);
    DropBound();
  }

  absl::StatusOr<HeldBinding> Share() override {
    const std::scoped_lock lock(kernel_mutex_, rules_mutex_);
    if (file_ == nullptr) return Undone();
    if (bound_ == nullptr) return NotBound();
    if (!rules_.empty()) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat(devmem::Counted(rules_.size(), "rule of its connections is", "rules of its connections are"), " there"),
          {.object = interface(), .cause = "rules there", .action = "close the connections first"});
    }
    return Held();
  }

  absl::StatusOr<HeldBinding> Offer() override {
    const std::scoped_lock lock(kernel_mutex_, rules_mutex_);
    if (file_ == nullptr) return Undone();
    if (bound_ == nullptr) return NotBound();
    return Held();
  }

  void Forget() override {
    const std::scoped_lock lock(kernel_mutex_, rules_mutex_);
    undone_ = true;
    bound_.reset();
    if (file_ != nullptr) (void)std::exchange(file_, nullptr)->Remove();  // else the next start finds the other's beside it
  }

  absl::Status TakeOver(HeldBinding held) {
    undone_ = true;  // until it is ours, there is nothing to undo
    DEVMEM_RETURN_IF_ERROR(Check(options_, false));
    DEVMEM_ASSIGN_OR_RETURN(link_, kernel_->FindLink(options_.interface));
    DEVMEM_ASSIGN_OR_RETURN(driver_, kernel_->ethtool().Driver(link_.interface));
    DEVMEM_ASSIGN_OR_RETURN(journal_, RxJournal::Here(link_.interface, link_.ifindex));
    DEVMEM_ASSIGN_OR_RETURN(journal_.nic, kernel_->ethtool().Identity(link_.interface));
    journal_.queues = options_.queues;
    journal_.dmabuf = held.dmabuf_id;
    DEVMEM_ASSIGN_OR_RETURN(const RxFolder folder, HoldFolder(kSuccessorPatience));
    DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<RxJournalFile> file, RxJournalFile::Make(options_.journal_folder, journal_));
    std::swap(file_, file);
    absl::Status status = TakeOverBound(std::move(held));
    if (status.ok()) {
      undone_ = false;
      return status;
    }
    bound_.reset();
    (void)std::exchange(file_, nullptr)->Remove();
    return WithObject(status, link_.interface);
  }

  absl::Status Undo(Time deadline) override {
    const std::scoped_lock lock(kernel_mutex_, rules_mutex_);
    if (file_ == nullptr) return absl::OkStatus();
    undone_ = true;
    const absl::StatusOr<Link> link = FindNic(*kernel_, journal_, journal_.netns);
    if (link.status().code() == absl::StatusCode::kNotFound) {
      bound_.reset();
      rules_.clear();
      file_.reset();  // the file stays
      return MakeError(
          absl::StatusCode::kNotFound,
          absl::StrCat(DescribeNic(journal_),
                       " is not here any more: unplugged, or in another network namespace. "
                       "What was set on it stands in the journal"),
          {.object = interface(), .cause = "NIC removed while bound", .action = "the next start where it is puts it back"});
    }
    if (!link.ok()) return link.status();
    link_ = *link;
    const PutBack result = PutNicBack(Nic(), link_, {.deadline = deadline, .bound = std::move(bound_), .await_pools = true});
    rules_.clear();
    // Not all put back: the journal stays, and its lock with this process, for the next start.
    if (result.restored.failed.empty()) {
      absl::Status removed = std::exchange(file_, nullptr)->Remove();
      if (!removed.ok()) return removed;
    }
    return Verdict(result);
  }

 private:
  // Both mutexes held; it is bound.
  absl::StatusOr<HeldBinding> Held() const {
    DEVMEM_ASSIGN_OR_RETURN(UniqueFd fd, bound_->Share());
    return HeldBinding{.interface = link_.interface,
                       .queues = options_.queues,
                       .dmabuf_id = dmabuf_,
                       .page_size = page_size(),
                       .posted = posted_,
                       .by_handle = by_handle_,
                       .fd = std::move(fd)};
  }

  struct Rule {
    uint32_t location = 0;
    FlowMatch match;
    uint32_t queue = 0;
  };

  absl::Status TakeOverBound(HeldBinding held) {
    const auto page = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
    dmabuf_ = held.dmabuf_id;
    asked_page_ = held.page_size == page ? 0 : held.page_size;
    posted_ = held.posted;
    by_handle_ = held.by_handle;
    const std::vector<OtherJournal> others = file_->Others(journal_);
    if (std::none_of(others.begin(), others.end(),
                     [&](const OtherJournal& other) { return other.lives && other.journal.dmabuf == held.dmabuf_id; })) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("its predecessor's journal is not in ", options_.journal_folder,
                                    ", or of another version: nobody would know what the NIC was before"),
                       {.cause = "no journal to inherit", .action = "share the journals' folder, or end the old daemon first"});
    }
    DEVMEM_RETURN_IF_ERROR(Inherit(Nic()));
    DEVMEM_ASSIGN_OR_RETURN(bound_, kernel_->Adopt(std::move(held.fd), held.by_handle, held.dmabuf_id));
    RxState state;
    DEVMEM_RETURN_IF_ERROR(LookAtQueues(link_, state));
    if (!state.why.empty()) {
      return MakeError(absl::StatusCode::kFailedPrecondition, state.why,
                       {.cause = "not bound any more", .action = "start again: it is then bound anew"});
    }
    const absl::StatusOr<Feature> ntuple = kernel_->ethtool().GetFeature(link_.interface, kNtuple);
    wants_ntuple_ = ntuple.ok() && ntuple->active;
    counters_.last = Count(link_);
    LearnCapacity();
    return LearnQueues();
  }

  // With a handle go its rules; where they were is no place to delete at any more.
  void DropBound() {
    if (bound_ != nullptr && by_handle_) {
      for (auto& [handle, rule] : rules_) rule.location = kNowhere;
    }
    bound_.reset();
  }

  // A handle keeps its rules itself.
  absl::Status JournalRule(const FlowMatch& match, uint32_t queue) {
    if (by_handle_) return absl::OkStatus();
    journal_.rules.push_back({match, queue});
    absl::Status status = file_->Write(journal_);
    if (!status.ok()) journal_.rules.pop_back();
    return status;
  }

  absl::StatusOr<RxFolder> HoldFolder(Duration patience) {
    return RxFolder::Hold(options_.journal_folder, Clock::now() + patience, [this](Duration pause) { kernel_->Pause(pause); });
  }

  JournalledNic Nic() { return {*kernel_, link_.interface, journal_, *file_}; }

  absl::Status Undone() const {
    return MakeError(absl::StatusCode::kFailedPrecondition, "the binding was undone", {.object = interface()});
  }

  absl::Status NotBound() const {
    return MakeError(absl::StatusCode::kFailedPrecondition, "its queues are not bound just now",
                     {.object = interface(), .cause = "not bound"});
  }

  static absl::Status LinkIsUp(const Link& link) {
    if (link.up) return absl::OkStatus();
    return MakeError(absl::StatusCode::kFailedPrecondition, "the link is down",
                     {.object = link.interface,
                      .cause = "link down",
                      .action = absl::StrCat("`ip link set ", link.interface, " up`: that is the operator's to decide")});
  }

  absl::Status QueuesAreFree(const Link& link) {
    DEVMEM_ASSIGN_OR_RETURN(const QueueUse use, FindQueueUse(*kernel_, link));
    for (const uint32_t queue : options_.queues) {
      if (queue >= use.queues) {
        return MakeError(
            absl::StatusCode::kInvalidArgument, absl::StrCat("there is no Rx queue ", queue, ", only 0 to ", use.queues - 1),
            {.object = link.interface, .cause = "no such queue", .action = "`ethtool -L` for more, or name others"});
      }
      const auto taken = use.taken.find(queue);
      if (taken == use.taken.end()) continue;
      return MakeError(absl::StatusCode::kFailedPrecondition, absl::StrCat("Rx queue ", queue, " is in use: ", taken->second),
                       {.object = link.interface, .cause = "queue in use", .action = "name other queues, or free it"});
    }
    return absl::OkStatus();
  }

  absl::Status ChangeNic(int dmabuf_fd) {
    DEVMEM_RETURN_IF_ERROR(Inherit(Nic()));
    DEVMEM_RETURN_IF_ERROR(LetRulesIn());
    DEVMEM_RETURN_IF_ERROR(SplitHeaders(Nic()));
    DEVMEM_RETURN_IF_ERROR(MoveRss(Nic(), options_.queues));
    counters_.last = Count(link_);
    const auto page = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
    DEVMEM_RETURN_IF_ERROR(Bind(dmabuf_fd, options_.page_size > page ? options_.page_size : 0, page));
    RxState state;
    DEVMEM_RETURN_IF_ERROR(LookAtQueues(link_, state));
    if (!state.why.empty()) return MakeError(absl::StatusCode::kInternal, state.why, {.cause = "bound, but not so"});
    LookAtPools(link_, state);
    posted_ = state.inflight;
    LearnCapacity();
    return absl::OkStatus();
  }

  void LearnCapacity() {
    const absl::StatusOr<RuleBudget> budget = kernel_->rules().Budget(link_.interface);
    if (budget.ok() && budget->capacity > budget->used) capacity_ = budget->capacity - budget->used;
  }

  absl::Status LearnQueues() {
    RxState state;
    DEVMEM_RETURN_IF_ERROR(LookAtQueues(link_, state));
    queues_ = std::move(state.queues);
    for (BoundQueue& queue : queues_) {
      const absl::StatusOr<uint32_t> irq = kernel_->netdev().NapiIrq(queue.napi_id);
      if (irq.ok() && *irq != 0) queue.cpus = IrqCpus(*irq);
    }
    return absl::OkStatus();
  }

  // Ours is gone; one of its name and driver may have come in its place. All or nothing: what fails is put back, and tried anew
  // by the next call. Rules keep their names; queues() stays as it was, for others read it meanwhile.
  absl::Status BindItsSuccessor(int dmabuf_fd) {
    DropBound();
    DEVMEM_ASSIGN_OR_RETURN(const Link link, kernel_->FindLink(options_.interface));
    DEVMEM_ASSIGN_OR_RETURN(const std::string driver, kernel_->ethtool().Driver(link.interface));
    if (driver != driver_) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("another NIC has its name now: its driver is ", driver, ", and was ", driver_),
                       {.object = link.interface, .cause = "another NIC", .action = "start again to use it"});
    }
    DEVMEM_RETURN_IF_ERROR(LinkIsUp(link));
    DEVMEM_RETURN_IF_ERROR(AllBuffersAreBack());
    DEVMEM_ASSIGN_OR_RETURN(RxJournal journal, RxJournal::Here(link.interface, link.ifindex));
    DEVMEM_ASSIGN_OR_RETURN(journal.nic, kernel_->ethtool().Identity(link.interface));
    journal.queues = options_.queues;
    const bool same = journal.nic == journal_.nic;
    DEVMEM_ASSIGN_OR_RETURN(const RxFolder folder, HoldFolder(kSuccessorPatience));
    DEVMEM_RETURN_IF_ERROR(QueuesAreFree(link));
    DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<RxJournalFile> file, RxJournalFile::Make(options_.journal_folder, journal));
    const Link gone = std::exchange(link_, link);
    RxJournal journal_of_gone = std::exchange(journal_, std::move(journal));
    std::swap(file_, file);
    absl::Status status = ChangeNic(dmabuf_fd);
    if (status.ok()) {
      // Made anew, a NIC has nothing left of what its journal says. Another one's journal stays: that NIC may be elsewhere.
      if (same) (void)file->Remove();
      return InsertLostRules();
    }
    const PutBack undone =
        PutNicBack(Nic(), link_, {.deadline = Clock::now() + kSuccessorPatience, .bound = std::move(bound_), .held = &folder});
    if (!undone.restored.failed.empty()) {
      if (same) (void)file->Remove();  // this NIC it is, from now on, as it was left; its journal stays
      return MakeErrorVerbatim(status.code(), absl::StrCat(Text(status), "; and on the way back: ", Text(Verdict(undone))),
                               GetErrorInfo(WithObject(status, link_.interface)));
    }
    (void)file_->Remove();
    link_ = gone;
    journal_ = std::move(journal_of_gone);
    file_ = std::move(file);
    return WithObject(status, link.interface);
  }

  ResetAtEnd ToReset() const {
    ResetAtEnd reset{.rss = journal_.rss.has_value(), .header_split = journal_.header_split.has_value()};
    if (reset.header_split) {
      reset.split_before = journal_.header_split->was;
      reset.threshold_before = journal_.header_split->threshold_was.value_or(0);
    }
    return reset;
  }

  // From `most` down by halves while larger than `least`, then (or with 0) the driver's own.
  absl::Status Bind(int dmabuf_fd, uint32_t most, uint32_t least) {
    if (journal_.rss) {  // so that dying right after the bind leaves no doubt; without a handle it is taken back below
      journal_.rss->by_kernel = true;
      DEVMEM_RETURN_IF_ERROR(file_->Write(journal_));
    }
    for (uint32_t size = most;; size = size / 2 > least ? size / 2 : 0) {
      absl::StatusOr<std::unique_ptr<RxKernel::Bound>> bound =
          kernel_->Bind(link_, dmabuf_fd, options_.queues, size, ToReset());
      if (bound.ok()) {
        bound_ = *std::move(bound);
        asked_page_ = size;
        dmabuf_ = journal_.dmabuf = bound_->id();
        by_handle_ = bound_->by_handle();
        if (journal_.rss) journal_.rss->by_kernel = by_handle_;
        return file_->Write(journal_);
      }
      const absl::StatusCode code = bound.status().code();
      const bool perhaps_size = code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kUnimplemented ||
                                code == absl::StatusCode::kOutOfRange;
      if (size == 0 || size == least || !perhaps_size) return bound.status();
    }
  }

  // Before a new bind: ours must be off whatever of the queues still has it, and every buffer of it back. A new binding takes
  // all of the memory for free, and would have the NIC write over what a socket has not read or a device not moved yet.
  absl::Status MakeWay() {
    DropBound();
    DEVMEM_RETURN_IF_ERROR(AllBuffersAreBack());
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<RxQueueState> states, kernel_->netdev().RxQueues(link_.ifindex));
    for (const RxQueueState& state : states) {
      const bool ours = std::binary_search(options_.queues.begin(), options_.queues.end(), state.queue);
      if (!ours || (state.dmabuf == 0 && !state.io_uring && !state.xsk)) continue;
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("Rx queue ", state.queue, " is in use by another: ",
                                    state.dmabuf != 0 ? absl::StrCat("dma-buf ", state.dmabuf) : "io_uring or AF_XDP"),
                       {.object = link_.interface, .cause = "queue in use", .action = "free it, or start again"});
    }
    return absl::OkStatus();
  }

  // A page pool stays until the last buffer of it, unread or with its token out, is given back; of all interfaces, for the
  // pools of one that is gone outlive it.
  absl::Status AllBuffersAreBack() {
    kernel_->FreeDeferred();
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<PagePoolState> pools, kernel_->netdev().PagePools(0));
    uint64_t held = 0;
    uint64_t out = 0;
    for (const PagePoolState& pool : pools) {
      if (pool.dmabuf != dmabuf_) continue;
      ++held;
      out += pool.inflight;
    }
    if (held == 0) return absl::OkStatus();
    return MakeError(absl::StatusCode::kUnavailable,
                     absl::StrCat(out, " buffers of dma-buf ", dmabuf_.load(), " are not back yet, in ", held, " page pools"),
                     {.object = link_.interface,
                      .cause = "buffers out",
                      .action = "nothing: they come back as connections are read or end"});
  }

  absl::Status LetRulesIn() {
    DEVMEM_RETURN_IF_ERROR(AllowRules(Nic(), options_.queues.front()));
    const absl::StatusOr<Feature> ntuple = kernel_->ethtool().GetFeature(link_.interface, kNtuple);
    wants_ntuple_ = ntuple.ok() && ntuple->active;
    return absl::OkStatus();
  }

  static bool IsThere(const std::vector<FlowRule>& there, const Rule& rule) {
    return std::any_of(there.begin(), there.end(), [&rule](const FlowRule& each) {
      return each.location == rule.location && each.exact && each.match == rule.match && LeadsTo(each, rule.queue);
    });
  }

  absl::Status InsertLostRules() {
    if (rules_.empty()) return absl::OkStatus();
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<FlowRule> there, kernel_->rules().List(link_.interface));
    for (auto& [handle, rule] : rules_) {
      if (IsThere(there, rule)) continue;
      const bool journalled = std::any_of(
          journal_.rules.begin(), journal_.rules.end(),
          [&rule = rule](const RxJournal::Rule& each) { return each.queue == rule.queue && each.match == rule.match; });
      if (!journalled) DEVMEM_RETURN_IF_ERROR(JournalRule(rule.match, rule.queue));
      if (by_handle_)
        (void)bound_->rules().Delete(link_.interface, rule.location, rule.match, rule.queue);  // it counts it still
      DEVMEM_ASSIGN_OR_RETURN(rule.location, bound_->rules().Insert(link_.interface, rule.match, rule.queue));
    }
    return absl::OkStatus();
  }

  // Fills `state.queues`; `why` with the first queue that our dma-buf is not on.
  absl::Status LookAtQueues(const Link& link, RxState& state) {
    DEVMEM_ASSIGN_OR_RETURN(const std::vector<RxQueueState> states, kernel_->netdev().RxQueues(link.ifindex));
    for (const uint32_t queue : options_.queues) {
      const auto found =
          std::find_if(states.begin(), states.end(), [queue](const RxQueueState& each) { return each.queue == queue; });
      if (found == states.end()) {
        Note(state, absl::StrCat("Rx queue ", queue, " is gone"));
        continue;
      }
      state.queues.push_back({.interface = link.interface, .ifindex = link.ifindex, .queue = queue, .napi_id = found->napi_id});
      if (found->dmabuf == dmabuf_) continue;
      Note(state, absl::StrCat("Rx queue ", queue, " has ",
                               found->dmabuf == 0 ? "host memory" : absl::StrCat("dma-buf ", found->dmabuf),
                               " instead of dma-buf ", dmabuf_.load()));
    }
    return absl::OkStatus();
  }

  absl::Status LookAtSettings(const Link& link, RxState& state) {
    DEVMEM_ASSIGN_OR_RETURN(const Rings rings, kernel_->ethtool().GetRings(link.interface));
    if (!SplitIsOn(rings)) Note(state, "header split is off, or its threshold is not 0");
    DEVMEM_ASSIGN_OR_RETURN(const RssTable table, GetRssOrNone(*kernel_, link.interface));
    if (LeadsToAny(table.queues, options_.queues)) {
      Note(state, absl::StrCat("the RSS table leads to bound queues (", Joined(options_.queues), ")"));
    }
    return absl::OkStatus();
  }

  // Nobody announces that a rule is taken out. To list them costs the driver a call for each, so while their number is what it
  // was, that is done seldom.
  absl::Status LookAtRules(const Link& link, RxState& state) {
    if (wants_ntuple_) {
      DEVMEM_ASSIGN_OR_RETURN(const Feature ntuple, kernel_->ethtool().GetFeature(link.interface, kNtuple));
      if (!ntuple.active) Note(state, absl::StrCat(kNtuple, " is off, without which it may take no rules"));
    }
    const std::scoped_lock lock(rules_mutex_);
    if (rules_.empty()) return absl::OkStatus();
    DEVMEM_ASSIGN_OR_RETURN(const RuleBudget budget, kernel_->rules().Budget(link.interface));
    const int64_t others = int64_t{budget.used} - static_cast<int64_t>(rules_.size());
    if (others != others_rules_ || lost_rules_ != 0 || Clock::now() >= next_listing_) {
      DEVMEM_ASSIGN_OR_RETURN(const std::vector<FlowRule> there, kernel_->rules().List(link.interface));
      lost_rules_ = static_cast<size_t>(
          std::count_if(rules_.begin(), rules_.end(), [&](const auto& each) { return !IsThere(there, each.second); }));
      others_rules_ = static_cast<int64_t>(there.size()) - static_cast<int64_t>(rules_.size());
      next_listing_ = Clock::now() + kListRulesEvery;
    }
    if (lost_rules_ == 0) return absl::OkStatus();
    state.only_rules = state.why.empty();
    Note(state, absl::StrCat(lost_rules_, " of the ", rules_.size(), " rules for its connections are gone from the NIC"));
    return absl::OkStatus();
  }

  void LookAtPools(const Link& link, RxState& state) {
    const absl::StatusOr<std::vector<PagePoolState>> pools = kernel_->netdev().PagePools(link.ifindex);
    if (!pools.ok()) return;
    for (const PagePoolState& pool : *pools) {
      if (pool.dmabuf != dmabuf_) continue;
      state.inflight += pool.inflight;
      state.detached += pool.detached ? 1 : 0;
    }
  }

  // Of our queues; zeros where the driver counts nothing.
  Counters Count(const Link& link) {
    Counters sum;
    const absl::StatusOr<std::vector<RxQueueStats>> stats = kernel_->netdev().RxStats(link.ifindex);
    if (!stats.ok()) return sum;
    for (const RxQueueStats& each : *stats) {
      if (!std::binary_search(options_.queues.begin(), options_.queues.end(), each.queue)) continue;
      sum.alloc_fail += each.alloc_fail;
      sum.packets += each.packets;
      sum.bytes += each.bytes;
    }
    return sum;
  }

  static void Note(RxState& state, const std::string& what) {
    if (state.why.empty()) state.why = what;
  }

  absl::Status Verdict(const PutBack& result) const {
    const Restored& restored = result.restored;
    if (!restored.failed.empty()) {
      return MakeError(absl::StatusCode::kInternal, absl::StrJoin(restored.failed, "; "),
                       {.cause = "NIC not put back", .action = "the next start tries again"});
    }
    if (!result.held.empty()) {
      return MakeError(
          absl::StatusCode::kDeadlineExceeded,
          absl::StrCat("the NIC is put back, but somebody still holds dma-buf ", journal_.dmabuf, ": ", result.held),
          {.object = interface(), .cause = "buffers out", .action = "close the sockets that have them"});
    }
    if (!restored.foreign.empty()) {
      return MakeError(absl::StatusCode::kAborted, absl::StrJoin(restored.foreign, "; "),
                       {.cause = "changed by another meanwhile"});
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<RxKernel> kernel_;
  const RxBindingOptions options_;
  std::string driver_;
  std::vector<BoundQueue> queues_;
  std::atomic<uint32_t> dmabuf_ = 0;
  std::atomic<uint32_t> asked_page_ = 0;  // rx-page-size as bound; 0: the driver's
  std::atomic<uint64_t> posted_ = 0;
  std::atomic<uint64_t> capacity_ = 0;
  std::atomic<bool> by_handle_ = false;
  Counted counters_;
  bool wants_ntuple_ = false;  // it was on when rules were last seen to go in

  std::mutex kernel_mutex_;  // netdev and ethtool. Taken before:
  mutable std::mutex rules_mutex_;
  // Read under either, written under both.
  Link link_;
  std::unique_ptr<RxKernel::Bound> bound_;

  std::map<uint32_t, Rule> rules_;  // by handle: the location it first had
  uint32_t next_handle_ = kMovedHandles;
  int64_t others_rules_ = 0;  // by the last listing: how many the NIC has besides ours
  size_t lost_rules_ = 0;
  Time next_listing_;
  RxJournal journal_;
  std::unique_ptr<RxJournalFile> file_;  // nullptr: nothing done, or all undone
  bool undone_ = false;                  // Undo() was called: what it could not do is the next start's
};

}  // namespace

absl::StatusOr<std::unique_ptr<RxBinding>> CreateRxBinding(std::unique_ptr<RxKernel> kernel, const RxBindingOptions& options) {
  auto binding = std::make_unique<Binding>(std::move(kernel), options);
  DEVMEM_RETURN_IF_ERROR(binding->SetUp());
  return binding;
}

absl::StatusOr<std::unique_ptr<RxBinding>> AdoptRxBinding(std::unique_ptr<RxKernel> kernel, HeldBinding held,
                                                          const std::string& journal_folder) {
  auto binding = std::make_unique<Binding>(
      std::move(kernel),
      RxBindingOptions{
          .interface = held.interface, .queues = held.queues, .page_size = held.page_size, .journal_folder = journal_folder});
  DEVMEM_RETURN_IF_ERROR(binding->TakeOver(std::move(held)));
  return binding;
}

absl::StatusOr<std::unique_ptr<RxBinding>> RxBinding::Adopt(HeldBinding held, const std::string& journal_folder) {
  DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<RxKernel> kernel, RxKernel::Open());
  return AdoptRxBinding(std::move(kernel), std::move(held), journal_folder);
}

absl::StatusOr<std::unique_ptr<RxBinding>> RxBinding::Create(const RxBindingOptions& options) {
  DEVMEM_ASSIGN_OR_RETURN(std::unique_ptr<RxKernel> kernel, RxKernel::Open());
  return CreateRxBinding(std::move(kernel), options);
}

}  // namespace devmem
