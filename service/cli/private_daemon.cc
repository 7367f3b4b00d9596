// SPDX-License-Identifier: Apache-2.0
#include "service/cli/private_daemon.h"

#include <utility>

#include "base/error.h"

namespace devmem::cli {

absl::StatusOr<std::unique_ptr<PrivateDaemon>> PrivateDaemon::Start(DaemonOptions options) {
  std::unique_ptr<PrivateDaemon> daemon(new PrivateDaemon());
  DEVMEM_ASSIGN_OR_RETURN(daemon->folder_, PrivateFolder::Make());
  options.socket = daemon->socket();
  options.socket_mode = 0600;
  DEVMEM_ASSIGN_OR_RETURN(daemon->daemon_, Daemon::Start(options));
  return daemon;
}

}  // namespace devmem::cli
