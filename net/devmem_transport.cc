// SPDX-License-Identifier: Apache-2.0
// Setting up:   placement -> for each NIC a landing pool and its dma-buf -> a binding for each -> steering -> workers -> the
// monitor Taking down:  the monitor -> workers (every socket closed, so every token is back) -> steering -> bindings -> landing
// pools
// Handing over: as taking down, up to the bindings; these and the pools are shared with a successor and, once it goes on,
// forgotten here. It sets up from steering on. If it does not, so do we.
//
// No two NICs share a pool: the kernel keeps a list of free buffers for each binding, and each list has the whole dma-buf.
//
// The monitor looks at each NIC while data flows and, more seldom, while none does: it binds again what a reset or another tool
// took off, and holds new requests back while three quarters of a pool are out.
#include "net/devmem_transport.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "net/devmem_stream.h"
#include "net/netlink/ethtool.h"
#include "net/rx/binding_watch.h"
#include "net/rx/landing_pool.h"
#include "net/rx/placement.h"
#include "net/rx/rx_binding.h"

namespace devmem {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kReceiveBuffer = 8 * kMiB;        // of a connection, where the pool has room for it
constexpr uint64_t kLeastReceiveBuffer = 128 << 10;  // below this a connection crawls
constexpr uint32_t kLargestPage = 64 << 10;
constexpr size_t kStaging = 8 * kMiB;
constexpr size_t kControl = 1 * kMiB;  // 40 bytes a fragment: 26,000 of them
constexpr Duration kLookBusy = std::chrono::milliseconds(100);
constexpr Duration kLookIdle = std::chrono::seconds(2);
constexpr Duration kUndo = std::chrono::seconds(10);
constexpr size_t kMostReasons = 24;  // of falling back that are counted each on its own; there are a dozen, and errno's

// What a NIC with `count` of all `queues` may have to carry, a queue of it.
size_t ConnectionsOf(const WorkerOptions& workers, size_t queues, size_t count) {
  return count == 0 ? 0 : (queues * workers.connections + count - 1) / count;
}

// Memory that is mapped and, but for what is written to, not there.
class Reserved {
 public:
  explicit Reserved(size_t bytes) {
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) span_ = {static_cast<std::byte*>(at), bytes};
  }
  ~Reserved() {
    if (!span_.empty()) munmap(span_.data(), span_.size());
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  [[nodiscard]] std::span<std::byte> span() const { return span_; }

 private:
  std::span<std::byte> span_;
};

class DevmemTransport final : public WorkerTransport {
 public:
  DevmemTransport(const WorkerOptions& workers, const DevmemOptions& options, std::shared_ptr<Device> device)
      : workers_(workers), options_(options), device_(std::move(device)) {}

  ~DevmemTransport() override {
    Halt();
    for (const auto& nic : nics_) {
      if (nic->binding == nullptr) continue;
      if (!ours_) {
        nic->binding->Forget();
      } else if (const absl::Status undone = nic->binding->Undo(Clock::now() + kUndo); !undone.ok()) {
        options_.say(Severity::kWarning,
                     absl::StrCat("NIC ", nic->binding->interface(), " is not wholly as it was: ", Text(undone)));
      }
    }
  }

  absl::Status SetUp() {
    asked_ = {.interfaces = options_.interfaces, .queues = options_.queues, .landing_pool = options_.landing_pool};
    ours_ = true;  // also what fails on its way
    DEVMEM_ASSIGN_OR_RETURN(
        const Placement placement,
        ChoosePlacement({.interfaces = options_.interfaces, .queues = options_.queues, .near_pci = options_.near_pci}));
    for (const std::string& note : placement.notes) options_.say(Severity::kInfo, note);
    size_t queues = 0;
    for (const NicPlacement& place : placement.nics) queues += place.queues.size();
    for (const NicPlacement& place : placement.nics) {
      auto nic = std::make_unique<Nic>();
      nic->demand = {.queues = place.queues.size(), .connections = Connections(queues, place.queues.size())};
      DEVMEM_RETURN_IF_ERROR(MakePool(place, *nic));
      nics_.push_back(std::move(nic));
    }
    for (size_t i = 0; i < nics_.size(); ++i) DEVMEM_RETURN_IF_ERROR(Bind(placement.nics[i], *nics_[i]));
    return GoOn();
  }

