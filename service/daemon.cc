// SPDX-License-Identifier: Apache-2.0
// Taking things down is the order of the members, reversed: no new connections, streams end, gRPC's threads stop, the
// pool finishes what it has (slabs unmap), the loops stop.
//
// Handing over takes down only what a successor must have alone: nobody is let in, streams end, the transport halts. All else
// stays, so that going on without a successor is to start these again.
#include "service/daemon.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "gpu/make_device.h"
#include "net/copy_transport.h"
#include "net/devmem_transport.h"
#include "net/rx/rx_binding.h"
#include "service/grpc_listener.h"
#include "service/handle_socket.h"
#include "service/http_server.h"
#include "service/loader_service.h"
#include "service/log_event.h"
#include "service/memory_budget.h"
#include "service/memory_limit.h"
#include "service/metrics.h"
#include "service/process_state.h"
#include "service/upgrade_socket.h"
#include "service/worker_pool.h"

namespace devmem {
namespace {

// Opens at once: they wait for their store most of the time, and a store that never answers must not keep others out.
constexpr size_t kOpenThreads = 128;
constexpr size_t kUpkeepThreads = 2;  // slabs going back
constexpr size_t kStatusThreads = 2;
constexpr Duration kEndDeadline = std::chrono::seconds(5);
constexpr Duration kAnswerTimeout = std::chrono::seconds(10);    // for a living daemon to say that it is one
constexpr Duration kHandOverTimeout = std::chrono::seconds(20);  // for it to end its streams, and to hand over
constexpr uint64_t kRangeLines = 20;                             // of the log, about ranges that failed, in each kRangeWindow
constexpr Duration kRangeWindow = std::chrono::seconds(10);
constexpr char kHandleSuffix[] = ".fd";
constexpr uint32_t kUpgradeMode = 0600;
constexpr char kDevmem[] = "devmem";  // PathInfo::name

size_t DefaultWorkers() { return std::clamp<size_t>(std::thread::hardware_concurrency() / 2, 1, 8); }

void SayInLog(Severity severity, std::string_view line) {
  spdlog::log(severity == Severity::kWarning ? spdlog::level::warn : spdlog::level::info, "{}", line);
}

class DaemonImpl final : public Daemon {
 public:
  DaemonImpl(const DaemonOptions& options, std::shared_ptr<Device> device)
      : options_(options), budget_(0), device_(std::move(device)) {
    SetMemoryLimit(options.memory_limit);
  }

  ~DaemonImpl() override {
    upgrade_.reset();
    http_.reset();
    if (listener_ != nullptr) listener_->Stop();
    if (service_ != nullptr) service_->EndAll(Clock::now() + kEndDeadline);
    if (server_ != nullptr) {
      server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
      server_->Wait();
    }
    {
      std::lock_guard lock(serving_mutex_);
      serving_ = nullptr;
    }
    // The last opens and slabs go; they ask handles_ who is still there. What the loops still submit runs on them.
    for (WorkerPool* const pool : {&openers_, &status_, &upkeep_}) pool->Stop();
    transport_.reset();
    handles_.reset();
  }

  absl::Status Start() {
    DEVMEM_RETURN_IF_ERROR(BindHttp());
    RecoverNics();
    if (options_.take_over) {
      DEVMEM_ASSIGN_OR_RETURN(const auto former, Predecessor::Find(options_.socket, Clock::now() + kAnswerTimeout));
      if (former != nullptr) {
        DEVMEM_ASSIGN_OR_RETURN(const bool taken, TakeOver(*former));
        if (taken) return absl::OkStatus();
        spdlog::warn("the daemon to take over from died before it handed anything over: starting cold");
      }
      RecoverNics();  // one that died only now
    }
    if (transport_ == nullptr) DEVMEM_RETURN_IF_ERROR(StartTransport());
    DEVMEM_RETURN_IF_ERROR(SortInherited());
    DEVMEM_ASSIGN_OR_RETURN(UnixListener grpc, Listen("", SOCK_STREAM, options_.socket_mode));
    DEVMEM_ASSIGN_OR_RETURN(UnixListener handles, Listen(kHandleSuffix, SOCK_SEQPACKET, options_.socket_mode));
    std::optional<UnixListener> upgrade;
    if (options_.succeeded) {
      absl::StatusOr<UnixListener> made = Listen(kUpgradeSuffix, SOCK_SEQPACKET, kUpgradeMode);
      if (made.ok()) {
        upgrade.emplace(*std::move(made));
      } else {
        spdlog::warn("no successor will be able to take over from this daemon: {}", Text(made.status()));
      }
    }
    DEVMEM_RETURN_IF_ERROR(StartService(std::move(grpc), std::move(handles)));
    return Serve(std::move(upgrade));
  }

