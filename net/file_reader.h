// SPDX-License-Identifier: Apache-2.0
// FileReader: ranges of local files, for one worker. At most kMaxOpen files are open at a time, the other reads wait in
// the order they came; fewer where descriptors run out. The file is opened a range, and its identity, size and time of
// change are compared with the listing before and after, so that a file rewritten in mid-read is an error.
//
// With `staging`, which must outlive it, destinations are memory that the CPU cannot write.
//
// Threads: the reactor's only.
#pragma once

#include <list>
#include <string>

#include "net/staging_pool.h"
#include "net/transport.h"

namespace devmem {

class FileReader {
 public:
  explicit FileReader(Reactor& reactor, StagingPool* staging = nullptr) : reactor_(reactor), staging_(staging) {}
  void Start(RangeRead* read, const std::string& path);
  void Cancel(RangeRead* read);

  static constexpr size_t kMaxOpen = 64;

 private:
  struct Staged;
  struct Task;

  void SchedulePump();
  void Pump();
  bool Begin(Task* task);  // false: no descriptor is left, wait for one of ours

  Reactor& reactor_;
  StagingPool* const staging_;
  std::list<Task*> queue_;
  size_t open_ = 0;
  bool pump_posted_ = false;
};

}  // namespace devmem