  absl::Status Adopt(TransportParts parts) {
    asked_ = {.interfaces = std::move(parts.interfaces), .queues = parts.queues, .landing_pool = parts.landing_pool};
    SayWhatDiffers();
    size_t queues = 0;
    for (const TransportParts::Nic& part : parts.nics) queues += part.binding.queues.size();
    for (TransportParts::Nic& part : parts.nics) {
      const size_t count = part.binding.queues.size();
      Nic& nic =
          *nics_.emplace_back(std::make_unique<Nic>());  // what fails on its way is forgotten with the others, not undone
      nic.demand = {.queues = count, .connections = Connections(queues, count)};
      DEVMEM_RETURN_IF_ERROR(Adopt(std::move(part), nic));
    }
    return Prepare();
  }

  absl::Status GoOn() override {
    if (monitor_.joinable()) return absl::OkStatus();  // it was never halted
    ours_ = true;
    if (steering_ == nullptr) DEVMEM_RETURN_IF_ERROR(Prepare());
    DEVMEM_RETURN_IF_ERROR(steering_->Begin());
    monitor_ = std::thread([this] { Monitor(); });
    pthread_setname_np(monitor_.native_handle(), "rx-monitor");
    (void)path();  // before there is a stream to tell
    return absl::OkStatus();
  }
  absl::StatusOr<TransportParts> HandOver() override {
    for (size_t i = 0; i < nics_.size(); ++i) DEVMEM_RETURN_IF_ERROR(Ready(i));
    Halt();
    return Parts(/*offer=*/false);
  }

  absl::StatusOr<TransportParts> OfferHandOver() override {
    std::lock_guard bound(rebinding_);  // not while a binding changes
    for (size_t i = 0; i < nics_.size(); ++i) DEVMEM_RETURN_IF_ERROR(Ready(i));
    return Parts(/*offer=*/true);
  }

  void Forget() override {
    ours_ = false;
    for (const auto& nic : nics_) nic->binding->Forget();
  }

  [[nodiscard]] PathInfo path() override {
    PathInfo info{.name = "devmem"};
    std::vector<std::string> parts;
    for (const auto& each : nics_) {
      RxBinding* const binding = each->binding.get();
      info.landing_pool += each->landing->bytes();
      PathInfo::Nic nic{.interface = binding->interface(),
                        .driver = binding->driver(),
                        .dmabuf_id = binding->dmabuf_id(),
                        .page_size = binding->page_size(),
                        .posted = binding->posted(),
                        .rules = binding->rules(),
                        .rule_capacity = binding->rule_capacity(),
                        .landing_pool = each->landing->bytes(),
                        .rebinds = each->rebinds.load(std::memory_order_relaxed)};
      for (const BoundQueue& queue : binding->queues()) nic.queues.push_back(queue.queue);
      if (const absl::StatusOr<RxState> state = binding->Look(); state.ok()) {
        nic.inflight = state->inflight;
        nic.detached_pools = state->detached;
        nic.alloc_fail = state->alloc_fail;
        nic.packets = state->packets;
        nic.intact = state->intact;
        nic.why = state->why;
      } else {
        nic.intact = false;
        nic.why = Text(state.status());
      }
      parts.push_back(absl::StrCat(nic.interface, " (", nic.driver, ") queue", nic.queues.size() == 1 ? " " : "s ",
                                   absl::StrJoin(nic.queues, ","),
                                   nic.intact ? "" : absl::StrCat(", NOT bound now: ", nic.why)));
      info.nics.push_back(std::move(nic));
    }
    utsname kernel{};
    uname(&kernel);
    info.reason = absl::StrCat("device-memory TCP on ", absl::StrJoin(parts, ", "),
                               nics_.size() == 1 ? "; landing pool of " : "; landing pools of ", info.landing_pool / kMiB,
                               " MiB on ", std::string(device_->name()), "; kernel ", kernel.release);
    {
      std::lock_guard lock(mutex_);
      last_path_ = info;
    }
    FillCounters(info);
    return info;
  }

  [[nodiscard]] PathInfo last_path() override {
    PathInfo info;
    {
      std::lock_guard lock(mutex_);
      info = last_path_;
    }
    FillCounters(info);
    return info;
  }