  size_t Drain(Time deadline) override {
    upgrade_.reset();  // who asks now finds nobody
    SetHealth("draining");
    const size_t left = service_->Drain(deadline);
    // Nobody new comes in from here on: what is cut off now shall find the next daemon, not this one.
    listener_->Stop();
    service_->EndAll(Clock::now() + kEndDeadline);
    return left;
  }

  void Reconfigure(const LiveOptions& options) override {
    SetMemoryLimit(options.memory_limit);
    service_->SetDefaultPrefetch(options.default_prefetch);
    service_->SetAccess(options.access);
    std::lock_guard lock(workers_mutex_);
    transport_->SetPolicy(options.policy);
  }

  [[nodiscard]] PathInfo path() override { return transport_->path(); }
  [[nodiscard]] bool sockets_lent() const override { return listener_->socket().lent(); }

 private:
  void SetMemoryLimit(uint64_t asked) {
    const MemoryLimit limit = asked != 0 ? MemoryLimit{.bytes = asked, .source = "as set"} : DefaultMemoryLimit({});
    if (limit.bytes != budget_.limit()) spdlog::info("memory limit: {} bytes, {}", limit.bytes, limit.source);
    budget_.SetLimit(limit.bytes, limit.source);
  }

  // By path. A service manager whose unit names other sockets than --socket would have trainers wait at them for ever.
  absl::Status SortInherited() {
    for (const int fd : options_.inherited) {
      UniqueFd socket(fd);
      sockaddr_un address{};
      socklen_t length = sizeof address;
      if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 || address.sun_family != AF_UNIX) {
        return MakeError(absl::StatusCode::kInvalidArgument, "the service manager passed what is no unix socket",
                         {.object = absl::StrCat("descriptor ", fd), .action = "see the unit's Listen...= lines"});
      }
      inherited_.emplace(address.sun_path, std::move(socket));
    }
    for (const char* const suffix : {"", kHandleSuffix}) {
      if (inherited_.empty() || inherited_.count(absl::StrCat(options_.socket, suffix)) == 1) continue;
      return MakeError(absl::StatusCode::kInvalidArgument,
                       absl::StrCat("the service manager passed ", inherited_.begin()->first, " and not this"),
                       {.object = absl::StrCat(options_.socket, suffix),
                        .cause = "other sockets",
                        .action = "have the socket unit name both, or give --socket as it has it"});
    }
    return absl::OkStatus();
  }

  [[nodiscard]] absl::StatusOr<UnixListener> Listen(const char* suffix, int type, uint32_t mode) {
    const std::string path = absl::StrCat(options_.socket, suffix);
    const auto lent = inherited_.find(path);
    absl::StatusOr<UnixListener> listener = lent == inherited_.end()
                                                ? UnixListener::Listen(path, type, {.mode = mode})
                                                : UnixListener::Inherit(path, type, std::move(lent->second));
    if (options_.take_over && listener.status().code() == absl::StatusCode::kAlreadyExists) {
      return MakeErrorVerbatim(
          listener.status().code(),
          absl::StrCat(Text(listener.status()),
                       ". It has no upgrade socket to take over from: it is of an earlier version, or about to end"),
          GetErrorInfo(listener.status()));
    }
    return listener;
  }

