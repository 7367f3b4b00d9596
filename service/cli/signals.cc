// SPDX-License-Identifier: Apache-2.0
#include "service/cli/signals.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, for sigset_t
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace devmem::cli {
namespace {

// Without descriptors for these the process could not be ended in order: better not to start.
int OrDie(int fd, const char* what) {
  if (fd < 0) {
    std::perror(what);
    std::exit(1);
  }
  return fd;
}

}  // namespace

SignalWatcher::SignalWatcher(std::initializer_list<int> signals, Callback callback) : callback_(std::move(callback)) {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = UniqueFd(OrDie(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
  stop_ = UniqueFd(OrDie(::eventfd(0, EFD_CLOEXEC), "eventfd"));
  thread_ = std::thread([this] { Watch(); });
}

SignalWatcher::~SignalWatcher() {
  const uint64_t one = 1;
  while (::write(stop_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  thread_.join();
}

void SignalWatcher::Watch() {
  while (true) {
    std::array<pollfd, 2> fds = {{{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    const Time at = Clock::now();
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) callback_(static_cast<int>(info.ssi_signo), at);
  }
}

}  // namespace devmem::cli