 private:
  // Duplicates of what each NIC has.
  absl::StatusOr<TransportParts> Parts(bool offer) {
    TransportParts parts{.interfaces = asked_.interfaces, .queues = asked_.queues, .landing_pool = asked_.landing_pool};
    for (const auto& nic : nics_) {
      TransportParts::Nic part;
      DEVMEM_ASSIGN_OR_RETURN(part.binding, offer ? nic->binding->Offer() : nic->binding->Share());
      DEVMEM_ASSIGN_OR_RETURN(part.landing, nic->landing->ExportHandle());
      part.dmabuf = UniqueFd(fcntl(nic->dmabuf.get(), F_DUPFD_CLOEXEC, 0));
      if (!part.dmabuf.valid()) return ErrnoError(errno, "duplicating a dma-buf", {.object = nic->binding->interface()});
      parts.nics.push_back(std::move(part));
    }
    return parts;
  }

  void FillCounters(PathInfo& info) {
    const auto get = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
    info.counters = {.device_bytes = get(counters_.device_bytes),
                     .host_bytes = get(counters_.host_bytes),
                     .linear_bytes = get(counters_.linear_bytes),
                     .head_bytes = get(counters_.head_bytes),
                     .fragments = get(counters_.fragments),
                     .tokens_outstanding = get(counters_.tokens),
                     .tokens_refused = get(counters_.tokens_refused),
                     .receive_calls = get(counters_.receives),
                     .return_calls = get(counters_.returns),
                     .connections_steered = get(counters_.steered),
                     .connections_fallen_back = get(counters_.fallen_back)};
    std::lock_guard lock(mutex_);
    info.counters.last_fall_back = last_fall_back_;
    info.counters.fall_backs = fall_backs_;
  }

  // Everything that changes nothing on a NIC, and may fail for what was asked: a successor does so before it says that it can.
  absl::Status Prepare() {
    std::vector<RxBinding*> bindings;
    receive_buffer_ = kReceiveBuffer;
    for (const auto& nic : nics_) {
      bindings.push_back(nic->binding.get());
      // A connection's is chosen before its route is known, and under a bond it has several: what suits them all.
      receive_buffer_ = std::min(receive_buffer_, nic->demand.receive_buffer);
    }
    DEVMEM_ASSIGN_OR_RETURN(steering_,
                            FlowSteering::Create(bindings, options_.steering, [this](size_t nic) { return Ready(nic); }));
    return StartQueues();
  }

  // With the memory that it alone writes to. `ready` is guarded by mutex_; all else is as SetUp() left it.
  struct Nic {
    PoolDemand demand;
    std::shared_ptr<DeviceMemory> landing;
    UniqueFd dmabuf;
    std::unique_ptr<RxBinding> binding;
    uint64_t posted = 0;  // bytes the rings held just after the bind
    absl::Status ready;   // whether it is bound now, and why not
    std::atomic<uint64_t> rebinds{0};
  };

  struct Queue {
    DevmemQueue stream;
    Reserved staging{kStaging};
    Reserved control{kControl};
  };

  // Takes down all but the bindings: every connection is closed, no rule of ours is left.
  void Halt() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (monitor_.joinable()) monitor_.join();
    StopWorkers();
    queues_.clear();
    steering_.reset();
    std::lock_guard lock(mutex_);
    stopping_ = false;
  }

  // What a NIC with `count` of all `queues` may have to carry, a queue of it: all workers' connections may come by it, by its
  // route.
  [[nodiscard]] size_t Connections(size_t queues, size_t count) const { return ConnectionsOf(workers_, queues, count); }

  static uint64_t PageSize() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

  // The pool that suits the connections; where that is refused and nobody asked for so much, half of it, and so on.
  absl::Status MakePool(const NicPlacement& place, Nic& nic) {
    DEVMEM_ASSIGN_OR_RETURN(const std::unique_ptr<Ethtool> ethtool, Ethtool::Open());
    DEVMEM_ASSIGN_OR_RETURN(const Rings rings, ethtool->GetRings(place.interface));
    PoolDemand& demand = nic.demand;
    demand.ring = rings.rx;
    absl::Status refused;
    for (const uint64_t page : {uint64_t{kLargestPage}, PageSize()}) {
      demand.page_size = page;
      demand.receive_buffer = kReceiveBuffer;
      uint64_t bytes = options_.landing_pool != 0 ? options_.landing_pool : LandingPoolSize(demand).bytes();
      while (true) {
        const absl::StatusOr<uint64_t> room = ReceiveBufferFor(bytes, demand, kLeastReceiveBuffer);
        if (!room.ok()) {
          if (refused.ok() || options_.landing_pool != 0) refused = room.status();
          break;
        }
        refused = Allocate(bytes, page > PageSize(), nic);
        if (refused.ok()) return absl::OkStatus();
        if (options_.landing_pool != 0 || page > PageSize()) break;  // huge pages: those set aside or none
        bytes /= 2;
      }
    }
    return refused;
  }

