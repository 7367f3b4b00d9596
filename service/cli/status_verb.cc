// SPDX-License-Identifier: Apache-2.0
#include "service/cli/status_verb.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "client/cpp/client.h"
#include "service/cli/print.h"
#include "service/cli/summary.h"

namespace devmem::cli {
namespace {

using devmem_loader::v1::GetNodeStatusResponse;

int Show(const StatusOptions& options, std::string (*text)(const GetNodeStatusResponse&),
         std::string (*json)(const GetNodeStatusResponse&)) {
  auto ask = [&]() -> absl::StatusOr<GetNodeStatusResponse> {
    DEVMEM_ASSIGN_OR_RETURN(auto client, Client::Connect(options.service, {.timeout = options.timeout}));
    return client->GetNodeStatus(Clock::now() + options.timeout);
  };
  auto node = ask();
  absl::Status status = node.status();
  if (node.ok()) {
    status = PrintOut(options.common.json ? json(*node) : text(*node));
  } else if (options.common.json) {
    static_cast<void>(PrintOut(ErrorJson(status) + "\n"));  // the message below goes out in any case
  }
  if (status.ok()) return kExitOk;
  PrintError(absl::StrCat("devmem-loader: ", status.message(), "\n"));
  return kExitFailed;
}

}  // namespace

int ShowStreams(const StatusOptions& options) { return Show(options, StreamsText, StreamsJson); }
int ShowStatus(const StatusOptions& options) { return Show(options, StatusText, StatusJson); }

}  // namespace devmem::cli
