// SPDX-License-Identifier: Apache-2.0
#include "net/copy_transport.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/copy_stream.h"
#include "net/staged_stream.h"

namespace devmem {
namespace {

class CopyTransport final : public WorkerTransport {
 public:
  ~CopyTransport() override { StopWorkers(); }

  absl::Status SetUp(const WorkerOptions& options, const std::string& why) {
    DEVMEM_RETURN_IF_ERROR(
        StartWorkers(options, [](size_t, Reactor& loop, TransferCounters&, StagingPool* staging) -> HttpFetcher::StreamFactory {
          if (staging != nullptr) {
            return [staging](ByteStream::Owner& owner) { return std::make_unique<StagedStream>(*staging, owner); };
          }
          return [&loop](ByteStream::Owner& owner) { return std::make_unique<CopyStream>(loop, owner); };
        }));
    path_ = {.name = "copy",
             .reason = absl::StrCat(why, "; receive loop ", std::string(reactor(0).backend()), ": ",
                                    std::string(reactor(0).reason()))};
    if (staged()) {
      absl::StrAppend(&path_.reason, "; two copies: the CPU's into staging memory (",
                      (StagingPool::kChunks * StagingPool::kChunkBytes) >> 20, " MiB a worker), and from there ",
                      std::string(options.device->name()), "'s own");
    }
    return absl::OkStatus();
  }

  [[nodiscard]] PathInfo path() override { return path_; }

 private:
  PathInfo path_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeCopyTransport(const WorkerOptions& options, const std::string& why) {
  auto transport = std::make_unique<CopyTransport>();
  DEVMEM_RETURN_IF_ERROR(transport->SetUp(options, why));
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace devmem
