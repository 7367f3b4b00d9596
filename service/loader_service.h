// SPDX-License-Identifier: Apache-2.0
// LoaderService: the gRPC service. Authenticates calls (token and uid), opens streams on the pool, moves events and
// releases between gRPC's threads and the streams' loops.
//
// Threads: gRPC's, the pool's, the loops' and the handle socket's; everything here is thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "devmem_loader/v1/loader.grpc.pb.h"
#include "service/access.h"
#include "service/daemon.h"
#include "service/grpc_listener.h"
#include "service/handle_socket.h"
#include "service/listing_cache.h"
#include "service/memory_budget.h"
#include "service/metrics.h"
#include "service/open_queue.h"
#include "service/stream.h"
#include "service/worker_pool.h"

namespace devmem {

class LoaderService final : public devmem_loader::v1::Loader::CallbackService {
 public:
  struct Parts {  // all outlive the service
    const DaemonOptions* options = nullptr;
    HandleSocket* handles = nullptr;  // set before the first call
    GrpcListener* listener = nullptr;
    Transport* transport = nullptr;
    std::shared_ptr<Device> device;
    MemoryBudget* budget = nullptr;
    AccessLedger* ledger = nullptr;
    WorkerPool* openers = nullptr;
    WorkerPool* status = nullptr;
    WorkerPool* upkeep = nullptr;
    SayFailed say_failed;  // of ranges; may be empty
  };
  explicit LoaderService(Parts parts);
  ~LoaderService() override;

  grpc::ServerBidiReactor<devmem_loader::v1::OpenStreamRequest, devmem_loader::v1::OpenStreamResponse>* OpenStream(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetNodeStatus(grpc::CallbackServerContext* context,
                                          const devmem_loader::v1::GetNodeStatusRequest* request,
                                          devmem_loader::v1::GetNodeStatusResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseStream(grpc::CallbackServerContext* context,
                                          const devmem_loader::v1::ReleaseStreamRequest* request,
                                          devmem_loader::v1::ReleaseStreamResponse* response) override;

  // Of streams that are opened from now on. Thread-safe.
  void SetDefaultPrefetch(uint64_t bytes) { default_prefetch_ = bytes; }

  // Of streams that are opened and status that is asked for from now on. Thread-safe.
  void SetAccess(const AccessRules& access);

  // The node as it stands, for metrics; the `most_streams` that were opened first are described one by one. Asks NICs, kernel
  // and the streams' loops, a second at most: not for gRPC's threads.
  [[nodiscard]] NodeSnapshot Observe(size_t most_streams);

  // The trainer with this token is gone: its streams end, its slabs are retired.
  void PeerGone(const std::string& token);

  // Refuses new streams and waits until the present ones ended or `deadline`. Returns how many are left.
  size_t Drain(Time deadline);
  // Ends every stream with UNAVAILABLE (draining) and waits until nothing of them is left: no call, no read, no slab.
  void EndAll(Time deadline);

  // The same, but waits for what uses the transport only, breaking off calls whose trainers do not read; Resume() lets streams
  // in again. Returns how many there were; kDeadlineExceeded if some are left.
  [[nodiscard]] absl::StatusOr<size_t> Pause(Time deadline);
  void Resume();

 private:
  class StreamCall;
  // A stream from when it is opened until nothing of it is left but, maybe, its slab.
  struct Living {
    std::weak_ptr<StreamCall> call;
    bool released = false;                            // its trainer has nothing of it any more
    std::vector<grpc::ServerUnaryReactor*> releases;  // to be answered when it is gone
  };
  // What a failed stream leaves behind.
  struct Kept {
    std::string stream_id, bucket;
    PeerCredentials peer;
    Time since{};
    bool beyond_quota = false;
    KeptSlab slab;
  };
  struct Streams {  // of one trainer
    size_t open = 0;
    size_t most_open = 0;  // ever, at once
  };

  [[nodiscard]] absl::StatusOr<HandleSocket::Peer> Authenticate(const grpc::CallbackServerContext& context) const;
  // Whether what the trainer keeps of failed streams leaves room for another one.
  [[nodiscard]] absl::Status MayOpen(const std::string& token) const;
  void Opened(StreamCall& call, const std::string& id);
  void Closed(StreamCall& call, const std::string& id, std::optional<KeptSlab> kept);
  [[nodiscard]] Living Forget(const std::string& token, const std::string& id);  // mutex_ held
  void Remove(StreamCall* call);
  size_t EndCalls();
  void AnswerReleases();
  // Has the NICs asked how they stand, so that Transport::last_path() says.
  void RefreshPath();
  // nullopt: of all users' streams.
  void FillStatus(std::optional<uid_t> only_of, devmem_loader::v1::GetNodeStatusResponse* response);
  [[nodiscard]] AccessRules access() const;
  struct Open {
    std::vector<devmem_loader::v1::StreamStatus> streams;  // at most as many as were asked for, the first opened first
    std::vector<bool> answered;                            // whether their loops said how they stand; else no numbers are there
    uint64_t count = 0;                                    // of all
    uint64_t opening = 0;
    uint64_t slots = 0;  // of all
  };
  [[nodiscard]] Open DescribeStreams(const PathInfo& path, size_t most);
  void CountOpened();
  void CountEnd(const absl::Status& status, bool opened);

  const Parts parts_;
  const Time started_ = Clock::now();
  std::atomic<uint64_t> default_prefetch_;
  std::atomic<bool> path_asked_ = false;  // and not answered
  OpenQueue opens_;
  const std::shared_ptr<ListingCache> listings_ = std::make_shared<ListingCache>(parts_.budget);
  NodeCounters counters_;

  mutable std::mutex mutex_;
  AccessRules access_;  // guarded by mutex_
  std::condition_variable changed_;
  std::map<StreamCall*, std::weak_ptr<StreamCall>> calls_;        // guarded by mutex_
  size_t alive_ = 0;                                              // calls with a stream or in gRPC; guarded by mutex_
  std::map<std::pair<std::string, std::string>, Living> living_;  // by token and stream; guarded by mutex_
  std::map<std::string, Streams> streams_of_;                     // by token; guarded by mutex_
  std::multimap<std::string, Kept> kept_;                         // by token; guarded by mutex_
  uint64_t next_id_ = 0;                                          // guarded by mutex_
  size_t next_home_ = 0;                                          // guarded by mutex_
  bool draining_ = false;                                         // guarded by mutex_
  bool ended_ = false;                                            // no stream may begin; guarded by mutex_
  size_t on_transport_ = 0;                                       // calls that have, or will have, a stream; guarded by mutex_

  std::mutex ends_mutex_;                     // never taken with another; calls end wherever gRPC has them end
  uint64_t opened_ = 0;                       // streams, ever; guarded by ends_mutex_
  std::map<std::string, uint64_t> refused_;   // by EndReason(); guarded by ends_mutex_
  std::map<std::string, uint64_t> ended_by_;  // guarded by ends_mutex_
};

}  // namespace devmem
