// SPDX-License-Identifier: Apache-2.0
#include "net/copy_transport.h"

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/copy_stream.h"
#include "net/file_reader.h"
#include "net/http_fetcher.h"
#include "net/resolver.h"

namespace devmem {
namespace {

class CopyTransport final : public Transport {
 public:
  explicit CopyTransport(const CopyTransportOptions& options) : options_(options), resolver_(std::make_unique<Resolver>()) {}

  ~CopyTransport() override {
    resolver_.reset();  // its answers are posted to the loops
    for (const auto& worker : workers_) {
      Worker* const w = worker.get();
      w->reactor->Post([w] { w->fetcher->Shutdown([w] { w->reactor->Stop(); }); });
    }
    for (const auto& worker : workers_) worker->thread.join();
  }

  absl::Status Start() {
    for (size_t i = 0; i < options_.workers; ++i) {
      auto worker = std::make_unique<Worker>();
      DEVMEM_ASSIGN_OR_RETURN(worker->reactor, Reactor::Create(absl::StrCat("rx-", i), options_.backend));
      Reactor& loop = *worker->reactor;
      worker->fetcher = std::make_unique<HttpFetcher>(
          loop, *resolver_, [&loop](ByteStream::Owner& owner) { return std::make_unique<CopyStream>(loop, owner); },
          options_.policy, options_.connections);
      worker->files = std::make_unique<FileReader>(loop);
      worker->thread = std::thread([&loop] { loop.Run(); });
      workers_.push_back(std::move(worker));
    }
    const Reactor& first = *workers_.front()->reactor;
    path_ = {.name = "copy",
             .reason =
                 absl::StrCat("the CPU receives into host memory (this build has no device-memory receive path); receive loop ",
                              std::string(first.backend()), ": ", std::string(first.reason()))};
    return absl::OkStatus();
  }

  [[nodiscard]] const PathInfo& path() const override { return path_; }
  [[nodiscard]] size_t workers() const override { return workers_.size(); }
  [[nodiscard]] Reactor& reactor(size_t worker) override { return *workers_[worker]->reactor; }

  void Start(size_t worker, RangeRead* read) override {
    absl::StatusOr<PayloadRequest> request = read->store->PrepareGet(read->object);
    Worker& on = *workers_[worker];
    if (!request.ok()) {
      on.reactor->Post([read, status = request.status()] {
        read->status = WithObject(status, read->object);
        read->Done();
      });
    } else if (!request->file_path.empty()) {
      on.files->Start(read, request->file_path);
    } else {
      on.fetcher->Start(read, *std::move(request));
    }
  }

  void Cancel(size_t worker, RangeRead* read) override {
    // A store is all files or all HTTP.
    const absl::StatusOr<PayloadRequest> request = read->store->PrepareGet(read->object);
    if (!request.ok()) return;
    if (!request->file_path.empty()) {
      workers_[worker]->files->Cancel(read);
    } else {
      workers_[worker]->fetcher->Cancel(read);
    }
  }

 private:
  struct Worker {
    std::unique_ptr<Reactor> reactor;
    std::unique_ptr<HttpFetcher> fetcher;
    std::unique_ptr<FileReader> files;
    std::thread thread;
  };

  const CopyTransportOptions options_;
  std::unique_ptr<Resolver> resolver_;
  std::vector<std::unique_ptr<Worker>> workers_;
  PathInfo path_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeCopyTransport(const CopyTransportOptions& options) {
  auto transport = std::make_unique<CopyTransport>(options);
  DEVMEM_RETURN_IF_ERROR(transport->Start());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace devmem
