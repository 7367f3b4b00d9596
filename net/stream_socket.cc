// SPDX-License-Identifier: Apache-2.0
#include "net/stream_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"

namespace devmem {

absl::StatusOr<UniqueFd> OpenStreamSocket(int family) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd.valid()) {
    const int error = errno;
    if (error != EMFILE && error != ENFILE) return ErrnoError(error, "socket");
    return MakeError(absl::StatusCode::kUnavailable, "no file descriptor is left for a connection",
                     {.fault = Fault::kOutOfDescriptors,
                      .cause = "out of file descriptors",
                      .action = "raise the limit (ulimit -n) or lower --connections"});
  }
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

absl::Status ConnectionError(int error_number, std::string_view what) {
  const absl::Status errno_status = ErrnoError(error_number, what);
  ErrorInfo info = GetErrorInfo(errno_status);
  if (info.fault == Fault::kUnspecified) info.fault = Fault::kConnection;
  return MakeErrorVerbatim(absl::StatusCode::kUnavailable, Text(errno_status), info);
}

absl::Status ConnectionEnded() {
  return MakeError(absl::StatusCode::kUnavailable, "the server closed the connection",
                   {.fault = Fault::kConnectionEnded, .cause = "connection closed"});
}

bool IsQuiet(int fd) {
  // One byte is less than any low water. Bytes in a device's memory, which this cannot read, are another error.
  char byte = 0;
  return ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

void LowWater::Set(int fd, uint64_t bytes) {
  if (bytes == bytes_) return;
  const int mark = static_cast<int>(bytes);
  if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark) == 0) bytes_ = bytes;
}

}  // namespace devmem
