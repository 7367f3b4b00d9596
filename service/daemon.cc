// SPDX-License-Identifier: Apache-2.0
// Taking things down is the order of the members, reversed: no new connections, streams end, gRPC's threads stop, the
// pool finishes what it has (slabs unmap), the loops stop.
#include "service/daemon.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "gpu/cpu_device.h"
#include "net/copy_transport.h"
#include "net/devmem_transport.h"
#include "net/rx/rx_binding.h"
#include "service/grpc_listener.h"
#include "service/handle_socket.h"
#include "service/loader_service.h"
#include "service/memory_budget.h"
#include "service/worker_pool.h"

namespace devmem {
namespace {

// Opens at once: they wait for their store most of the time, and a store that never answers must not keep others out.
constexpr size_t kOpenThreads = 128;
constexpr size_t kUpkeepThreads = 2;  // slabs going back
constexpr size_t kStatusThreads = 2;
constexpr Duration kEndDeadline = std::chrono::seconds(5);

uint64_t HalfOfMemory() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) / 2 * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

size_t DefaultWorkers() { return std::clamp<size_t>(std::thread::hardware_concurrency() / 2, 1, 8); }

void SayInLog(Severity severity, std::string_view line) {
  spdlog::log(severity == Severity::kWarning ? spdlog::level::warn : spdlog::level::info, "{}", line);
}

class DaemonImpl final : public Daemon {
 public:
  explicit DaemonImpl(const DaemonOptions& options)
      : options_(options),
        budget_(options.memory_limit != 0 ? options.memory_limit : HalfOfMemory()),
        device_(MakeCpuDevice()) {}

  ~DaemonImpl() override {
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
    DEVMEM_RETURN_IF_ERROR(StartTransport());
    DEVMEM_ASSIGN_OR_RETURN(listener_, GrpcListener::Create(options_.socket, {.mode = options_.socket_mode}));
    DEVMEM_ASSIGN_OR_RETURN(handles_, HandleSocket::Create(options_.socket, {.mode = options_.socket_mode,
                                                                             .gone = [this](const HandleSocket::Peer& peer) {
                                                                               std::lock_guard lock(serving_mutex_);
                                                                               if (serving_ != nullptr)
                                                                                 serving_->PeerGone(peer.token);
                                                                             }}));
    service_ = std::make_unique<LoaderService>(LoaderService::Parts{.options = &options_,
                                                                    .handles = handles_.get(),
                                                                    .listener = listener_.get(),
                                                                    .transport = transport_.get(),
                                                                    .device = device_,
                                                                    .budget = &budget_,
                                                                    .openers = &openers_,
                                                                    .status = &status_,
                                                                    .upkeep = &upkeep_});
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
    listener_->Serve(server_.get());
    return absl::OkStatus();
  }

  size_t Drain(Time deadline) override {
    if (grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService(); health != nullptr)
      health->SetServingStatus(false);
    const size_t left = service_->Drain(deadline);
    // Nobody new comes in from here on: what is cut off now shall find the next daemon, not this one.
    listener_->Stop();
    service_->EndAll(Clock::now() + kEndDeadline);
    return left;
  }

  [[nodiscard]] PathInfo path() override { return transport_->path(); }

 private:
  absl::Status StartTransport() {
    for (const std::string& done : Recover(options_.journal_folder)) spdlog::warn("after a daemon that was killed: {}", done);
    const WorkerOptions workers{.workers = options_.workers != 0 ? options_.workers : DefaultWorkers(),
                                .connections = options_.connections,
                                .backend = options_.backend,
                                .policy = options_.policy};
    std::string why = "asked for";
    if (options_.transport != TransportChoice::kCopy) {
      auto devmem = MakeDevmemTransport(workers,
                                        {.interfaces = options_.interfaces,
                                         .queues = options_.queues,
                                         .steering = options_.steering,
                                         .landing_pool = options_.landing_pool,
                                         .journal_folder = options_.journal_folder,
                                         .say = SayInLog},
                                        device_);
      if (devmem.ok()) {
        transport_ = *std::move(devmem);
        return absl::OkStatus();
      }
      if (options_.transport == TransportChoice::kDevmem) return devmem.status();
      why = absl::StrCat("no device-memory receive path here: ", Text(devmem.status()));
    }
    DEVMEM_ASSIGN_OR_RETURN(transport_, MakeCopyTransport(workers, why));
    return absl::OkStatus();
  }

  const DaemonOptions options_;
  MemoryBudget budget_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<Transport> transport_;
  WorkerPool openers_{kOpenThreads};
  WorkerPool status_{kStatusThreads};
  WorkerPool upkeep_{kUpkeepThreads};
  std::unique_ptr<GrpcListener> listener_;
  std::unique_ptr<HandleSocket> handles_;
  std::unique_ptr<LoaderService> service_;
  // For the handle socket's thread, which starts before the service and ends after the pool it submits to.
  std::mutex serving_mutex_;
  LoaderService* serving_ = nullptr;  // guarded by serving_mutex_
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options) {
  auto daemon = std::make_unique<DaemonImpl>(options);
  DEVMEM_RETURN_IF_ERROR(daemon->Start());
  return std::unique_ptr<Daemon>(std::move(daemon));
}

}  // namespace devmem
