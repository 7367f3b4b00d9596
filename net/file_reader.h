// SPDX-License-Identifier: Apache-2.0
// FileReader: ranges of local files, for one worker. The file is opened a range, and its identity, size and time of
// change are compared with the listing before and after, so that a file rewritten in mid-read is an error.
//
// Threads: the reactor's only.
#pragma once

#include <functional>
#include <string>

#include "net/transport.h"

namespace devmem {

class FileReader {
 public:
  explicit FileReader(Reactor& reactor) : reactor_(reactor) {}
  void Start(RangeRead* read, const std::string& path);
  void Cancel(RangeRead* read);

 private:
  struct Task;
  Reactor& reactor_;
};

}  // namespace devmem