  absl::Status Allocate(uint64_t bytes, bool huge_pages, Nic& nic) {
    DEVMEM_ASSIGN_OR_RETURN(nic.landing,
                            device_->Allocate(bytes, {.name = "landing-pool", .dma_buf = true, .huge_pages = huge_pages}));
    DEVMEM_ASSIGN_OR_RETURN(nic.dmabuf, nic.landing->ExportDmaBuf());
    return absl::OkStatus();
  }

  absl::Status Bind(const NicPlacement& place, Nic& nic) {
    PoolDemand& demand = nic.demand;
    DEVMEM_ASSIGN_OR_RETURN(
        nic.binding,
        RxBinding::Create({.interface = place.interface,
                           .queues = place.queues,
                           .dmabuf_fd = nic.dmabuf.get(),
                           .page_size = demand.page_size > PageSize() ? static_cast<uint32_t>(demand.page_size) : 0,
                           .journal_folder = options_.journal_folder}));
    return Measure(nic);
  }

  absl::Status Adopt(TransportParts::Nic part, Nic& nic) {
    const std::string interface = part.binding.interface;
    DEVMEM_ASSIGN_OR_RETURN(nic.landing, device_->Import(std::move(part.landing), "landing-pool"));
    nic.dmabuf = std::move(part.dmabuf);
    DEVMEM_ASSIGN_OR_RETURN(nic.binding, RxBinding::Adopt(std::move(part.binding), options_.journal_folder));
    DEVMEM_ASSIGN_OR_RETURN(const std::unique_ptr<Ethtool> ethtool, Ethtool::Open());
    DEVMEM_ASSIGN_OR_RETURN(const Rings rings, ethtool->GetRings(interface));
    nic.demand.ring = rings.rx;
    return Measure(nic);
  }

  void SayWhatDiffers() {
    std::vector<std::string> differs;
    const auto compare = [&](const char* flag, const std::string& bound, const std::string& wanted) {
      if (bound != wanted) differs.push_back(absl::StrCat(flag, " ", wanted, " (it is ", bound, ")"));
    };
    const auto named = [](const std::vector<std::string>& names) {
      return names.empty() ? "of its own choice" : absl::StrJoin(names, ",");
    };
    compare("--interface", named(asked_.interfaces), named(options_.interfaces));
    compare("--queues", absl::StrCat(asked_.queues), absl::StrCat(options_.queues));
    compare("--landing-pool", absl::StrCat(asked_.landing_pool), absl::StrCat(options_.landing_pool));
    if (differs.empty()) return;
    options_.say(Severity::kWarning, absl::StrCat("what is taken over stays as it was bound; from the next cold start on: ",
                                                  absl::StrJoin(differs, ", ")));
  }

  // How much a connection may receive, once it is known what is bound.
  absl::Status Measure(Nic& nic) {
    PoolDemand& demand = nic.demand;
    landings_[nic.binding->dmabuf_id()] = nic.landing.get();
    // It may have taken smaller buffers than asked for: then the rings hold less, and connections may have more.
    demand.page_size = nic.binding->page_size();
    nic.posted = nic.binding->posted() * demand.page_size;
    DEVMEM_ASSIGN_OR_RETURN(const uint64_t room, ReceiveBufferFor(nic.landing->bytes(), demand, kLeastReceiveBuffer));
    demand.receive_buffer = std::min(room, kReceiveBuffer);
    options_.say(Severity::kInfo,
                 absl::StrCat("landing pool of ", nic.binding->interface(), ": ", nic.landing->bytes(), " bytes for ",
                              LandingPoolSize(demand).ToString(), "; the rings hold ", nic.posted, " bytes; ",
                              nic.binding->by_handle() ? "bound by a handle of devmem_binding"
                                                       : "bound without devmem_binding: a kill leaves rules, RSS "
                                                         "and header split to the next start"));
    return absl::OkStatus();
  }

