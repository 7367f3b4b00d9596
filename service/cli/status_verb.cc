// SPDX-License-Identifier: Apache-2.0
#include "service/cli/status_verb.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "client/cpp/client.h"
#include "service/cli/print.h"
#include "service/cli/summary.h"
#include "service/unix_socket.h"

namespace devmem::cli {
namespace {

using devmem_loader::v1::GetNodeStatusResponse;

// The pid in the answer is the daemon's in its own pid namespace: that of every container's daemon is 1. What the kernel tells
// is whose process last called listen() on the socket, in our namespace, and 0 if it has no number there; a successor calls it
// as it takes over.
absl::Status CheckServedBy(const std::string& service, uint32_t pid) {
  DEVMEM_ASSIGN_OR_RETURN(const std::string path, client::ServicePath(service));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);  // it was connected to: it fits
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoError(errno, "cannot make a socket", {.object = path});
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoError(errno, "cannot ask who serves", {.object = path});
  }
  DEVMEM_ASSIGN_OR_RETURN(const PeerCredentials peer, CredentialsOfSocket(socket.get()));
  if (peer.pid == static_cast<pid_t>(pid)) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   peer.pid == 0 ? absl::StrCat("a process of another pid namespace serves, not ", pid)
                                 : absl::StrCat("process ", peer.pid, " serves, not ", pid),
                   {.object = path,
                    .cause = "another daemon serves",
                    .action = "wait until it has been taken over from, or see the log of process " + std::to_string(pid)});
}

int Show(const StatusOptions& options, std::string (*text)(const GetNodeStatusResponse&),
         std::string (*json)(const GetNodeStatusResponse&)) {
  auto ask = [&]() -> absl::StatusOr<GetNodeStatusResponse> {
    DEVMEM_ASSIGN_OR_RETURN(auto client, Client::Connect(options.service, {.timeout = options.timeout}));
    absl::StatusOr<GetNodeStatusResponse> answer = client->GetNodeStatus(Clock::now() + options.timeout);
    if (answer.ok() && options.pid != 0) DEVMEM_RETURN_IF_ERROR(CheckServedBy(options.service, options.pid));
    return answer;
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
