// SPDX-License-Identifier: Apache-2.0
#include "service/cli/private_daemon.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/error.h"
#include "service/cli/descriptor_limit.h"

namespace devmem::cli {

absl::StatusOr<std::unique_ptr<PrivateDaemon>> PrivateDaemon::Start(DaemonOptions options) {
  std::unique_ptr<PrivateDaemon> daemon(new PrivateDaemon());
  DEVMEM_ASSIGN_OR_RETURN(daemon->folder_, PrivateFolder::Make());
  if (absl::Status raised = RaiseDescriptorLimit(); !raised.ok()) spdlog::warn("{}", Text(raised));
  options.socket = daemon->socket();
  options.socket_mode = 0600;
  DEVMEM_ASSIGN_OR_RETURN(daemon->daemon_, Daemon::Start(options));
  return daemon;
}

}  // namespace devmem::cli
