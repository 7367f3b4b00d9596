// SPDX-License-Identifier: Apache-2.0
// HttpFetcher: ranged GETs over HTTP/1.1 on ByteStreams, for one worker. Keeps connections alive per origin, bounds
// their number, retries what may work again at the byte reached, and never mixes two versions of an object.
//
// Threads: the reactor's only.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "net/byte_stream.h"
#include "net/resolver.h"
#include "net/transport.h"

namespace devmem {

class HttpFetcher {
 public:
  // Makes the stream of a new connection; what a transport differs in.
  using StreamFactory = std::function<std::unique_ptr<ByteStream>(ByteStream::Owner& owner)>;

  // At most `connections` to one origin, and `in_all` to all of them: who has more gives way to who has fewer.
  // Counts in `counters`, which outlives it, as `resolver` does; `say_failed` may be empty.
  HttpFetcher(Reactor& reactor, Resolver& resolver, StreamFactory factory, const ReadPolicy& policy, size_t connections,
              size_t in_all, TransferCounters& counters, SayFailed say_failed);
  ~HttpFetcher();  // no read may be under way

  void Start(RangeRead* read, PayloadRequest request);
  void Cancel(RangeRead* read);
  // While on, requests wait that were not yet sent: there is no memory for their answers. For the policy's total time at most:
  // then they fail.
  void Hold(bool hold);
  // For every wait and every retry that begins from now on.
  void SetPolicy(const ReadPolicy& policy) { policy_ = policy; }
  // Closes every connection; `closed` runs when nothing is left. Reads under way must have been cancelled.
  void Shutdown(std::function<void()> closed);

 private:
  struct Task;
  class Connection;
  struct Origin;

  Origin& OriginOf(const PayloadRequest& request);
  void Enqueue(Task* task);
  void Pump(Origin& origin);
  void PumpAll();
  // Whether one more connection may be made. If not, an idle one is made to give way.
  bool HasPlace(const Origin& origin);
  // Whether another origin has work, and so few connections that `origin`, which has more, should give one up.
  [[nodiscard]] bool OwesPlace(const Origin& origin) const;
  void HeldTooLong();
  // An idle connection that the task may use, or null; those that are not quiet are closed.
  Connection* TakeIdle(Origin& origin, const Task& task, bool where_it_failed);
  // Whether there are addresses to connect to now. If not they are on their way, and Pump() follows.
  bool HasAddresses(Origin& origin);
  void Ask(Origin& origin, Time no_older_than);
  void TakeAddresses(Origin& origin, Resolver::Result result);
  void AddressesAreLate(Origin& origin);
  // The name server does not help: goes on with the addresses there are, or fails those that wait for some.
  void WithoutNewAddresses(Origin& origin, const absl::Status& why);
  // Back to the store's own request: a redirect's target is good for one attempt.
  absl::Status StartAgain(Task* task);
  void AttemptFailed(Task* task, absl::Status status, Duration at_least);
  void Finish(Task* task, absl::Status status);
  void Gone(Connection* connection);

  Reactor& reactor_;
  Resolver& resolver_;
  StreamFactory factory_;
  ReadPolicy policy_;
  const size_t max_connections_;
  const size_t max_in_all_;
  TransferCounters& counters_;
  const SayFailed say_failed_;
  size_t in_all_ = 0;   // connections, those that are closing included
  size_t closing_ = 0;  // of them
  std::map<std::pair<std::string, uint16_t>, std::unique_ptr<Origin>> origins_;
  bool held_ = false;
  std::unique_ptr<Reactor::Timer> held_too_long_;
  std::minstd_rand jitter_{std::random_device{}()};
  std::function<void()> shut_down_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace devmem