  // Everything that serves, on sockets that let nobody in yet.
  absl::Status StartService(UnixListener grpc, UnixListener handles) {
    DEVMEM_ASSIGN_OR_RETURN(listener_, GrpcListener::On(std::move(grpc), {}));
    DEVMEM_ASSIGN_OR_RETURN(handles_, HandleSocket::On(std::move(handles), {.gone = [this](const HandleSocket::Peer& peer) {
                                                         std::lock_guard lock(serving_mutex_);
                                                         if (serving_ != nullptr) serving_->PeerGone(peer.token);
                                                       }}));
    service_ = std::make_unique<LoaderService>(LoaderService::Parts{.options = &options_,
                                                                    .handles = handles_.get(),
                                                                    .listener = listener_.get(),
                                                                    .transport = transport_.get(),
                                                                    .device = device_,
                                                                    .budget = &budget_,
                                                                    .ledger = &ledger_,
                                                                    .openers = &openers_,
                                                                    .status = &status_,
                                                                    .upkeep = &upkeep_,
                                                                    .say_failed = SaysFailedRanges()});
    {
      std::lock_guard lock(serving_mutex_);
      serving_ = service_.get();
    }
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // a ping for every message, to learn how long a unix socket takes
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr)
      return MakeError(absl::StatusCode::kInternal, "the gRPC server did not start", {.object = options_.socket});
    return absl::OkStatus();
  }

  // Lets trainers in, and a successor where one may come.
  absl::Status Serve(std::optional<UnixListener> upgrade) {
    handles_->Resume();
    listener_->Serve(server_.get());
    {
      std::lock_guard lock(health_mutex_);
      up_ = true;
      why_not_serving_.clear();
    }
    if (http_ != nullptr && options_.take_over) DEVMEM_RETURN_IF_ERROR(ServeHttp());
    if (!upgrade.has_value()) return absl::OkStatus();
    DEVMEM_ASSIGN_OR_RETURN(
        upgrade_,
        UpgradeSocket::On(*std::move(upgrade),
                          {.path = transport_->path().name,
                           .offer = [this] { return Offer(); },
                           .declined = [](const absl::Status& why) { SayDeclined(why); },
                           .hand_over = [this](const UpgradeSocket::Successor& successor) { return HandOver(successor); },
                           .go_on = [this](const absl::Status& why) { return GoOn(why); },
                           .handed_over = [this](const UpgradeSocket::Successor& successor) { HandedOverTo(successor); }}));
    return absl::OkStatus();
  }

  // `why_not` is empty while this daemon serves.
  void SetHealth(const std::string& why_not) {
    {
      std::lock_guard lock(health_mutex_);
      why_not_serving_ = why_not;
    }
    if (grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService(); health != nullptr)
      health->SetServingStatus(why_not.empty());
  }

  // --- metrics and health ---

  // Takes the address, so that one that cannot be had is an error before anything is changed. A successor lets nobody in before
  // it serves: until then whoever asks shall find the daemon before it.
  absl::Status BindHttp() {
    if (options_.metrics_listen.empty()) return absl::OkStatus();
    DEVMEM_ASSIGN_OR_RETURN(const HttpAddress address, HttpAddress::Parse(options_.metrics_listen));
    DEVMEM_ASSIGN_OR_RETURN(http_,
                            HttpServer::Bind(address, {.share = options_.take_over, .socket_mode = options_.socket_mode}));
    return options_.take_over ? absl::OkStatus() : ServeHttp();
  }

  absl::Status ServeHttp() {
    spdlog::info("metrics and health on {}", http_->address().ToString());
    return http_->Serve([this](const std::string& path, HttpServer::Reply reply) { AnswerHttp(path, std::move(reply)); });
  }

  void AnswerHttp(const std::string& path, HttpServer::Reply reply) {
    std::string why_not;
    bool up = false;
    {
      std::lock_guard lock(health_mutex_);
      why_not = why_not_serving_;
      up = up_;
    }
    if (path == "/healthz") {
      if (why_not.empty()) return reply({.body = "serving\n"});
      return reply({.status = 503, .body = absl::StrCat(why_not, "\n")});
    }
    if (path != "/metrics") return reply({.status = 404, .body = "no such page: there are /metrics and /healthz\n"});
    if (!up) return reply({.status = 503, .body = absl::StrCat(why_not, "\n")});
    Scrape(std::move(reply));
  }