  absl::Status StartQueues() {
    std::vector<BoundQueue> bound;
    for (const auto& nic : nics_) {
      bound.insert(bound.end(), nic->binding->queues().begin(), nic->binding->queues().end());
    }
    for (size_t i = 0; i < bound.size(); ++i) {
      auto queue = std::make_unique<Queue>();
      if (queue->staging.span().empty() || queue->control.span().empty()) {
        return MakeError(absl::StatusCode::kResourceExhausted, "cannot reserve receive buffers",
                         {.length = kStaging + kControl});
      }
      queue->stream = {.device = device_.get(),
                       .steering = steering_.get(),
                       .queue = i,
                       .receive_buffer = receive_buffer_,
                       .max_steered = workers_.connections,
                       .counters = &counters_,
                       .fell_back = [this](const absl::Status& why) { FellBack(why); },
                       .landing = [this](uint32_t id) { return Landing(id); },
                       .staging = queue->staging.span(),
                       .control = queue->control.span()};
      queues_.push_back(std::move(queue));
    }
    WorkerOptions options = workers_;
    options.workers = bound.size();
    options.connections_in_all = true;  // the landing pool has room for so many of a queue
    options.backend = Reactor::Backend::kEpoll;
    options.device = device_;  // for files
    DEVMEM_RETURN_IF_ERROR(
        StartWorkers(options, [this](size_t worker, Reactor& loop, TransferCounters& counters, StagingPool*) {
          DevmemQueue& queue = queues_[worker]->stream;
          queue.reactor = &loop;
          queue.gather = &counters.gather;
          return [&queue](ByteStream::Owner& owner) { return std::make_unique<DevmemStream>(queue, owner); };
        }));
    for (size_t i = 0; i < bound.size(); ++i) Pin(thread(i), bound[i]);
    return absl::OkStatus();
  }

  // Beside the queue's interrupt: on the CPUs it may go to, where they are fewer than all.
  static void Pin(std::thread& worker, const BoundQueue& queue) {
    if (queue.cpus.empty()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : queue.cpus) CPU_SET(static_cast<size_t>(cpu), &set);
    pthread_setaffinity_np(worker.native_handle(), sizeof set,
                           &set);  // refused in a cpuset without them: then it runs anywhere
  }

  absl::Status Ready(size_t nic) {
    std::lock_guard lock(mutex_);
    return nics_[nic]->ready;
  }

  DeviceMemory* Landing(uint32_t id) {
    const auto find = [this, id]() -> DeviceMemory* {
      std::lock_guard lock(mutex_);
      const auto found = landings_.find(id);
      return found == landings_.end() ? nullptr : found->second;
    };
    if (DeviceMemory* const known = find(); known != nullptr) return known;
    std::lock_guard until_bound(rebinding_);  // payload may be here before the answer that tells the id
    return find();
  }

  void FellBack(const absl::Status& why) {
    bool first = false;
    {
      std::lock_guard lock(mutex_);
      last_fall_back_ = Text(why);
      first = told_.insert(OnceKey(why)).second;
      const std::string reason = LabelOf(why);
      const bool known = fall_backs_.contains(reason) || fall_backs_.size() < kMostReasons;
      ++fall_backs_[known ? reason : "other"];
      look_now_ = true;
    }
    wake_.notify_all();
    if (first) options_.say(Severity::kWarning, absl::StrCat("a connection falls back to host memory: ", Text(why)));
  }

  void Monitor() {
    std::vector<BindingWatch> watches;
    for (const auto& nic : nics_) {
      watches.emplace_back(
          *nic->binding, [this, &nic = *nic] { return Rebind(nic); }, options_.say);
    }
    uint64_t receives = 0;
    bool holding = false, lost = false;
    while (true) {
      const uint64_t now_received = counters_.receives.load(std::memory_order_relaxed);
      const bool busy = std::exchange(receives, now_received) != now_received;
      {
        std::unique_lock lock(mutex_);
        wake_.wait_for(lock, busy || holding || lost ? kLookBusy : kLookIdle, [this] { return stopping_ || look_now_; });
        if (stopping_) return;
        look_now_ = false;
      }
      bool full = false;
      lost = false;
      for (size_t i = 0; i < nics_.size(); ++i) {
        Nic& nic = *nics_[i];
        const BindingWatch::Seen seen = watches[i].Look(Clock::now());
        lost |= !seen.ready.ok();
        {
          std::lock_guard lock(mutex_);
          nic.ready = seen.ready;
        }
        // Buffers that page pools keep for reuse count as inflight, and are as good as free.
        const uint64_t kept = nic.binding->posted() + MostKept(nic.demand);
        const uint64_t out = (seen.inflight - std::min(seen.inflight, kept)) * nic.binding->page_size();
        full |= out > (nic.landing->bytes() - nic.posted) / 4 * 3;
      }
      if (full != holding) {
        holding = full;
        Hold(holding);
      }
    }
  }

