// SPDX-License-Identifier: Apache-2.0
#include "service/cli/answers.h"

#include <algorithm>

#include "client/cpp/client.h"

namespace devmem::cli {

absl::Status Answers(const std::string& socket, Time deadline) {
  const Duration left = std::max<Duration>(deadline - Clock::now(), Duration::zero());
  const auto client = Client::Connect("unix:" + socket, {.timeout = left});
  const absl::Status status = client.ok() ? (*client)->GetNodeStatus(deadline).status() : client.status();
  return status.code() == absl::StatusCode::kResourceExhausted ? absl::OkStatus() : status;
}

}  // namespace devmem::cli