  // NICs and loops are asked, which /healthz must not wait for: elsewhere, one at a time, for all who came until then.
  void Scrape(HttpServer::Reply reply) {
    {
      std::lock_guard lock(scrape_mutex_);
      if (scrapes_.size() >= HttpServer::kMostConnections) return reply({.status = 503, .body = "too many ask at once\n"});
      scrapes_.push_back(std::move(reply));
      if (std::exchange(scraping_, true)) return;
    }
    status_.Submit([this] {
      while (true) {
        std::vector<HttpServer::Reply> replies;
        {
          std::lock_guard lock(scrape_mutex_);
          replies.swap(scrapes_);
          scraping_ = !replies.empty();
        }
        if (replies.empty()) return;
        const std::string page = RenderMetrics(service_->Observe(options_.metrics_streams), ReadProcessState());
        for (const HttpServer::Reply& each : replies) each({.type = kMetricsType, .body = page});
      }
    });
  }

  // A store that is down fails thousands of ranges a second: enough of them are said to see which and why.
  void SayFailedRange(const RangeRead& read, const absl::Status& status, std::optional<Duration> wait) {
    const std::optional<uint64_t> kept_back = range_lines_.Admit(Clock::now());
    if (!kept_back.has_value()) return;
    const ErrorInfo info = GetErrorInfo(status);
    std::string cause;
    info.cause.AppendTo(cause);
    std::vector<LogField> fields = {{"stream", std::string(read.stream_id)},
                                    {"range", read.number},
                                    {"object", read.object},
                                    {"offset", read.offset},
                                    {"length", read.length},
                                    {"fault", std::string(Name(info.fault))},
                                    {"scope", std::string(Name(info.scope))},
                                    {"cause", std::move(cause)},
                                    {"retries", uint64_t{read.retries}}};
    std::string text = absl::StrCat("stream ", std::string(read.stream_id), ", range ", read.number);
    if (wait.has_value()) {
      const double seconds = std::chrono::duration<double>(*wait).count();
      fields.push_back({"wait_seconds", seconds});
      absl::StrAppend(&text, " of ", read.object, " is asked for again in ", seconds, " s: ", Text(status));
    } else {
      absl::StrAppend(&text, " failed: ", Text(status));
    }
    if (*kept_back > 0) {
      fields.push_back({"not_said", *kept_back});
      absl::StrAppend(&text, " (", *kept_back, " lines about ranges before this one were not written)");
    }
    LogEvent(spdlog::level::warn, wait.has_value() ? "range_retry" : "range_failed", std::move(fields), text);
  }

  // --- as the successor ---