  absl::Status Rebind(Nic& nic) {
    std::lock_guard binding(rebinding_);
    absl::Status again = nic.binding->Rebind(nic.dmabuf.get());
    if (again.ok()) nic.rebinds.fetch_add(1, std::memory_order_relaxed);
    std::lock_guard lock(mutex_);
    landings_[nic.binding->dmabuf_id()] = nic.landing.get();  // also of a bind after which something else failed
    return again;
  }

  const WorkerOptions workers_;
  const DevmemOptions options_;
  const std::shared_ptr<Device> device_;
  struct {
    std::vector<std::string> interfaces;
    uint64_t queues = 0;
    uint64_t landing_pool = 0;
  } asked_;            // for, when the NICs were bound: by another process, if they were taken over
  bool ours_ = false;  // what is bound is ours to undo; otherwise another process's, that goes on with it
  DevmemCounters counters_;
  std::vector<std::unique_ptr<Nic>> nics_;
  uint64_t receive_buffer_ = 0;
  std::unique_ptr<FlowSteering> steering_;
  std::vector<std::unique_ptr<Queue>> queues_;

  std::mutex rebinding_;  // held by the monitor from before a bind until its id is known. Taken before:
  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  bool stopping_ = false;
  bool look_now_ = false;
  std::string last_fall_back_;
  std::set<std::string> told_;                  // causes of falling back that were said
  std::map<std::string, uint64_t> fall_backs_;  // by cause, without the NIC
  std::map<uint32_t, DeviceMemory*> landings_;  // by every dma-buf id they had
  PathInfo last_path_;                          // without counters
  std::thread monitor_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeDevmemTransport(const WorkerOptions& workers, const DevmemOptions& options,
                                                               std::shared_ptr<Device> device) {
  auto transport = std::make_unique<DevmemTransport>(workers, options, std::move(device));
  DEVMEM_RETURN_IF_ERROR(transport->SetUp());
  return std::unique_ptr<Transport>(std::move(transport));
}

absl::StatusOr<std::unique_ptr<Transport>> AdoptDevmemTransport(const WorkerOptions& workers, const DevmemOptions& options,
                                                                std::shared_ptr<Device> device, TransportParts parts) {
  auto transport = std::make_unique<DevmemTransport>(workers, options, std::move(device));
  DEVMEM_RETURN_IF_ERROR(transport->Adopt(std::move(parts)));
  return std::unique_ptr<Transport>(std::move(transport));
}

absl::Status CouldAdopt(const WorkerOptions& workers, const DevmemOptions& options, const Device& device,
                        const TransportParts& offer) {
  size_t queues = 0;
  for (const TransportParts::Nic& nic : offer.nics) queues += nic.binding.queues.size();
  DEVMEM_RETURN_IF_ERROR(FlowSteering::Fits(options.steering, queues));
  for (const TransportParts::Nic& nic : offer.nics) {
    if (nic.landing.device_uuid != device.uuid()) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("the landing pool lies on ", nic.landing.device_uuid, ", and this daemon's device is ",
                                    std::string(device.uuid())),
                       {.object = nic.binding.interface,
                        .cause = "another device",
                        .action = "give both daemons the same --device, or end the living one (SIGTERM) and start again"});
    }
    const size_t count = nic.binding.queues.size();
    PoolDemand demand{.queues = count, .connections = ConnectionsOf(workers, queues, count)};
    demand.page_size = nic.binding.page_size;
    DEVMEM_ASSIGN_OR_RETURN(const std::unique_ptr<Ethtool> ethtool, Ethtool::Open());
    DEVMEM_ASSIGN_OR_RETURN(const Rings rings, ethtool->GetRings(nic.binding.interface));
    demand.ring = rings.rx;
    DEVMEM_RETURN_IF_ERROR(ReceiveBufferFor(nic.landing.bytes, demand, kLeastReceiveBuffer).status());
  }
  return absl::OkStatus();
}

}  // namespace devmem