  // False if the former daemon died before it handed anything over. On error it serves on.
  absl::StatusOr<bool> TakeOver(Predecessor& former) {
    spdlog::info("taking over from the daemon that serves {} (version {}, path {})", options_.socket, former.version(),
                 former.path());
    const bool adopts = former.path() == kDevmem;
    if (adopts && options_.transport == TransportChoice::kCopy) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       "the living daemon receives into device memory, and this one is not to",
                       {.object = options_.socket, .cause = "other transport", .action = "end it (SIGTERM) and start again"});
    }
    if (adopts && former.offer() != nullptr) {
      if (const absl::Status could = CouldAdopt(Workers(), Devmem(), *device_, *former.offer()); !could.ok()) {
        former.Failed(could);
        return could;
      }
    }
    if (!adopts) DEVMEM_RETURN_IF_ERROR(StartTransport());
    DEVMEM_ASSIGN_OR_RETURN(std::optional<HandedOver> handed, former.TakeOver(Clock::now() + kHandOverTimeout));
    if (!handed.has_value()) return false;
    const std::string what = Describe(handed->transport);
    std::optional<UnixListener> upgrade;
    const auto adopt = [&]() -> absl::Status {
      if (adopts) {
        DEVMEM_ASSIGN_OR_RETURN(transport_, AdoptDevmemTransport(Workers(), Devmem(), device_, std::move(handed->transport)));
      }
      DEVMEM_ASSIGN_OR_RETURN(UnixListener grpc, UnixListener::Adopt(options_.socket, SOCK_STREAM, std::move(handed->grpc)));
      DEVMEM_ASSIGN_OR_RETURN(UnixListener handles, UnixListener::Adopt(absl::StrCat(options_.socket, kHandleSuffix),
                                                                        SOCK_SEQPACKET, std::move(handed->handles)));
      DEVMEM_ASSIGN_OR_RETURN(UnixListener next, UnixListener::Adopt(absl::StrCat(options_.socket, kUpgradeSuffix),
                                                                     SOCK_SEQPACKET, std::move(handed->upgrade)));
      upgrade.emplace(std::move(next));
      return StartService(std::move(grpc), std::move(handles));
    };
    if (const absl::Status adopted = adopt(); !adopted.ok()) {
      former.Failed(adopted);
      return adopted;
    }
    if (http_ != nullptr)
      DEVMEM_RETURN_IF_ERROR(http_->Listen());  // whoever comes from here on waits for us, or finds the other
    DEVMEM_RETURN_IF_ERROR(former.Adopted());
    listener_->socket().Own(options_.socket_mode);
    handles_->socket().Own(options_.socket_mode);
    upgrade->Own(kUpgradeMode);
    DEVMEM_RETURN_IF_ERROR(transport_->GoOn());
    DEVMEM_RETURN_IF_ERROR(Serve(std::move(upgrade)));
    spdlog::info("taken over from version {} (pid {} there): {}. Nobody served for {:.1f} ms; {} streams resume by cursor",
                 handed->version, handed->pid, what, Milliseconds(Clock::now() - handed->stopped), handed->streams);
    return true;
  }

  static double Milliseconds(Duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

  // For the log.
  static std::string Describe(const TransportParts& parts) {
    if (parts.nics.empty()) return "the sockets; no NIC";
    std::vector<std::string> nics;
    for (const TransportParts::Nic& nic : parts.nics) {
      nics.push_back(absl::StrCat(nic.binding.interface, " queue", nic.binding.queues.size() == 1 ? " " : "s ",
                                  absl::StrJoin(nic.binding.queues, ","), " (dma-buf ", nic.binding.dmabuf_id, ", ",
                                  nic.binding.by_handle ? "by a binding handle" : "by its netlink socket", ")"));
    }
    return absl::StrCat("the sockets and ", absl::StrJoin(nics, ", "), "; no queue was restarted");
  }

  // --- as the one before: on the upgrade socket's thread ---

  absl::StatusOr<TransportParts> Offer() {
    std::lock_guard lock(workers_mutex_);
    return transport_->OfferHandOver();
  }

  static void SayDeclined(const absl::Status& why) {
    spdlog::warn("not handed over: {}. Nothing was stopped for it; this daemon serves on", Text(why));
  }

  absl::StatusOr<HandedOver> HandOver(const UpgradeSocket::Successor& successor) {
    spdlog::info("handing over to version {} (pid {})", successor.version, successor.pid);
    HandedOver handed{.stopped = Clock::now()};
    DEVMEM_ASSIGN_OR_RETURN(handed.grpc, listener_->socket().Share());
    DEVMEM_ASSIGN_OR_RETURN(handed.handles, handles_->socket().Share());
    stopped_ = handed.stopped;
    SetHealth("handing over to a successor");
    listener_->Stop();
    handles_->Pause();
    DEVMEM_ASSIGN_OR_RETURN(const size_t streams, service_->Pause(Clock::now() + kEndDeadline));
    handed.streams = static_cast<uint32_t>(streams);
    {
      std::lock_guard lock(workers_mutex_);
      DEVMEM_ASSIGN_OR_RETURN(handed.transport, transport_->HandOver());
    }
    handed_what_ = Describe(handed.transport);
    return handed;
  }

  absl::Status GoOn(const absl::Status& why) {
    absl::Status status;
    {
      std::lock_guard lock(workers_mutex_);
      status = transport_->GoOn();
    }
    if (!status.ok()) {
      spdlog::error("not handed over ({}), and cannot go on: {}", Text(why), Text(status));
      options_.succeeded(status);
      return status;
    }
    service_->Resume();
    handles_->Resume();
    listener_->Serve(server_.get());
    SetHealth("");
    spdlog::warn("not handed over: {}. Nobody served for {:.1f} ms; this daemon serves on", Text(why),
                 Milliseconds(Clock::now() - stopped_));
    return absl::OkStatus();
  }

  void HandedOverTo(const UpgradeSocket::Successor& successor) {
    http_.reset();  // the successor listens, or will in a moment
    listener_->socket().Leave();
    handles_->socket().Leave();
    options_.succeeded(absl::OkStatus());  // from here on the files are another's; who ends us waits for this thread
    transport_->Forget();
    spdlog::info("handed over to version {} (pid {}) in {:.1f} ms: {}", successor.version, successor.pid,
                 Milliseconds(Clock::now() - stopped_), handed_what_);
  }

  // --- how bytes arrive ---

  void RecoverNics() const {
    for (const std::string& done : Recover(options_.journal_folder)) spdlog::warn("after a daemon that was killed: {}", done);
  }

  [[nodiscard]] WorkerOptions Workers() {
    return {.workers = options_.workers != 0 ? options_.workers : DefaultWorkers(),
            .connections = options_.connections,
            .backend = options_.backend,
            .policy = options_.policy,
            .say_failed = SaysFailedRanges(),
            .device = device_};
  }

  [[nodiscard]] SayFailed SaysFailedRanges() {
    return [this](const RangeRead& read, const absl::Status& status, std::optional<Duration> wait) {
      SayFailedRange(read, status, wait);
    };
  }

  [[nodiscard]] DevmemOptions Devmem() const {
    return {.interfaces = options_.interfaces,
            .queues = options_.queues,
            .steering = options_.steering,
            .landing_pool = options_.landing_pool,
            .journal_folder = options_.journal_folder,
            .say = SayInLog};
  }

  absl::Status StartTransport() {
    std::string why = "asked for";
    if (options_.transport != TransportChoice::kCopy) {
      auto devmem = MakeDevmemTransport(Workers(), Devmem(), device_);
      if (devmem.ok()) {
        transport_ = *std::move(devmem);
        return absl::OkStatus();
      }
      if (options_.transport == TransportChoice::kDevmem) return devmem.status();
      why = absl::StrCat("no device-memory receive path here: ", Text(devmem.status()));
    }
    DEVMEM_ASSIGN_OR_RETURN(transport_, MakeCopyTransport(Workers(), why));
    return absl::OkStatus();
  }

  const DaemonOptions options_;
  std::map<std::string, UniqueFd> inherited_;  // by path
  MemoryBudget budget_;
  AccessLedger ledger_;
  const std::shared_ptr<Device> device_;
  std::unique_ptr<Transport> transport_;
  std::mutex workers_mutex_;  // handing over ends and makes workers: not while they are told of a new policy
  // Parsing a large listing takes seconds of a CPU, and whoever opens it waits for its store anyway: payload goes first.
  WorkerPool openers_{kOpenThreads, {.name = "opener", .niceness = 15}};
  WorkerPool status_{kStatusThreads, {.name = "status", .niceness = 10, .from_start = true}};
  WorkerPool upkeep_{kUpkeepThreads, {.name = "upkeep", .from_start = true}};
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<HandleSocket> handles_;
  std::unique_ptr<LoaderService> service_;
  // For the handle socket's thread, which starts before the service and ends after the pool it submits to.
  std::mutex serving_mutex_;
  LoaderService* serving_ = nullptr;  // guarded by serving_mutex_
  std::unique_ptr<grpc::Server> server_;
  LogLimit range_lines_{kRangeLines, kRangeWindow};
  std::mutex health_mutex_;
  std::string why_not_serving_ = "starting";  // guarded by health_mutex_
  bool up_ = false;                           // it has served, so there is something to measure; guarded by health_mutex_
  std::mutex scrape_mutex_;
  std::vector<HttpServer::Reply> scrapes_;  // to be answered by the next page; guarded by scrape_mutex_
  bool scraping_ = false;                   // guarded by scrape_mutex_
  std::unique_ptr<HttpServer> http_;
  // Of its thread, while it hands over.
  Time stopped_{};
  std::string handed_what_;
  std::unique_ptr<UpgradeSocket> upgrade_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options) {
  DEVMEM_ASSIGN_OR_RETURN(std::shared_ptr<Device> device, MakeDevice(options.device));
  return Start(options, std::move(device));
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options, std::shared_ptr<Device> device) {
  auto daemon = std::make_unique<DaemonImpl>(options, std::move(device));
  DEVMEM_RETURN_IF_ERROR(daemon->Start());
  return std::unique_ptr<Daemon>(std::move(daemon));
}

}  // namespace devmem
